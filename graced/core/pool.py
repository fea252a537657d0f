"""The state machine of one pool: which workers live, which are to come, which are to go.

Events come in through the methods named after them and change one thing each;
``settle()`` then holds the rules that follow from the state, whatever led to it.
No clocks, no chance, no processes: time and jitter are arguments.
"""

from __future__ import annotations

from enum import Enum

from graced.core.actions import (
    Birth as Order,
)
from graced.core.actions import (
    Bury,
    KillZygote,
    PrintStack,
    Say,
    Spawn,
    StartZygote,
    WatchRounds,
)
from graced.core.backoff import Backoff, Birth, wait
from graced.core.member import Member, State, Verdict, count, seconds
from graced.core.settings import Pool as Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from graced.core.actions import Action
    from graced.core.events import Died

REMEMBERED = 10  # deaths shown in a status


class Mode(Enum):
    """What a pool is about."""

    WAITING = "waiting"  # for the pools that it comes after
    UP = "up"
    STAYING = "staying"  # it is to go, but workers that come after it are still there
    LEAVING = "leaving"


class Trial(Enum):
    """How far the proof of a new generation is, in one pool."""

    IMPORTING = "importing"
    IMPORTED = "imported"
    YIELDING = "yielding"  # surge: 0, the old worker of slot 0 leaves first
    STARTING = "starting"
    PROVEN = "proven"


class Stage(Enum):
    """Where a zygote is in its life."""

    IMPORTING = "importing"
    READY = "ready"
    LOST = "lost"  # of no use any more; its process is on its way out


class Zygote:
    """A process that forks workers of one generation."""

    __slots__ = ("deadline", "generation", "id", "ready_at", "settings", "stage")

    def __init__(self, zygote: int, settings: Settings, generation: int, now: float) -> None:
        self.id = zygote
        self.settings = settings
        self.generation = generation
        self.stage = Stage.IMPORTING
        self.deadline: float | None = now + settings.ready_timeout
        self.ready_at: float | None = None  # when it had loaded the code


class Candidate:
    """A new generation that is being proven in one pool."""

    __slots__ = ("canary", "failure", "generation", "settings", "target", "trial", "zygote")

    def __init__(self, settings: Settings, generation: int, zygote: int) -> None:
        self.settings = settings
        self.target = settings.workers  # unless it is scaled while it is proven
        self.generation = generation
        self.zygote = zygote
        self.trial = Trial.IMPORTING
        self.canary: int | None = None
        self.failure: str | None = None


class Context:
    """What the pools of one daemon share: ids, jitter, and where actions go."""

    __slots__ = ("_last_id", "group", "jitter", "out", "user")

    def __init__(self, jitter: Callable[[], float], user: str | None, group: str | None) -> None:
        self._last_id = 0
        self.jitter = jitter
        self.user = user
        self.group = group
        self.out: list[Action] = []

    def new_id(self) -> int:
        """Return a number that was never an id before."""
        self._last_id += 1
        return self._last_id


