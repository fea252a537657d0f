"""The state machine of one pool: which workers are started, which are to go, and when.

Theory of operation. Events come in through the methods named after them and change one thing
each; ``settle()`` then holds the rules that follow from the state, whatever led to it:

1.  Slots past the target are given up; an outdated worker leaves once its successor is ready.
2.  An empty slot gets a worker; in back-off only one probe at a time is started.
3.  An outdated worker gets a successor ahead of it, ``surge`` at a time, or with ``surge: 0``
    after it; never more than ``workers`` are on their way out.
4.  A worker of a generation that is being proven, the canary, is in none of these.
5.  A zygote that no worker and no generation needs is killed.

The workers' places are in :mod:`.slots`, their deaths in :mod:`.restarts`, a worker's ladder in
:mod:`.member`, the lease of their jobs in :mod:`.fence`, a zygote's life in :mod:`.zygotes`. No
clocks, no chance, no processes: time and jitter are arguments.
"""

from __future__ import annotations

from graced.core.actions import PrintStack, Say, Spawn, SpawnOrder
from graced.core.counters import DeathCause, count
from graced.core.events import Died
from graced.core.fence import Fence
from graced.core.member import CANCELLED, Member
from graced.core.restarts import Restarts
from graced.core.slots import Candidate, Slots
from graced.core.states import (
    CandidateState,
    KillReason,
    PoolState,
    StartReason,
    WorkerState,
    ZygoteState,
)
from graced.core.zygotes import Zygote, Zygotes
from graced.units import format_duration, show_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from graced.core.actions import Action
    from graced.core.context import Context
    from graced.settings import Pool as Settings


