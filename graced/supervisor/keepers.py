"""The queue keepers of the pools that take jobs: started when first asked for, kept alive.

A worker that takes jobs says so in its record; its pool's keeper is started then.
"""

from __future__ import annotations

import os
import selectors
import signal
import time

from graced import clock, settings
from graced.core.events import (
    HostLease,
    InstantKept,
    JobCancelled,
    JobLost,
    SchedulesKnown,
    Tick,
)
from graced.fencing import KILL_BEFORE_S
from graced.host import process
from graced.queue.engines import place_of, server_of, url_of
from graced.supervisor.children import Children, HelperProcess
from graced.supervisor.instants import payload_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from graced.core.actions import SubmitInstant, Wanted
    from graced.core.events import Event
    from graced.host.stackdump import Window
    from graced.host.walltimer import BootTimer
    from graced.queue.keeper import Keeper
    from graced.queue.plan import KeeperPlan
    from graced.queue.tally import Tally
    from graced.settings import Pool, Schedule, Settings
    from graced.supervisor.shared import SharedResources

FIRST_RESTART_S = 0.1  # seconds until a keeper that died is started again; doubled each time
MAX_RESTART_S = 10.0  # seconds of that wait at most
NOTABLE_S = 0.05  # seconds by which the end of a lease has to differ to be told
COUNT_TIMEOUT_S = 1.0  # seconds that a keeper gets to count
EXIT_TIMEOUT_S = 10.0  # seconds that a keeper gets to write what it has
STATES = ("waiting", "taken", "done", "dead")


class _PoolKeeper:
    """One pool's keeper, over all its processes."""

    __slots__ = (
        "again_at",
        "cut_off",
        "failures",
        "handle",
        "lease",
        "leaving",
        "left",
        "timer",
        "watched",
        "window",
    )

    def __init__(self, handle: Keeper) -> None:
        self.handle = handle
        self.again_at: float | None = None
        self.cut_off: set[int] = set()  # workers that can't reach it
        self.failures = 0
        self.lease = 0.0  # the end of it that the core knows, monotonic seconds
        self.timer: BootTimer | None = None  # for that end, a suspend included
        self.leaving: float | None = None  # until when it may take to leave
        self.left: str | None = None  # why no worker takes its jobs any more; "" once that is told
        self.watched = -1
        self.window: Window | None = None  # for its stacks

    @property
    def stopped(self) -> str | None:
        """That it is stopped by a signal, in words."""
        pid = self.handle.pid
        if pid is None or not process.is_stopped(pid):
            return None
        return f"its keeper (pid {pid}) is stopped"

    @property
    def lease_left(self) -> float | None:
        """The seconds for which this host still has the lease; None where there was none."""
        record = self.handle.plan.record
        if record is None or not record.host_lease_until:
            return None
        return record.host_lease_until / 1e9 - time.clock_gettime(time.CLOCK_BOOTTIME)

    @property
    def trouble(self) -> str | None:
        """Why the queue can't be used now, by some workers at least."""
        if self.handle.trouble is not None or not self.cut_off:
            return self.handle.trouble
        workers = "1 worker" if len(self.cut_off) == 1 else f"{len(self.cut_off)} workers"
        return f"{workers} cannot reach it at {self.handle.plan.address.socket}"


class _Counting:
    """A client that waits for all keepers' counts."""

    __slots__ = ("done", "kind", "missing", "until")

    def __init__(
        self, kind: str, until: float, missing: set[_PoolKeeper], done: Callable[[], None]
    ) -> None:
        self.kind = kind  # of the answer: counts, or jobs
        self.until = until
        self.missing = missing
        self.done = done