class Pool:
    """One pool over all its generations."""

    def __init__(self, settings: Settings, generation: int, context: Context) -> None:
        self.settings = settings
        self.generation = generation
        self.target = settings.workers
        self.mode = Mode.WAITING
        self.members: dict[int, Member] = {}
        self.zygotes: dict[int, Zygote] = {}
        self.zygote: int | None = None  # the one that forks for this generation
        self.candidate: Candidate | None = None
        self.backoff = Backoff(settings.backoff, context.jitter)
        self.ever_ready = False
        self.hopeless: str | None = None  # why a first start can't succeed
        self.deaths = 0
        self.kills = 0  # workers that the ladder had to kill
        self.last_deaths: list[tuple[int, int | None, str, str, int]] = []
        self._bereaved: set[int] = set()  # slots whose worker died
        self._proven: set[int] = set()  # slots that had a ready worker, and no death since
        self._import_failures = 0
        self._import_again: float | None = None
        self._context = context
        self._orders: dict[int, list[Order]] = {}

    # -- what it is -----------------------------------------------------------

    @property
    def name(self) -> str:
        """Its name in the configuration."""
        return self.settings.name

    def staying(self) -> list[Member]:
        """The workers that are not on their way out, a canary included."""
        return [m for m in self.members.values() if not m.leaving]

    def leaving(self) -> list[Member]:
        """The workers that are on their way out."""
        return [m for m in self.members.values() if m.leaving]

    def ready_count(self) -> int:
        """How many workers take rounds."""
        return sum(m.state is State.READY for m in self.members.values())

    @property
    def all_ready(self) -> bool:
        """Whether every slot has a ready worker."""
        slots = {m.slot for m in self.members.values() if m.state is State.READY}
        return self.mode is Mode.UP and self.zygote_ready and len(slots) >= self.target

    @property
    def zygote_ready(self) -> bool:
        """Whether the current generation's code is loaded."""
        zygote = self.zygotes.get(self.zygote) if self.zygote is not None else None
        return zygote is not None and zygote.stage is Stage.READY

    @property
    def complete(self) -> bool:
        """Whether each slot has brought forth a ready worker of this generation.

        One that died since does not count, one that was recycled does: else a pool
        that recycles fast might never be complete at any one moment.
        """
        loaded = bool(self._proven) or self.zygote_ready
        return self.mode is Mode.UP and loaded and self._proven.issuperset(range(self.target))

    @property
    def renewed(self) -> bool:
        """Whether it is complete and no worker of an older generation stays."""
        return self.complete and all(m.generation == self.generation for m in self.staying())

    @property
    def going(self) -> bool:
        """Whether it starts no more workers: removed, or the daemon stops."""
        return self.mode in (Mode.STAYING, Mode.LEAVING)

    @property
    def trouble(self) -> str | None:
        """What keeps it from starting workers, if something does."""
        if self.backoff.active:
            died = self.last_deaths[-1][3] if self.last_deaths else "its workers die"
            return f"is in back-off: {died}"
        if self._import_again is not None:
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
        if self.mode is Mode.UP:
            times += [self._probe_start(), self._probe_reset(), self._import_again]
        return min((time for time in times if time is not None), default=None)

    # -- start and stop -------------------------------------------------------

    def start(self, now: float) -> None:
        """Begin: the pools that it comes after are ready."""
        self.mode = Mode.UP
        self._start_zygote(now)

    def hold(self, now: float) -> None:
        """Start no more workers, but keep those there are."""
        self.abandon(now)
        self.mode = Mode.STAYING

    def stop(self, now: float, *, interrupt: bool = False) -> None:
        """Send every worker down the ladder; start no more."""
        self.abandon(now)
        self.mode = Mode.LEAVING
        for member in list(self.members.values()):
            self._do(member.interrupt(now) if interrupt else member.drain(now))

    def kill(self, now: float) -> None:
        """Kill every worker, leases or not."""
        for member in list(self.members.values()):
            self._do(member.kill(now, Verdict.FORCED))

    def scale(self, workers: int) -> None:
        """Change the number of workers until the next reload, not the one under way."""
        self.target = workers
        if self.candidate is not None:
            self.candidate.target = workers
        self._proven &= set(range(workers))

    # -- zygotes --------------------------------------------------------------

    def imported(self, zygote: Zygote, now: float) -> None:
        """The zygote has loaded the code."""
        if zygote.stage is not Stage.IMPORTING:
            return
        zygote.stage = Stage.READY
        zygote.deadline = None
        zygote.ready_at = now
        if self.candidate is not None and zygote.id == self.candidate.zygote:
            self.candidate.trial = Trial.IMPORTED

    def zygote_failed(self, zygote: Zygote, reason: str, now: float) -> None:
        """The zygote can't load the code; its process leaves by itself."""
        if zygote.stage is Stage.LOST:
            return
        zygote.stage = Stage.LOST
        zygote.deadline = None
        if self.candidate is not None and zygote.id == self.candidate.zygote:
            self.candidate.failure = reason
        if zygote.id == self.zygote:
            self.zygote = None
            if self.mode is Mode.UP:
                self._load_again(reason, zygote.ready_at, now)

    def zygote_gone(self, zygote: Zygote, reason: str, now: float) -> None:
        """The zygote is reaped; what it was to fork will not come."""
        self.zygote_failed(zygote, reason, now)
        del self.zygotes[zygote.id]
        for member in list(self.members.values()):
            if member.zygote == zygote.id and member.pid is None:
                self.not_spawned(member, reason, "", now)

    def _load_again(self, reason: str, loaded_at: float | None, now: float) -> None:
        """A zygote that had loaded the code is replaced at once; the next later and later."""
        if loaded_at is None and not self.ever_ready:
            self.hopeless = reason
            self._say("error", f"pool {self.name}: {reason}; giving up")
            return
        limits = self.settings.backoff
        if loaded_at is not None and now - loaded_at >= limits.reset:
            self._import_failures = 0
        first = loaded_at is not None and not self._import_failures
        delay = 0.0 if first else wait(limits, self._import_failures)
        self._import_failures += 1
        self._import_again = now + delay
        again = f"starting again in {seconds(delay)}" if delay else "starting again"
        self._say("error", f"pool {self.name}: {reason}; {again}")

    def _start_zygote(self, now: float) -> None:
        self._import_again = None
        self.zygote = self._new_zygote(self.settings, self.generation, now)

    def _new_zygote(self, settings: Settings, generation: int, now: float) -> int:
        zygote = Zygote(self._context.new_id(), settings, generation, now)
        self.zygotes[zygote.id] = zygote
        context = self._context
        self._do([StartZygote(zygote.id, settings, generation, context.user, context.group)])
        return zygote.id

    def _drop_zygote(self, zygote: Zygote) -> None:
        if zygote.stage is not Stage.LOST:
            zygote.stage = Stage.LOST
            zygote.deadline = None
            self._do([KillZygote(zygote.id)])

    # -- workers --------------------------------------------------------------

    def became_ready(self, member: Member, now: float) -> None:
        """A worker's setup() returned."""
        if member.state is not State.STARTING:
            return
        member.ready()
        self.ever_ready = True
        if self._current_code(member):
            self._proven.add(member.slot)
        took = seconds(now - member.born_at)
        self._say("debug", f"worker {member.label} is ready after {took}", member)
        if self.candidate is not None and member.id == self.candidate.canary:
            self.candidate.trial = Trial.PROVEN
        if self._proves(member):
            self._do([WatchRounds(member.id)])

    def round_done(self, member: Member) -> None:
        """A worker that was watched ended a round well."""
        if self._proves(member):
            self._say("info", f"pool {self.name}: a round was completed, back-off is over")
            self.backoff.end()

    def round_overdue(self, member: Member, limit: float) -> None:
        """A worker's round is past its deadline."""
        if member.overdue(f"a round took longer than {seconds(limit)}"):
            self._do([PrintStack(member.id)])

    def died(self, member: Member, event: Died, now: float) -> None:
        """A worker is gone."""
        self._ended(member, event.reason, event.planned, event.rounds, event.good, event.at, now)

    def not_spawned(self, member: Member, reason: str, at: str, now: float) -> None:
        """A worker could not be forked."""
        self._ended(member, f"could not be forked: {reason}", False, 0, 0, at, now)

    def _ended(
        self,
        member: Member,
        reason: str,
        planned: bool,
        rounds: int,
        good: int,
        at: str,
        now: float,
    ) -> None:
        del self.members[member.id]
        reason = member.failure or reason
        if self.candidate is not None and member.id == self.candidate.canary:
            self.candidate.failure = reason
        killed = member.state is State.KILLED and not planned
        if killed and (member.failure is None or self.mode is not Mode.UP):
            self.kills += 1
        if planned and member.failure is None:
            self.backoff.left(member.id, now)
            why = "" if member.wants is None else f" ({member.wants})"
            after = f"left after {count(rounds, 'round')}{why}"
            self._say("info", f"worker {member.label} {after}", member)
        elif killed and member.failure is None:
            self.backoff.left(member.id, now)
            self._say("warning", f"worker {member.label} had to be killed", member)
        else:
            self._unplanned(member, reason, rounds, good, at, now)
        counts = member.failure is not None or not (planned or killed)
        if member.pid is not None:
            self._do([Bury(member.id, self.name, member.slot, reason, counts)])

    def _unplanned(
        self, member: Member, reason: str, rounds: int, good: int, at: str, now: float
    ) -> None:
        self.deaths += 1
        self.last_deaths.append((member.slot, member.pid, at, reason, rounds))
        del self.last_deaths[:-REMEMBERED]
        evidence = self._current_code(member) and (not member.leaving or member.at_fault)
        if self.mode is Mode.UP and evidence:
            self._mourn(member, reason, good, now)
        else:
            self.backoff.left(member.id, now)
        text = f"worker {member.label} died: {reason}, after {count(rounds, 'round')}"
        self._say("warning", text + self._what_next(member, evidence, now), member)

    def _mourn(self, member: Member, reason: str, good: int, now: float) -> None:
        self._bereaved.add(member.slot)
        self._proven.discard(member.slot)
        if good and self._proves(member):
            self.backoff.end()
        lasted = self.ever_ready and now - member.born_at >= self.settings.backoff.reset
        birth = Birth.FIRST if lasted else member.birth
        if birth is Birth.PROBE and not self.ever_ready:
            self.hopeless = reason
        was_active = self.backoff.active
        self.backoff.died(member.id, birth, good, now)
        if self.backoff.active and not was_active:
            self._watch_evidence()

    def _what_next(self, member: Member, evidence: bool, now: float) -> str:
        if self.mode is not Mode.UP or not evidence or member.slot >= self.target:
            return ""
        if self.hopeless is not None:
            return "; giving up"
        if self.backoff.next_start is not None:
            return f"; starting again in {seconds(max(self.backoff.next_start - now, 0.0))}"
        if self.backoff.active:
            return "; waiting for the probe in back-off"
        return "; starting again"

    def _watch_evidence(self) -> None:
        for member in self.members.values():
            if member.state is State.READY and self._proves(member):
                self._do([WatchRounds(member.id)])

    # -- a new generation -----------------------------------------------------

    def propose(self, settings: Settings, generation: int, now: float) -> None:
        """Begin to prove new settings and code, beside the old."""
        zygote = self._new_zygote(settings, generation, now)
        self.candidate = Candidate(settings, generation, zygote)

    def abandon(self, now: float) -> None:
        """Throw the proposed generation away; the old one goes on."""
        candidate, self.candidate = self.candidate, None
        if candidate is None:
            return
        canary = self.members.get(candidate.canary) if candidate.canary is not None else None
        if canary is not None:
            canary.birth = Birth.REFUSED
            self._do(canary.drain(now))

    def commit(self) -> None:
        """The proposed generation is proven everywhere: it is the current one now."""
        candidate, self.candidate = self.candidate, None
        assert candidate is not None
        self.settings = candidate.settings
        self.generation = candidate.generation
        self.target = candidate.target
        self.zygote = candidate.zygote
        self.mode = Mode.UP
        self.ever_ready = True
        self.backoff = Backoff(self.settings.backoff, self._context.jitter)
        self._bereaved.clear()
        self._proven = {m.slot for m in self.members.values() if m.id == candidate.canary}
        self._import_again = None
        self._import_failures = 0

    def prove(self, now: float) -> None:
        """Take the proof a step further, if there is one and it can go on."""
        candidate = self.candidate
        if candidate is None or candidate.failure is not None:
            return
        if candidate.trial is Trial.IMPORTED:
            self._begin_canary(candidate, now)
        if candidate.trial is Trial.YIELDING and not self._in_slot(0):
            self._spawn_canary(candidate, now)

    def _begin_canary(self, candidate: Candidate, now: float) -> None:
        if candidate.settings.workers == 0:
            candidate.trial = Trial.PROVEN
        elif candidate.settings.surge > 0:
            if self._room_ahead(candidate.settings.surge):
                self._spawn_canary(candidate, now)
        elif not self._in_slot(0):
            self._spawn_canary(candidate, now)
        elif self._room_to_leave(self._ahead()):
            candidate.trial = Trial.YIELDING
            for member in self._in_slot(0):
                self._do(member.drain(now))

    def _spawn_canary(self, candidate: Candidate, now: float) -> None:
        candidate.trial = Trial.STARTING
        candidate.canary = self._spawn(
            0, Birth.CANARY, candidate.settings, candidate.generation, candidate.zygote, now
        )
        self._send_orders()

    # -- what follows from the state --------------------------------------------

    def tick(self, now: float) -> None:
        """Do what is due."""
        for member in list(self.members.values()):
            self._do(member.tick(now))
            self._check_birth(member, now)
        for zygote in list(self.zygotes.values()):
            if zygote.deadline is not None and now >= zygote.deadline:
                self._import_timed_out(zygote, now)
        reset = self._probe_reset()
        if reset is not None and now >= reset:
            self._say("info", f"pool {self.name}: the probe lives, back-off is over")
            self.backoff.end()

    def settle(self, now: float) -> None:
        """Apply the rules of the state: let go, fill, replace, tidy up."""
        if self.mode is Mode.UP:
            if self._import_again is not None and now >= self._import_again:
                self._start_zygote(now)
            change = self._to_change()
            if change:
                self._shrink(now)
                self._relieve(now)
            if self.zygote_ready:
                self._fill(now)
            if self.zygote_ready and change:
                self._replace(now)
            self._send_orders()
        self._drop_zygotes()

    def _to_change(self) -> bool:
        """Whether a worker has no place here any more, or only until its successor is ready."""
        return any(
            member.slot >= self.target or self._outdated(member)
            for member in self.members.values()
            if not member.leaving
        )

    def _shrink(self, now: float) -> None:
        """Slots past the target are given up."""
        for member in self.staying():
            if member.slot >= self.target and not self._is_canary(member):
                self._do(member.drain(now))

    def _relieve(self, now: float) -> None:
        """A worker may go once its successor is ready, or a better one is on its way."""
        staying = [m for m in self.staying() if not self._is_canary(m)]
        ready = [m for m in staying if m.state is State.READY]
        renewed = {m.slot for m in ready if self._current(m)}
        youngest = {m.slot: m.id for m in sorted(ready, key=lambda m: m.id)}
        for member in staying:
            if not self._outdated(member):
                continue
            followed = member.slot in renewed or member.id < youngest.get(member.slot, 0)
            if followed or self._superseded(member, staying):
                self._do(member.drain(now))

    def _superseded(self, member: Member, staying: list[Member]) -> bool:
        """Whether it is a successor that a reload has overtaken before it was ready."""
        return (
            member.state is State.STARTING
            and not self._current_code(member)
            and any(other.slot == member.slot and other is not member for other in staying)
        )

    def _fill(self, now: float) -> None:
        """Every slot has a worker; in back-off only a probe is tried."""
        if self.backoff.active:
            self._probe(now)
            return
        for slot in self._vacancies():
            self._spawn_current(slot, self._birth(slot, Birth.FIRST), now)

    def _probe(self, now: float) -> None:
        slot = self._probe_slot()
        if slot is not None:
            if self.backoff.due(now):
                self.backoff.probing(self._spawn_current(slot, Birth.PROBE, now))
        elif self.backoff.probe is None and self._nothing_missing():
            self._say("info", f"pool {self.name}: no worker is missing, back-off is over")
            self.backoff.end()

    def _replace(self, now: float) -> None:
        """Outdated workers get successors, ahead of them or, with surge 0, after them."""
        if self.backoff.active or self._canary_waits():
            return
        for slot in self._to_renew():
            if self.settings.surge == 0:
                if self._in_flux():
                    return
                for member in self._in_slot(slot):
                    if self._outdated(member):
                        self._do(member.drain(now))
            elif not self._room_ahead(self.settings.surge):
                return
            else:
                self._spawn_current(slot, self._birth(slot, Birth.SUCCESSOR), now)

    def _drop_zygotes(self) -> None:
        used = {m.zygote for m in self.members.values()}
        if self.mode is not Mode.LEAVING:
            used |= {self.zygote or 0}
        if self.candidate is not None:
            used |= {self.candidate.zygote}
        for zygote in self.zygotes.values():
            if zygote.id not in used:
                self._drop_zygote(zygote)

    # -- helpers ----------------------------------------------------------------

    def _is_canary(self, member: Member) -> bool:
        return self.candidate is not None and member.id == self.candidate.canary

    def _outdated(self, member: Member) -> bool:
        if self._is_canary(member):
            return False
        return member.generation != self.generation or member.wants is not None

    def _current(self, member: Member) -> bool:
        return member.generation == self.generation and member.wants is None

    def _current_code(self, member: Member) -> bool:
        return member.generation == self.generation and member.birth is not Birth.REFUSED

    def _proves(self, member: Member) -> bool:
        """Whether a round of it says that the code works."""
        return self._current_code(member) and self.backoff.proves(member.born_at)

    def _in_slot(self, slot: int) -> list[Member]:
        return [m for m in self.members.values() if m.slot == slot]

    def _vacancies(self) -> list[int]:
        """The slots without a worker; one that is ended for a failure has its slot until then."""
        apart = self.settings.surge == 0
        taken = {
            m.slot
            for m in self.members.values()
            if (apart or not m.leaving or m.at_fault) and not self._is_canary(m)
        }
        if self._reserved_for_canary():
            taken.add(0)
        return [slot for slot in range(self.target) if slot not in taken]

    def _to_renew(self) -> list[int]:
        """The slots whose worker is outdated and has no successor yet, the oldest first.

        Not by their number: where workers are recycled fast, the first slots would
        have their next turn before the last ones had any.
        """
        oldest: dict[int, int] = {}
        covered = set()
        for member in self.members.values():
            if member.at_fault or (self._current(member) and not member.leaving):
                covered.add(member.slot)
            elif not member.leaving and self._outdated(member):
                oldest[member.slot] = min(member.id, oldest.get(member.slot, member.id))
        return sorted(oldest.keys() - covered, key=lambda slot: oldest[slot])

    def _probe_slot(self) -> int | None:
        """Where a probe can be started now: an empty slot, else beside an outdated worker."""
        vacancies = self._vacancies()
        if vacancies:
            return vacancies[0]
        if self.settings.surge == 0 or not self._room_ahead(self.settings.surge):
            return None
        return next(iter(self._to_renew()), None)

    def _nothing_missing(self) -> bool:
        return self.candidate is None and not self._vacancies() and not self._to_renew()

    def _birth(self, slot: int, otherwise: Birth) -> Birth:
        return Birth.REPLACEMENT if slot in self._bereaved else otherwise

    def _reserved_for_canary(self) -> bool:
        candidate = self.candidate
        if candidate is None or candidate.settings.surge > 0:
            return False
        return candidate.trial in (Trial.YIELDING, Trial.STARTING, Trial.PROVEN)

    def _canary_waits(self) -> bool:
        """Whether a reload waits for room, which recycling must not take away again and again."""
        return self.candidate is not None and self.candidate.trial is Trial.IMPORTED

    def _room_ahead(self, surge: int) -> bool:
        """Whether one more may be started beside its predecessor.

        Those ahead count for ``surge``; each of them will make its predecessor
        leave, and of those that leave there are never more than ``workers``.
        """
        ahead = self._ahead()
        return ahead < surge and self._room_to_leave(ahead)

    def _ahead(self) -> int:
        """How many there are beside others; a canary is, though its slot may be empty now."""
        staying = self.staying()
        slots = {m.slot for m in staying if not self._is_canary(m)}
        return len(staying) - len(slots)

    def _room_to_leave(self, ahead: int) -> bool:
        return len(self.leaving()) + ahead < max(self.target, 1)

    def _in_flux(self) -> bool:
        """Whether a slot is between two workers (surge 0 replaces one by one)."""
        return len(self.members) < self.target or any(
            m.state is not State.READY for m in self.members.values()
        )

    def _spawn_current(self, slot: int, birth: Birth, now: float) -> int:
        assert self.zygote is not None
        return self._spawn(slot, birth, self.settings, self.generation, self.zygote, now)

    def _spawn(
        self,
        slot: int,
        birth: Birth,
        settings: Settings,
        generation: int,
        zygote: int,
        now: float,
    ) -> int:
        worker = self._context.new_id()
        member = Member(worker, settings, generation, zygote, slot, birth, now)
        if settings.max_age is not None:
            member.age_limit = now + settings.max_age * self._spread()
        self.members[worker] = member
        self._bereaved.discard(slot)
        rounds = max(int((settings.max_rounds or 0) * self._spread()), 1)
        order = Order(
            worker,
            self.name,
            slot,
            rounds if settings.max_rounds else 0,
            int((settings.max_rss or 0) * self._spread()),
        )
        self._orders.setdefault(zygote, []).append(order)
        return worker

    def _spread(self) -> float:
        """Limits are met up to a tenth early, so that a pool doesn't turn over at once."""
        return 1.0 - 0.1 * self._context.jitter()

    def _send_orders(self) -> None:
        for zygote, orders in self._orders.items():
            self._do([Spawn(zygote, tuple(orders))])
        self._orders.clear()

    def _probe_start(self) -> float | None:
        """When the next probe is due; None while none could be started then."""
        if self.backoff.next_start is None or not self.zygote_ready:
            return None
        return None if self._probe_slot() is None else self.backoff.next_start

    def _probe_reset(self) -> float | None:
        """When the probe has lived long enough; until a first setup() ended, that is no proof."""
        probe = self.members.get(self.backoff.probe) if self.backoff.probe else None
        if probe is None or not self.ever_ready:
            return None
        return probe.born_at + self.settings.backoff.reset

    def _check_birth(self, member: Member, now: float) -> None:
        """A zygote that does not fork in time is of no use."""
        if member.pid is None and member.kill_at is not None:
            zygote = self.zygotes.get(member.zygote)
            if zygote is not None and zygote.stage is Stage.READY:
                self.zygote_failed(zygote, "its zygote does not fork", now)
                self._do([KillZygote(zygote.id)])

    def _import_timed_out(self, zygote: Zygote, now: float) -> None:
        limit = seconds(zygote.settings.ready_timeout)
        reason = f"importing {zygote.settings.worker} took longer than {limit}"
        self.zygote_failed(zygote, reason, now)
        self._do([KillZygote(zygote.id)])

    def _do(self, actions: Iterable[Action]) -> None:
        self._context.out.extend(actions)

    def _say(self, level: str, text: str, member: Member | None = None) -> None:
        slot = None if member is None else member.slot
        generation = self.generation if member is None else member.generation
        self._do([Say(level, text, self.name, slot, generation)])
