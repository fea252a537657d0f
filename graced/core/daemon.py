"""The whole daemon as a state machine: its pools, their order, its stop.

Theory of operation. ``handle(event, now)`` first changes what the event is about, and nothing
else; then ``_settle()`` applies the rules that follow from the state, whatever led to it; what is
to be done comes back as actions. ``next_deadline()`` says when to hand in the next
:class:`~graced.core.events.Tick`. Time and chance are arguments: the same events give the same
actions.

The rules:

1.  A pool starts once all pools that it comes ``after`` are complete. The daemon is ready when
    every pool is; only then READY=1 is told.
2.  Before it was ever ready, a pool that cannot load its code, or whose probe dies, ends the
    daemon. After that nothing ends it but a stop.
3.  A stop drains the pools in the opposite order: a pool outlives those that come after it. A
    SIGINT interrupts every worker at once, another one kills them.
4.  A stop ends the reload under way, and its clients are answered.
5.  A pool that a reload removed starts no workers, and leaves when no worker comes after it.
6.  While something is under way, systemd is asked for as much time as its own limits allow.
7.  The exit status is 1 if the daemon gave up or a worker had to be killed in this stop.

The states are in :mod:`.states`, a pool's rules in :mod:`.pool`, a reload's in :mod:`.reload`.
"""

from __future__ import annotations

from graced.core import events as ev
from graced.core.actions import Exit, Extend, TellReady, TellStopping
from graced.core.fleet import Fleet
from graced.core.member import count
from graced.core.pool import Pool
from graced.core.reload import Reloads
from graced.core.states import DaemonState, KillReason, PoolState, WorkerState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo
    from typing import assert_never

    from graced.core.actions import Action
    from graced.core.events import Event
    from graced.core.schedules import Schedules
    from graced.core.zygotes import Zygote
    from graced.settings import Settings
else:

    def assert_never(value):
        raise AssertionError(f"not an event: {value!r}")


EXTEND_MARGIN_S = 5.0  # seconds that systemd is asked for beyond our own limits

# Nothing that the rules of the state look at: a thousand spawns need not be settled one by one.
QUIET = (
    ev.Spawned,
    ev.RoundOverdue,
    ev.StackPrinted,
    ev.Recovered,
    ev.ClockSeen,
    ev.SchedulesKnown,
    ev.InstantKept,
)