class KeeperManager:
    """All queue keepers of the daemon."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        children: Children,
        shared: SharedResources,
        look: Callable[[], None],
        note: Callable[..., None],
        emit: Callable[[Event], None],
    ) -> None:
        self._emit = emit
        self._note = note  # in the history
        self._look = look  # whether the folder of the sockets is there
        self._selector = selector
        self._children = children
        self._shared = shared
        self._log = shared.log
        self._keepers: dict[str, _PoolKeeper] = {}
        self._looked_at: set[str] = set()  # pools that take no jobs
        self._counting: list[_Counting] = []
        self._tallies: dict[str, Tally] = {}  # of pools that take jobs, or did

    # -- what there is ----------------------------------------------------------

    def counts(self, pool: str) -> dict[str, Any] | None:
        """Return how many jobs a pool's keeper said there are; None without a queue."""
        keeper = self._keepers.get(pool)
        if keeper is None:
            return None
        counts = dict(keeper.handle.counts or _unknown(keeper.handle.plan))
        counts.pop("trouble", None)
        left = keeper.lease_left
        if left is not None:  # the keeper may say nothing for long
            counts["lease_left"] = round(max(left, 0.0), 1)
        trouble = keeper.stopped or keeper.trouble
        if trouble is None and left is not None and left <= 0:
            trouble = "this host's lease is over: the server has not renewed it"
        return counts if trouble is None else {**counts, "trouble": trouble}

    def tallies(self) -> dict[str, Any]:
        """Return what the keepers have counted so far, those that are gone included."""
        return {pool: tally.picture() for pool, tally in self._tallies.items()}

    def jobs(self) -> dict[str, list[dict[str, Any]]]:
        """Return the jobs that the keepers have told of last, by pools."""
        return {pool: keeper.handle.jobs for pool, keeper in self._keepers.items()}

    def stopped(self) -> list[str]:
        """Return which keepers are stopped by a signal, in words."""
        found = [(pool, keeper.stopped) for pool, keeper in self._keepers.items()]
        return [f"queue {pool}: {words}" for pool, words in found if words is not None]

    def refusals(self) -> list[str]:
        """Return which queues take no new jobs, and why, in words."""
        found = [(pool, keeper.handle.trouble) for pool, keeper in self._keepers.items()]
        return [f"queue {pool}: {why}" for pool, why in found if why is not None]

    def trouble(self) -> str | None:
        """Return why a queue can't be used now, if there is a reason."""
        for pool, keeper in self._keepers.items():
            if keeper.trouble is not None:
                return f"queue {pool}: {keeper.trouble}"
        return None

    @property
    def gone(self) -> bool:
        """Whether no keeper's process is left."""
        return all(keeper.handle.pid is None for keeper in self._keepers.values())

    def next_deadline(self) -> float | None:
        """When something is due here, or None."""
        times = [
            t for k in self._keepers.values() for t in (k.again_at, k.leaving) if t is not None
        ]
        times += [counting.until for counting in self._counting]
        return min(times, default=None)

    # -- keepers' lives -----------------------------------------------------------

    def need(self, pool: Pool, settings: Settings) -> None:
        """A worker of the pool takes jobs: have a keeper."""
        keeper = self._keepers.get(pool.name)
        if keeper is None:
            keeper = self._keepers[pool.name] = _PoolKeeper(self._new_handle(pool, settings))
            self._start(keeper)

    # -- schedules

    def watch(self, pool: str, settings: Settings, wanted: Mapping[str, Wanted]) -> None:
        """Tell a pool's queue its schedules, and have a keeper for those."""
        if pool in settings.pools and wanted:
            self.need(settings.pools[pool], settings)
        keeper = self._keepers.get(pool)
        if keeper is not None:
            keeper.handle.watch({n: (w.rule, w.since, w.forget) for n, w in wanted.items()})

    def submit(self, instant: SubmitInstant, schedule: Schedule) -> None:
        """Have a job for an instant of a schedule."""
        keeper = self._keepers.get(instant.pool)
        if keeper is not None:
            alone = schedule.overlap == "skip"
            payload = payload_of(schedule)
            keeper.handle.submit(instant.schedule, instant.instant, payload, instant.delay, alone)

    # -- what becomes of keepers

    def reached(self, pool: str, worker: int, *, is_cut_off: bool) -> bool:
        """A worker says whether it can reach its queue; return whether it could until now."""
        keeper = self._keepers[pool]
        if is_cut_off == (worker in keeper.cut_off):
            return False
        keeper.cut_off ^= {worker}
        if is_cut_off:
            self._log.error(f"queue {pool}: {keeper.trouble}; they try again and again")
        return is_cut_off

    def listen_again(self) -> None:
        """Have the keepers whose socket is gone listen anew."""
        for keeper in self._keepers.values():
            if keeper.handle.open and not os.path.lexists(keeper.handle.plan.address.socket):
                keeper.handle.listen_again()

    def not_needed(self, pool: Pool) -> None:
        """A worker of the pool takes no jobs: tell, once, if some may wait for it."""
        if pool.name in self._looked_at:
            return
        self._looked_at.add(pool.name)
        if pool.name in self._keepers:
            self._ask_what_stays(self._keepers[pool.name], "its workers take no jobs any more")
            return
        file = self._shared.queue_address(pool).file
        if os.path.exists(file):
            self._log.warning(
                f"pool {pool.name}: its worker is not a JobWorker; jobs in {file} will not run"
            )

    # -- leases of hosts, where the queue is on a server

    def leases(self, now: float) -> list[HostLease]:
        """Return what is new of them since the core was told."""
        found = []
        for keeper in self._keepers.values():
            lease = self._lease(keeper, now)
            if lease is not None and abs(lease.until - keeper.lease) > NOTABLE_S:
                keeper.lease = lease.until
                found.append(lease)
                self._look_after_suspend(keeper)
        return found

    def _look_after_suspend(self, keeper: _PoolKeeper) -> None:
        """Have a tick when a lease ends, also if the machine is suspended until then.

        The selector's time-outs leave a suspend out.
        """
        if keeper.timer is None:
            from graced.host.walltimer import BootTimer  # only leases need it

            keeper.timer = BootTimer()
            self._selector.register(
                keeper.timer, selectors.EVENT_READ, lambda _: self._woken(keeper)
            )
        record = keeper.handle.plan.record
        if record is not None:
            keeper.timer.set(record.host_lease_until // 1_000_000 - round(KILL_BEFORE_S * 1000))

    def _woken(self, keeper: _PoolKeeper) -> None:
        if keeper.timer is not None:
            keeper.timer.clear()
        self._emit(Tick())

    def _lease(self, keeper: _PoolKeeper, now: float) -> HostLease | None:
        """Read the scoreboard: it counts the time of a suspend, and the core does not."""
        record, left = keeper.handle.plan.record, keeper.lease_left
        if record is None or left is None:
            return None
        return HostLease(keeper.handle.plan.pool, now + left, record.host_lease / 1e9)

    def _new_handle(self, pool: Pool, settings: Settings) -> Keeper:
        from graced.queue.keeper import Keeper
        from graced.queue.plan import KeeperPlan  # only pools with jobs need it
        from graced.queue.policy import Policy
        from graced.queue.tally import Tally

        plan = KeeperPlan(
            pool=pool.name,
            address=self._shared.queue_address(pool),
            policy=Policy.of(pool),
            tally=self._tallies.setdefault(pool.name, Tally()),
            name=settings.name,
            log=self._log.bind(pool=pool.name),
            url=pool.queue,
            record=self._shared.lease_record(pool),
        )
        return Keeper(plan)

    def apply(self, settings: Settings) -> None:
        """Go by the settings of a new generation."""
        from graced.queue.policy import Policy

        for name, keeper in self._keepers.items():
            if name in settings.pools:
                keeper.handle.apply(Policy.of(settings.pools[name]))
            else:
                self._ask_what_stays(keeper, "the pool is gone")

    def _ask_what_stays(self, keeper: _PoolKeeper, why: str) -> None:
        """No worker takes these jobs any more: warn if some wait."""
        if keeper.left is None:
            keeper.left = why
            keeper.handle.count()

    def _tell_what_stays(self, keeper: _PoolKeeper) -> None:
        why, waiting = keeper.left, (keeper.handle.counts or {}).get("waiting")
        if not why or not waiting:
            return
        plan = keeper.handle.plan
        others = [each.handle.plan for each in self._keepers.values() if each is not keeper]
        if url_of(plan) in map(url_of, others):  # of a pool that has another name now
            return
        jobs = "1 job waits" if waiting == 1 else f"{waiting} jobs wait"
        self._log.warning(
            f"queue {plan.pool}: {why}, and {jobs} in {place_of(plan)}:"
            f" a pool with `queue: {url_of(plan)}` would run them; nothing else here does"
        )
        keeper.left = ""  # once

    def log_to(self, wanted: settings.Log) -> None:
        """Have all keepers follow to another log."""
        for keeper in self._keepers.values():
            keeper.handle.log_to(wanted)

    def retain(self, pools: Mapping[str, object]) -> None:
        """Let the keepers of pools that are gone leave."""
        for name, keeper in self._keepers.items():
            if name not in pools and keeper.leaving is None:
                self._stop(keeper)

    def stop(self) -> None:
        """All workers are gone: have the keepers write what they have and leave."""
        for keeper in self._keepers.values():
            if keeper.leaving is None:
                self._stop(keeper)

    def worker_gone(
        self, pool: str, worker: int, evidence: dict[str, Any], *, counts: bool
    ) -> None:
        """A worker and its group are gone: what it had in hand may go to another."""
        keeper = self._keepers.get(pool)
        if keeper is not None:
            keeper.cut_off.discard(worker)
            keeper.handle.died(worker, evidence, counts=counts)

    def tick(self, now: float) -> None:
        """Start again what is due, end what takes too long."""
        for keeper in self._keepers.values():
            if keeper.again_at is not None and now >= keeper.again_at:
                self._start(keeper)
            if (
                keeper.leaving is not None
                and now >= keeper.leaving
                and keeper.handle.pid is not None
            ):
                keeper.leaving = now + EXIT_TIMEOUT_S
                self._log.error(f"queue {keeper.handle.plan.pool}: its keeper had to be killed")
                process.signal_process(keeper.handle.pid, signal.SIGKILL)
        self._answer(lambda counting: now >= counting.until)

    def _start(self, keeper: _PoolKeeper) -> None:
        keeper.again_at = None
        self._look()
        handle = keeper.handle
        try:
            if keeper.window is None:
                keeper.window = self._children.lend_window()
            keeper.window.clear()
            pid = handle.start(keeper.window)
        except OSError as error:
            self._log.error(f"queue {handle.plan.pool}: cannot fork: {error.strerror}")
            self._start_later(keeper)
            return
        self._children.others[pid] = HelperProcess(
            f"queue keeper of {handle.plan.pool}",
            keeper.window,
            lambda how: self._died(keeper, how),
        )
        keeper.watched = handle.fileno()
        self._selector.register(keeper.watched, selectors.EVENT_READ, lambda _: self._heard(keeper))

    def _start_later(self, keeper: _PoolKeeper) -> None:
        wait = min(FIRST_RESTART_S * 2 ** min(keeper.failures, 16), MAX_RESTART_S)
        keeper.failures += 1
        keeper.again_at = clock.monotonic() + wait

    def _stop(self, keeper: _PoolKeeper) -> None:
        keeper.again_at = None
        keeper.leaving = clock.monotonic() + EXIT_TIMEOUT_S
        keeper.handle.stop()

    def _died(self, keeper: _PoolKeeper, how: str) -> None:
        self._heard(keeper)
        keeper.handle.pid = None
        if keeper.watched >= 0:
            self._selector.unregister(keeper.watched)
            keeper.watched = -1
        keeper.handle.close()
        if keeper.leaving is not None:
            keeper.leaving = None
            if keeper.window is not None:
                keeper.window.give_back()
                keeper.window = None
            if keeper.timer is not None:
                self._selector.unregister(keeper.timer)
                keeper.timer.close()
                keeper.timer = None
            self._keepers = {name: k for name, k in self._keepers.items() if k is not keeper}
            return
        self._start_later(keeper)
        self._log.warning(f"queue {keeper.handle.plan.pool}: its keeper {how}; starting again")

    # -- what they say ------------------------------------------------------------

    def _heard(self, keeper: _PoolKeeper) -> None:
        if keeper.watched < 0:
            return
        before = keeper.watched
        for message in keeper.handle.receive():
            self._hear(keeper, keeper.handle.plan.pool, message)
        if keeper.handle.fileno() < 0 and keeper.watched == before:
            self._selector.unregister(before)
            keeper.watched = -1

    def _hear(self, keeper: _PoolKeeper, pool: str, message: tuple[Any, ...]) -> None:
        match message:
            case ("ready",):
                keeper.failures = 0
                self._log.info(f"queue {pool}: {place_of(keeper.handle.plan)} is open")
            case ("degraded", str(why)) | ("failed", str(why)):
                self._log.error(f"queue {pool}: {why}")
                self._note("trouble", pool=pool, reason=why)
            case ("well",):
                self._note("trouble", pool=pool)
                self._log.info(f"queue {pool}: works again")
            case ("cancel", int(worker), int(job)):
                self._emit(JobCancelled(worker, job))
            case ("counts", _):
                self._answered("counts", keeper)
                self._tell_what_stays(keeper)
            case ("jobs", _):
                self._answered("jobs", keeper)
            case ("depth", depth):
                self._note("queue", pool=pool, **depth)
            case ("lease",) | ("lost", *_):
                self._heard_of_lease(message)
            case _:
                self._heard_of_schedules(keeper, message)

    def _heard_of_lease(self, message: tuple[Any, ...]) -> None:
        for worker in message[1:]:
            self._emit(JobLost(worker))
        for lease in self.leases(clock.monotonic()):
            self._emit(lease)

    def _heard_of_schedules(self, keeper: _PoolKeeper, message: tuple[Any, ...]) -> None:
        match message:
            case ("standings", standings, _) if keeper.handle.has_heard_schedules:
                pool = keeper.handle.plan.pool
                self._emit(SchedulesKnown(pool, standings, time.time()))
            case ("kept", schedule, instant, how, job):
                self._emit(InstantKept(schedule, instant, how, job, time.time()))

    # -- counts for a status ----------------------------------------------------------

    def count(self, done: Callable[[], None]) -> None:
        """Have all keepers count, then call ``done``; in bounded time."""
        self._ask("counts", done)

    def look(self, done: Callable[[], None]) -> None:
        """Have all keepers tell of some jobs, then call ``done``; in bounded time."""
        self._ask("jobs", done)

    def _ask(self, kind: str, done: Callable[[], None]) -> None:
        asked = {keeper for keeper in self._keepers.values() if keeper.handle.open}
        if not asked:
            done()
            return
        self._counting.append(_Counting(kind, clock.monotonic() + COUNT_TIMEOUT_S, asked, done))
        for keeper in asked:
            if kind == "jobs":
                keeper.handle.look()
            else:
                keeper.handle.count()

    def _answered(self, kind: str, keeper: _PoolKeeper) -> None:
        for counting in self._counting:
            if counting.kind == kind:
                counting.missing.discard(keeper)
        self._answer(lambda counting: not counting.missing)

    def _answer(self, over: Callable[[_Counting], bool]) -> None:
        finished = [counting for counting in self._counting if over(counting)]
        self._counting = [counting for counting in self._counting if not over(counting)]
        for counting in finished:
            counting.done()


def _unknown(plan: KeeperPlan) -> dict[str, Any]:
    """Return the counts of a queue that has not told any yet."""
    server = server_of(plan.url)
    leased = {} if server is None else {"engine": server, "lease_left": None}
    return {**dict.fromkeys(STATES), "paused": False, **leased}