class Pool:
    """One pool over all its generations."""

    def __init__(self, settings: Settings, generation: int, context: Context) -> None:
        self.state = PoolState.WAITING
        self._slots = Slots(settings, generation)
        self.fence = Fence()
        self.restarts = Restarts(self._slots, context)
        self._zygotes = Zygotes(context)
        self._warned_in = 0  # the generation whose max_rss is too small
        self._context = context
        self._orders: dict[int, list[SpawnOrder]] = {}
        self._counters = context.counters.of(settings.name)
        self._vacated: dict[int, str] = {}  # slots that a worker left empty which did not die: why

    # -- what it is -----------------------------------------------------------

    @property
    def name(self) -> str:
        """Its name in the configuration."""
        return self.settings.name

    @property
    def settings(self) -> Settings:
        """Those in force."""
        return self._slots.settings

    @property
    def generation(self) -> int:
        """The one in force."""
        return self._slots.generation

    @property
    def target(self) -> int:
        """How many workers there shall be."""
        return self._slots.target

    @property
    def members(self) -> dict[int, Member]:
        """All its workers by their ids."""
        return self._slots.members

    @property
    def zygotes(self) -> dict[int, Zygote]:
        """All its zygotes by their ids."""
        return self._zygotes.by_id

    @property
    def candidate(self) -> Candidate | None:
        """The generation that is being proven, if one is."""
        return self._slots.candidate

    def staying(self) -> list[Member]:
        """The workers that are not on their way out, a canary included."""
        return self._slots.staying()

    def leaving(self) -> list[Member]:
        """The workers that are on their way out."""
        return self._slots.leaving()

    def ready_count(self) -> int:
        """How many workers take rounds."""
        return len(self._slots.ready())

    @property
    def all_ready(self) -> bool:
        """Whether every slot has a ready worker."""
        return self.state is PoolState.UP and self._zygotes.ready and self._slots.all_ready()

    @property
    def complete(self) -> bool:
        """Whether each slot has brought forth a ready worker of this generation.

        One that died since does not count, one that was recycled does: else a pool
        that recycles fast might never be complete at any one moment.
        """
        loaded = bool(self.restarts.proven) or self._zygotes.ready
        return (
            self.state is PoolState.UP
            and loaded
            and self.restarts.proven.issuperset(range(self.target))
        )

    @property
    def renewed(self) -> bool:
        """Whether it is complete and no worker of an older generation stays."""
        return self.complete and all(m.generation == self.generation for m in self.staying())

    @property
    def going(self) -> bool:
        """Whether it starts no more workers: removed, or the daemon stops."""
        return self.state in (PoolState.STAYING, PoolState.LEAVING)

    @property
    def trouble(self) -> str | None:
        """What keeps it from starting workers, if something does."""
        if self.restarts.backoff.active:
            return f"is in back-off: {self.restarts.evidence}"
        if self._zygotes.again_at is not None:
            return "can't load its code any more"
        return None

    @property
    def gone(self) -> bool:
        """Whether nothing is left of it."""
        return not self.members and not self.zygotes

    def next_deadline(self) -> float | None:
        """When :meth:`tick` has something to do, or None."""
        times: list[float | None] = [m.deadline() for m in self.members.values()]
        times += [z.deadline for z in self.zygotes.values()]
        if self.members:
            times.append(self.fence.next_deadline())
        if self.state is PoolState.UP:
            times += [self._probe_start(), self.restarts.probe_reset(), self._zygotes.again_at]
        return min((time for time in times if time is not None), default=None)

    # -- start and stop -------------------------------------------------------

    def start(self, now: float) -> None:
        """Begin: the pools that it comes after are ready."""
        self.state = PoolState.UP
        self._load_code(now)

    def hold(self, now: float) -> None:
        """Start no more workers, but keep those there are."""
        self.abandon(now)
        self.state = PoolState.STAYING

    def stop(self, now: float, *, interrupt: bool = False) -> None:
        """Send every worker down the ladder; start no more."""
        self.abandon(now)
        self.state = PoolState.LEAVING
        for member in list(self.members.values()):
            self._do(member.interrupt(now) if interrupt else member.drain(now))
        for zygote in self.zygotes.values():
            self._hurry_forks(zygote, now)

    def kill(self, now: float) -> None:
        """Kill every worker, leases or not."""
        for member in list(self.members.values()):
            self._do(member.kill(now, KillReason.FORCED))

    def scale(self, workers: int) -> None:
        """Change the number of workers until the next reload, not the one under way."""
        self._slots.target = workers
        if self.candidate is not None:
            self.candidate.target = workers
        self.restarts.proven &= set(range(workers))
        self._vacated = {slot: why for slot, why in self._vacated.items() if slot < workers}

    # -- zygotes --------------------------------------------------------------

    def imported(self, zygote: Zygote, now: float) -> None:
        """The zygote has loaded the code."""
        if not zygote.imported(now):
            return
        if self.candidate is not None and zygote.id == self.candidate.zygote:
            self.candidate.state = CandidateState.IMPORTED

    def zygote_failed(self, zygote: Zygote, reason: str, now: float) -> None:
        """The zygote can't load the code; its process leaves by itself."""
        if not zygote.lost():
            return
        zygote.may_leave(now)
        if self.candidate is not None and zygote.id == self.candidate.zygote:
            self.candidate.failure = reason
        if zygote.id == self._zygotes.current:
            self._zygotes.current = None
            if self.state is PoolState.UP:
                self._load_again(zygote, reason, now)

    def zygote_gone(self, zygote: Zygote, reason: str, now: float) -> None:
        """The zygote is reaped; what it was to fork will not come."""
        self.zygote_failed(zygote, reason, now)
        del self.zygotes[zygote.id]
        for member in list(self.members.values()):
            if member.zygote == zygote.id and member.pid is None:
                self.not_spawned(member, reason, "", now)

    def _load_code(self, now: float) -> None:
        self._zygotes.restart(self.settings, self.generation, now)

    def _load_again(self, lost: Zygote, reason: str, now: float) -> None:
        if lost.ready_at is None and not self.restarts.ever_ready:
            self.restarts.hopeless = reason
            self._say("error", f"pool {self.name}: {reason}; giving up")
            return
        delay = self._zygotes.load_again(lost, now)
        again = f"starting again in {format_duration(delay)}" if delay else "starting again"
        self._say("error", f"pool {self.name}: {reason}; {again}")

    def _end_zygote(self, zygote: Zygote, reason: str, now: float) -> None:
        """It is of no use any more, and does not leave by itself."""
        self.zygote_failed(zygote, reason, now)
        self._zygotes.kill(zygote)

    def _hurry_forks(self, zygote: Zygote | None, now: float) -> None:
        """Let unforked workers leave, if need be by the death of a zygote that is stuck."""
        if zygote is not None and self._owes_forks(zygote):
            zygote.hurry(now)

    def _owes_forks(self, zygote: Zygote) -> bool:
        """Whether it has orders that it has not answered."""
        return any(m.zygote == zygote.id and m.pid is None for m in self.members.values())

    def _out_of_time(self, zygote: Zygote, now: float) -> None:
        """Its deadline is over: that of its import, of its last forks, or of its leaving."""
        if zygote.state is ZygoteState.IMPORTING:
            limit = format_duration(zygote.settings.ready_timeout)
            reason = f"importing {zygote.settings.worker} took longer than {limit}"
            self._end_zygote(zygote, reason, now)
        elif zygote.state is ZygoteState.LOST:
            self._zygotes.kill(zygote)
        elif self._owes_forks(zygote):
            self._say("warning", f"pool {self.name}: its zygote does not fork; killing it")
            self._end_zygote(zygote, "its zygote does not fork", now)
        else:
            zygote.deadline = None

    # -- workers --------------------------------------------------------------

    def became_ready(self, member: Member, now: float) -> None:
        """A worker's setup() returned."""
        if not member.ready():
            return
        took = format_duration(now - member.born_at)
        self._say("debug", f"worker {member.label} is ready after {took}", member)
        if self.candidate is not None and member.id == self.candidate.canary:
            self.candidate.state = CandidateState.PROVEN
        self.restarts.became_ready(member)

    def replacement_wanted(self, member: Member, why: str, *, at_once: bool) -> None:
        """A worker is to be replaced by a like one; warn once of what would go on for ever."""
        member.wants = member.wants or why
        current = self._slots.current_code(member)
        if at_once and current and self._warned_in != self.generation:
            self._warned_in = self.generation
            limit = show_size(self.settings.max_rss or 0)
            self._say(
                "warning",
                f"worker {member.label} has more memory than max_rss ({limit}) already at the first"
                " look, and so will those that replace it, one after the other for ever;"
                f" raise pools.{self.name}.max_rss",
                member,
            )

    def round_overdue(self, member: Member, limit: float) -> None:
        """A worker's round is past its deadline."""
        if member.overdue(f"a round took longer than {format_duration(limit)}"):
            self._do([PrintStack(member.id)])

    def job_cancelled(self, member: Member, job: int, now: float) -> None:
        """A worker's job is cancelled: interrupt it; another takes its place."""
        if member.state not in (WorkerState.READY, WorkerState.DRAINING):
            return  # it has no job, or is interrupted already
        member.wants = CANCELLED
        self._say("info", f"job {job} is cancelled: interrupting worker {member.label}", member)
        self._do(member.interrupt(now))

    def died(self, member: Member, event: Died, now: float) -> None:
        """A worker is gone."""
        del self.members[member.id]
        if member.slot < self.target and not self._slots.of(member.slot):
            self._vacated[member.slot] = self._why_outdated(member) or (
                "left" if event.planned or event.clean else "death"
            )
        self.restarts.died(member, event, now, is_up=self.state is PoolState.UP)

    def not_spawned(self, member: Member, reason: str, at: str, now: float) -> None:
        """A worker could not be forked; to one that was asked to leave that is all the same."""
        why = f"could not be forked: {reason}"
        cause = DeathCause.FORK
        self.died(member, Died(member.id, why, member.leaving, at=at, cause=cause), now)

    # -- a new generation -----------------------------------------------------

    def propose(self, settings: Settings, generation: int, now: float) -> None:
        """Begin to prove new settings and code, beside the old."""
        zygote = self._zygotes.start(settings, generation, now)
        self._slots.candidate = Candidate(settings, generation, zygote)

    def abandon(self, now: float) -> None:
        """Throw the proposed generation away; the old one goes on."""
        candidate, self._slots.candidate = self.candidate, None
        if candidate is None:
            return
        canary = self.members.get(candidate.canary) if candidate.canary is not None else None
        if canary is not None:
            canary.start_reason = StartReason.REFUSED
            self._do(canary.drain(now))
        self._hurry_forks(self.zygotes.get(candidate.zygote), now)

    def commit(self) -> None:
        """The proposed generation is proven everywhere: it is the current one now."""
        candidate = self.candidate
        assert candidate is not None
        if candidate.canary is not None and self.state is PoolState.UP:
            count(self._counters.replacements, "reload")
        self._slots.put_in_force(candidate)
        self._zygotes.put_in_force(candidate.zygote)
        self.state = PoolState.UP
        self.restarts.put_in_force(candidate)

    def prove(self, now: float) -> None:
        """Take the proof a step further, if there is one and it can go on."""
        candidate = self.candidate
        if candidate is None or candidate.failure is not None:
            return
        if candidate.state is CandidateState.IMPORTED:
            self._begin_canary(candidate, now)
        if candidate.state is CandidateState.YIELDING and not self._slots.of(0):
            self._spawn_canary(candidate, now)

    def _begin_canary(self, candidate: Candidate, now: float) -> None:
        if candidate.settings.workers == 0:
            candidate.state = CandidateState.PROVEN
        elif candidate.settings.surge > 0:
            if self._slots.room_ahead(candidate.settings.surge):
                self._spawn_canary(candidate, now)
        elif not self._slots.of(0):
            self._spawn_canary(candidate, now)
        elif self._slots.room_to_leave():
            candidate.state = CandidateState.YIELDING
            for member in self._slots.of(0):
                self._do(member.drain(now))

    def _spawn_canary(self, candidate: Candidate, now: float) -> None:
        candidate.state = CandidateState.STARTING
        candidate.canary = self._spawn(
            0, StartReason.CANARY, candidate.settings, candidate.generation, candidate.zygote, now
        )
        self._send_orders()

    # -- what follows from the state --------------------------------------------

    def tick(self, now: float) -> None:
        """Do what is due."""
        self._do(self.fence.tick(self.name, self.members.values(), now))
        for member in list(self.members.values()):
            self._do(member.tick(now))
            self.restarts.look(member, now)
            self._check_fork(member, now)
        for zygote in list(self.zygotes.values()):
            if zygote.deadline is not None and now >= zygote.deadline:
                self._out_of_time(zygote, now)
        reset = self.restarts.probe_reset()
        if reset is not None and now >= reset:
            self._say("info", f"pool {self.name}: the probe lives, back-off is over")
            self.restarts.backoff.end()

    def settle(self, now: float) -> None:
        """Apply the rules of the state: let go, fill, replace, tidy up."""
        if self.state is PoolState.UP:
            if self._zygotes.again_at is not None and now >= self._zygotes.again_at:
                self._load_code(now)
            change = self._slots.to_change()
            if change:
                self._let_go(now)
            if self._zygotes.ready:
                self._fill(now)
            if self._zygotes.ready and change:
                self._replace(now)
            self._send_orders()
        self._zygotes.keep_only(self._needed_zygotes())

    def _let_go(self, now: float) -> None:
        """Slots past the target are given up; a worker with a successor may leave."""
        for member in self._slots.surplus():
            self._do(member.drain(now))
        for member in self._slots.relieved():
            self._do(member.drain(now))

    def _fill(self, now: float) -> None:
        """Every slot has a worker; in back-off only a probe is tried."""
        if self.restarts.backoff.active:
            self._probe(now)
            return
        for slot in self._slots.vacancies():
            self._spawn_current(slot, self.restarts.reason_for(slot, StartReason.FIRST), now)

    def _probe(self, now: float) -> None:
        slot = self._slots.for_probe()
        if slot is not None:
            if self.restarts.backoff.due(now):
                self.restarts.backoff.probing(self._spawn_current(slot, StartReason.PROBE, now))
        elif self.restarts.backoff.probe is None and self._slots.nothing_missing():
            self._say("info", f"pool {self.name}: no worker is missing, back-off is over")
            self.restarts.backoff.end()

    def _replace(self, now: float) -> None:
        """Outdated workers get successors, ahead of them or, with surge 0, after them."""
        slots = self._slots
        if self.restarts.backoff.active or (self.candidate is not None and self.candidate.waits):
            return
        for slot in slots.to_renew():
            if self.settings.surge == 0:
                if slots.in_flux():
                    return
                for member in slots.of(slot):
                    if slots.outdated(member):
                        self._do(member.drain(now))
            elif not slots.room_ahead(self.settings.surge):
                return
            else:
                self._spawn_current(
                    slot, self.restarts.reason_for(slot, StartReason.SUCCESSOR), now
                )

    def _needed_zygotes(self) -> set[int]:
        needed = {m.zygote for m in self.members.values()}
        if self.state is not PoolState.LEAVING and self._zygotes.current is not None:
            needed.add(self._zygotes.current)
        if self.candidate is not None:
            needed.add(self.candidate.zygote)
        return needed

    # -- helpers ----------------------------------------------------------------

    def _spawn_current(self, slot: int, start_reason: StartReason, now: float) -> int:
        zygote = self._zygotes.current
        assert zygote is not None
        return self._spawn(slot, start_reason, self.settings, self.generation, zygote, now)

    def _spawn(
        self,
        slot: int,
        start_reason: StartReason,
        settings: Settings,
        generation: int,
        zygote: int,
        now: float,
    ) -> int:
        if (cause := self._cause_of(slot, start_reason)) is not None:
            count(self._counters.replacements, cause)
        worker = self._context.new_id()
        member = Member(worker, settings, generation, zygote, slot, start_reason, now)
        if settings.max_age is not None:
            member.age_limit = now + settings.max_age * self._context.spread()
        self.members[worker] = member
        self.restarts.slots_with_death.discard(slot)
        rounds = max(int((settings.max_rounds or 0) * self._context.spread()), 1)
        order = SpawnOrder(
            worker,
            self.name,
            slot,
            rounds if settings.max_rounds else 0,
            int((settings.max_rss or 0) * self._context.spread()),
        )
        self._orders.setdefault(zygote, []).append(order)
        return worker

    def _cause_of(self, slot: int, start_reason: StartReason) -> str | None:
        """Return why a worker is started for another; None if it is not, or that is not certain."""
        vacated = self._vacated.pop(slot, None)
        if start_reason is StartReason.CANARY:
            return None  # it is counted once it has proven itself
        if start_reason in (StartReason.REPLACEMENT, StartReason.PROBE):
            return "death"
        whys = (self._why_outdated(member) for member in self._slots.of(slot))
        return next((why for why in whys if why is not None), vacated)

    def _why_outdated(self, member: Member) -> str | None:
        if member.generation != self.generation:
            return "reload"
        return None if member.wants is None else member.wants.removesuffix("()")

    def _send_orders(self) -> None:
        for zygote, orders in self._orders.items():
            self._do([Spawn(zygote, tuple(orders))])
        self._orders.clear()

    def _probe_start(self) -> float | None:
        """When the next probe is due; None while none could be started then."""
        if self.restarts.backoff.next_start is None or not self._zygotes.ready:
            return None
        return None if self._slots.for_probe() is None else self.restarts.backoff.next_start

    def _check_fork(self, member: Member, now: float) -> None:
        """A zygote that does not fork in time is of no use."""
        if member.pid is None and member.kill_at is not None:
            zygote = self.zygotes.get(member.zygote)
            if zygote is not None and zygote.state is ZygoteState.READY:
                self._end_zygote(zygote, "its zygote does not fork", now)

    def _do(self, actions: Iterable[Action]) -> None:
        self._context.do(actions)

    def _say(self, level: str, text: str, member: Member | None = None) -> None:
        slot = None if member is None else member.slot
        generation = self.generation if member is None else member.generation
        self._do([Say(level, text, self.name, slot, generation)])