class Daemon(Fleet):
    """All decisions of one daemon."""

    def __init__(
        self,
        settings: Settings,
        jitter: Callable[[], float],
        now: float,
        zone: Callable[[str], tzinfo],
    ) -> None:
        super().__init__(settings, jitter)
        self.started_at = now
        self.failure: str | None = None  # why the daemon ends by itself
        self.killing = False  # the second SIGINT came
        self.exited = False
        self.reloads = Reloads(self)
        self._zone = zone
        self._schedules: Schedules | None = None
        self._extended_to = 0.0

    # -- what it is -----------------------------------------------------------

    @property
    def interrupting(self) -> bool:
        """Whether every worker has been interrupted."""
        return self.state is DaemonState.STOPPING

    @property
    def ready(self) -> bool:
        """Whether every slot of every pool in force has a ready worker."""
        return not self.stopping and all(pool.all_ready for pool in self._in_force())

    def _in_force(self) -> list[Pool]:
        """The pools of the configuration, without those that come or go with a reload."""
        coming = self.reloads.added
        return [p for p in self.pools.values() if not p.going and p.name not in coming]

    def next_deadline(self) -> float | None:
        """When a Tick is due (monotonic seconds), or None."""
        times = [pool.next_deadline() for pool in self.pools.values()]
        return min((time for time in times if time is not None), default=None)

    @property
    def schedules(self) -> Schedules | None:
        """Its schedules; None as long as it never had any."""
        if self._schedules is None and self.settings.schedules:
            from graced.core.schedules import Schedules  # calendars are loaded where needed

            self._schedules = Schedules(self, self._zone)
        return self._schedules

    def next_instant(self) -> float | None:
        """When a ClockSeen is due (seconds since the epoch; 0: now), or None."""
        schedules = None if self.exited else self.schedules
        return None if schedules is None else schedules.next_instant()

    # -- events ---------------------------------------------------------------

    def start(self, now: float) -> list[Action]:
        """Begin; call once."""
        return self._finish(now)

    def handle(self, event: Event, now: float) -> list[Action]:
        """Take note of an event and return what is to be done."""
        if not self.exited:
            self._apply(event, now)
        return self._finish(now, settled=isinstance(event, QUIET))

    def _finish(self, now: float, *, settled: bool = False) -> list[Action]:
        if not (self.exited or settled):
            self._settle(now)
        actions = self.out[:]
        self.out.clear()
        return actions

    def _apply(self, event: Event, now: float) -> None:
        match event:
            case ev.Tick():
                for pool in self.pools.values():
                    pool.tick(now)
            case ev.DrainAsked():
                self._drain(now)
            case ev.InterruptAsked():
                self._interrupt(now)
            case ev.ReloadAsked() | ev.ConfigAccepted() | ev.ConfigRefused():
                self._reload(event, now)
            case ev.ScaleAsked() | ev.HostLease():
                self._of_pool(event, now)
            case ev.Imported() | ev.ImportFailed() | ev.ZygoteDied():
                self._zygote(event, now)
            case ev.ClockSeen() | ev.SchedulesKnown() | ev.InstantKept():
                self._schedule(event)
            case _:
                self._worker(event, now)

    def _reload(
        self, event: ev.ReloadAsked | ev.ConfigAccepted | ev.ConfigRefused, now: float
    ) -> None:
        match event:
            case ev.ReloadAsked():
                self.reloads.ask(now)
            case ev.ConfigAccepted(settings):
                self.reloads.accepted(settings, now)
            case ev.ConfigRefused(reason):
                self.reloads.refused(reason, now)

    def _schedule(self, event: ev.ClockSeen | ev.SchedulesKnown | ev.InstantKept) -> None:
        schedules = self.schedules
        if schedules is None:
            return
        match event:
            case ev.ClockSeen():
                schedules.saw_clock(event)
            case ev.SchedulesKnown():
                schedules.known(event)
            case ev.InstantKept():
                schedules.kept(event)

    def _zygote(self, event: ev.Imported | ev.ImportFailed | ev.ZygoteDied, now: float) -> None:
        found = self._find_zygote(event.zygote)
        if found is None:
            return
        pool, zygote = found
        match event:
            case ev.Imported():
                pool.imported(zygote, now)
            case ev.ImportFailed(_, reason):
                pool.zygote_failed(zygote, reason, now)
            case ev.ZygoteDied(_, reason):
                pool.zygote_gone(zygote, reason, now)

    def _of_pool(self, event: ev.ScaleAsked | ev.HostLease, now: float) -> None:
        pool = self.pools.get(event.pool)
        if pool is None:
            return
        match event:
            case ev.ScaleAsked(_, workers):
                self._scale(pool, workers)
            case ev.HostLease(name, until, length):
                self.leases[name] = until, length
                pool.fence.held(until, length, pool.settings.stop_timeout)

    def _worker(  # noqa: C901 - one table of all that happens to a worker
        self, event: WorkerEvent, now: float
    ) -> None:
        found = self.find(event.worker)
        if found is None:
            return  # stale: it is gone already
        pool, member = found
        match event:
            case ev.Spawned(_, pid):
                self.out.extend(member.spawned(pid, now))
            case ev.SpawnFailed(_, reason, at):
                pool.not_spawned(member, reason, at, now)
            case ev.BecameReady():
                pool.became_ready(member, now)
            case ev.ReplacementWanted(_, why, at_once):
                pool.replacement_wanted(member, why, at_once=at_once)
            case ev.RoundDone():
                pool.restarts.round_done(member)
            case ev.SeenWaiting():
                pool.restarts.seen_waiting(member, now)
            case ev.RoundOverdue(_, limit):
                pool.round_overdue(member, limit)
            case ev.JobCancelled(_, job):
                pool.job_cancelled(member, job, now)
            case ev.SeenAtJob():
                self.out.extend(pool.fence.found(member, now))
            case ev.JobLost():
                self.out.extend(member.kill(now, KillReason.FORCED))
            case ev.Died():
                pool.died(member, event, now)
            case ev.Acknowledged(_, ack):
                member.acknowledged(ack, now)
            case ev.SeenInSetup():
                member.seen_in_setup(now)
            case ev.LeaseSeen(_, leased, held_until):
                member.leases(leased, held_until, now)
            case ev.StackPrinted():
                self.out.extend(member.stack_printed(now))
            case ev.Killed():
                member.killed(now)
            case ev.Recovered():
                member.recovered()
            case _:
                assert_never(event)

    def _find_zygote(self, zygote: int) -> tuple[Pool, Zygote] | None:
        for pool in self.pools.values():
            if zygote in pool.zygotes:
                return pool, pool.zygotes[zygote]
        return None

    def _scale(self, pool: Pool, workers: int) -> None:
        if not pool.going and not self.stopping:
            self.say("info", f"pool {pool.name}: scaled from {pool.target} to {workers} workers")
            pool.scale(workers)

    # -- the stop -------------------------------------------------------------

    def _drain(self, now: float) -> None:
        if not self.stopping:
            self._begin_stop(DaemonState.DRAINING, now)

    def _interrupt(self, now: float) -> None:
        if self.state is DaemonState.STOPPING:
            self._kill(now)
            return
        self._begin_stop(DaemonState.STOPPING, now)
        for pool in self.pools.values():
            pool.stop(now, interrupt=True)

    def _kill(self, now: float) -> None:
        if not self.killing:
            self.killing = True
            self.say("warning", "killing every worker")
        for pool in self.pools.values():
            pool.kill(now)

    def _begin_stop(self, state: DaemonState, now: float) -> None:
        first = not self.stopping
        self.reloads.stop(now)
        self.state = state
        self._extended_to = 0.0
        if first:
            self.out.append(TellStopping())
            for pool in self.pools.values():
                pool.restarts.kills = 0  # what had to be killed long ago is no failure of this stop
                if pool.state is not PoolState.LEAVING:
                    pool.hold(now)
        how = "draining" if state is DaemonState.DRAINING else "interrupting"
        self.say("info", f"stopping: {how} {count(len(self.members()), 'worker')}")

    def give_up(self, reason: str, now: float) -> None:
        """End by itself, with an error."""
        if self.failure is None:
            self.failure = reason
            self._drain(now)

    # -- what follows from the state --------------------------------------------

    def _settle(self, now: float) -> None:
        if self.state is DaemonState.STARTING:
            self._start_pools(now)
            self._check_hopeless(now)
        if self.stopping:
            self._stop_in_order(now)
        else:
            self._drop_removed_pools()
            self.reloads.prove(now)
            self._let_removed_pools_go(now)
        for pool in self.pools.values():
            pool.settle(now)
        if self.state is DaemonState.STARTING and all(pool.complete for pool in self._in_force()):
            self._became_ready()
        if not self.stopping:
            self.reloads.finish()
            self.reloads.begin()
        elif all(pool.gone for pool in self.pools.values()):
            self._exit()
            return
        self._extend(now)

    def _start_pools(self, now: float) -> None:
        for pool in self.pools.values():
            first = pool.state is PoolState.WAITING and pool.candidate is None
            if first and all(self.pools[name].complete for name in pool.settings.after):
                pool.start(now)

    def _check_hopeless(self, now: float) -> None:
        for pool in self.pools.values():
            if pool.restarts.hopeless is not None:
                self.give_up(f"pool {pool.name} can't start: {pool.restarts.hopeless}", now)

    def _became_ready(self) -> None:
        self.state = DaemonState.RUNNING
        for pool in self.pools.values():
            pool.restarts.ever_ready = (
                True  # also one that was scaled to nothing: it never gives up now
            )
        self.out.append(TellReady())
        workers = sum(pool.target for pool in self.pools.values())
        self.say("info", f"ready: {count(workers, 'worker')} in {count(len(self.pools), 'pool')}")

    def _stop_in_order(self, now: float) -> None:
        """A pool outlives those that come after it."""
        staying = [pool for pool in self.pools.values() if pool.state is not PoolState.LEAVING]
        free = [pool for pool in staying if self._outlived(pool)]
        for pool in free:
            pool.stop(now)
        if free:
            self._stop_in_order(now)  # those without a worker keep no pool waiting

    def _outlived(self, pool: Pool) -> bool:
        later = [other for other in self.pools.values() if pool.name in other.settings.after]
        return all(other.state is PoolState.LEAVING and not other.members for other in later)

    def _let_removed_pools_go(self, now: float) -> None:
        """A pool that a reload removed outlives the old workers that came after it."""
        removed = [
            p for p in self.pools.values() if p.state is PoolState.STAYING and not p.candidate
        ]
        if not removed:
            return
        needed = {name for member in self.members() for name in member.settings.after}
        for pool in removed:
            if pool.name not in needed:
                pool.stop(now)

    def _drop_removed_pools(self) -> None:
        for name, pool in list(self.pools.items()):
            if pool.state is PoolState.LEAVING and pool.gone:
                del self.pools[name]

    def _extend(self, now: float) -> None:
        """Tell systemd how long what is under way may take within its own limits."""
        if self.state is DaemonState.RUNNING:
            self._extended_to = 0.0
            return
        end = now + self._longest(now) + EXTEND_MARGIN_S
        if end > self._extended_to + 1.0:
            self._extended_to = end
            self.out.append(Extend(end - now))

    def _longest(self, now: float) -> float:
        total = 0.0
        for pool in self.pools.values():
            busy = (m for m in pool.members.values() if m.state is not WorkerState.READY)
            waits = [m.longest(now) for m in busy]
            waits += [z.deadline - now for z in pool.zygotes.values() if z.deadline is not None]
            waits += (
                [pool.restarts.backoff.next_start - now] if pool.restarts.backoff.next_start else []
            )
            if pool.state is not PoolState.LEAVING:
                whole = pool.settings.drain_timeout + pool.settings.stop_timeout
                start = 2 * pool.settings.ready_timeout
                waits.append(whole if self.stopping else start)
            total += max(waits, default=0.0)
        return total

    def _exit(self) -> None:
        self.exited = True
        kills = sum(pool.restarts.kills for pool in self.pools.values())
        code = 1 if self.failure is not None or kills else 0
        reason = self.failure
        if reason is None and kills:
            reason = f"{count(kills, 'worker')} had to be killed"
        self.out.append(Exit(code, reason))


if TYPE_CHECKING:
    WorkerEvent = (
        ev.Spawned
        | ev.SpawnFailed
        | ev.BecameReady
        | ev.ReplacementWanted
        | ev.RoundDone
        | ev.SeenWaiting
        | ev.SeenAtJob
        | ev.JobLost
        | ev.RoundOverdue
        | ev.JobCancelled
        | ev.Died
        | ev.Acknowledged
        | ev.SeenInSetup
        | ev.LeaseSeen
        | ev.StackPrinted
        | ev.Killed
        | ev.Recovered
    )
