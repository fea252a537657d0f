"""The slots of one pool: which worker has which, which are to be renewed, how much room there is.

Questions only. Each worker is measured by the generation in force; what is done
about the answers is in :mod:`graced.core.pool`.
"""

from __future__ import annotations

from graced.core.states import CandidateState, StartReason, WorkerState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.core.member import Member
    from graced.settings import Pool as Settings


class Candidate:
    """What a reload proposes to one pool. The first worker of it is the canary."""

    __slots__ = ("canary", "failure", "generation", "settings", "state", "target", "zygote")

    def __init__(self, settings: Settings, generation: int, zygote: int) -> None:
        self.settings = settings
        self.target = settings.workers  # unless it is scaled while it is proven
        self.generation = generation
        self.zygote = zygote
        self.state = CandidateState.IMPORTING
        self.canary: int | None = None
        self.failure: str | None = None

    @property
    def has_slot(self) -> bool:
        """Whether slot 0 is its canary's alone, empty or not (``surge: 0``)."""
        if self.settings.surge > 0:
            return False
        return self.state in (
            CandidateState.YIELDING,
            CandidateState.STARTING,
            CandidateState.PROVEN,
        )

    @property
    def waits(self) -> bool:
        """Whether it waits for room, which recycling must not take away again and again."""
        return self.state is CandidateState.IMPORTED


class Slots:
    """The workers of one pool, over all its generations, by their places."""

    __slots__ = ("candidate", "generation", "members", "settings", "target")

    def __init__(self, settings: Settings, generation: int) -> None:
        self.settings = settings  # in force,
        self.generation = generation  #   as this is
        self.target = settings.workers  # until it is scaled
        self.candidate: Candidate | None = None
        self.members: dict[int, Member] = {}

    def put_in_force(self, candidate: Candidate) -> None:
        """Measure every worker by this generation from now on."""
        self.candidate = None
        self.settings = candidate.settings
        self.generation = candidate.generation
        self.target = candidate.target

    # -- one worker -----------------------------------------------------------

    def is_canary(self, member: Member) -> bool:
        """Whether it is the first of the generation that is being proven."""
        return self.candidate is not None and member.id == self.candidate.canary

    def outdated(self, member: Member) -> bool:
        """Whether another is to take its place."""
        if self.is_canary(member):
            return False
        return member.generation != self.generation or member.wants is not None

    def current(self, member: Member) -> bool:
        """Whether it is as it should be."""
        return member.generation == self.generation and member.wants is None

    def current_code(self, member: Member) -> bool:
        """Whether its death says something of the code in force."""
        return (
            member.generation == self.generation and member.start_reason is not StartReason.REFUSED
        )

    # -- all workers ----------------------------------------------------------

    def staying(self) -> list[Member]:
        """The workers that are not on their way out, a canary included."""
        return [m for m in self.members.values() if not m.leaving]

    def leaving(self) -> list[Member]:
        """The workers that are on their way out."""
        return [m for m in self.members.values() if m.leaving]

    def ready(self) -> list[Member]:
        """The workers that take rounds."""
        return [m for m in self.members.values() if m.state is WorkerState.READY]

    def of(self, slot: int) -> list[Member]:
        """The workers that have a slot; two, while one replaces the other."""
        return [m for m in self.members.values() if m.slot == slot]

    def all_ready(self) -> bool:
        """Whether every slot has a ready worker."""
        return len({m.slot for m in self.ready()}) >= self.target

    def to_change(self) -> bool:
        """Whether a worker has no place here any more, or only until its successor is ready."""
        return any(
            member.slot >= self.target or self.outdated(member)
            for member in self.members.values()
            if not member.leaving
        )

    def surplus(self) -> list[Member]:
        """The workers in slots past the target."""
        return [m for m in self.staying() if m.slot >= self.target and not self.is_canary(m)]

    def relieved(self) -> list[Member]:
        """The outdated whose successor is ready, or a better one is on its way."""
        staying = [m for m in self.staying() if not self.is_canary(m)]
        ready = [m for m in staying if m.state is WorkerState.READY]
        renewed = {m.slot for m in ready if self.current(m)}
        youngest = {m.slot: m.id for m in sorted(ready, key=lambda m: m.id)}
        return [
            member
            for member in staying
            if self.outdated(member)
            and (
                member.slot in renewed
                or member.id < youngest.get(member.slot, 0)
                or self._superseded(member, staying)
            )
        ]

    def _superseded(self, member: Member, staying: list[Member]) -> bool:
        """Whether it is a successor that a reload has overtaken before it was ready."""
        return (
            member.state is WorkerState.STARTING
            and not self.current_code(member)
            and any(other.slot == member.slot and other is not member for other in staying)
        )

    # -- empty slots, and those to be renewed ------------------------------------

    def vacancies(self) -> list[int]:
        """The slots without a worker; some of those that leave have theirs until they are gone."""
        apart = self.settings.surge == 0
        taken = {
            m.slot
            for m in self.members.values()
            if (apart or not m.leaving or m.has_slot) and not self.is_canary(m)
        }
        if self.candidate is not None and self.candidate.has_slot:
            taken.add(0)
        return [slot for slot in range(self.target) if slot not in taken]

    def to_renew(self) -> list[int]:
        """The slots whose worker is outdated and has no successor yet, the oldest first.

        Not by their number: where workers are recycled fast, the first slots would
        have their next turn before the last ones had any.
        """
        oldest: dict[int, int] = {}
        covered = set()
        for member in self.members.values():
            if member.has_slot or (self.current(member) and not member.leaving):
                covered.add(member.slot)
            elif not member.leaving and self.outdated(member):
                oldest[member.slot] = min(member.id, oldest.get(member.slot, member.id))
        return sorted(oldest.keys() - covered, key=lambda slot: oldest[slot])

    def for_probe(self) -> int | None:
        """Where a probe can be started now: an empty slot, else beside an outdated worker."""
        vacancies = self.vacancies()
        if vacancies:
            return vacancies[0]
        if self.settings.surge == 0 or not self.room_ahead(self.settings.surge):
            return None
        return next(iter(self.to_renew()), None)

    def nothing_missing(self) -> bool:
        """Whether every slot has a worker that may stay there.

        With ``surge: 0`` an outdated one may: no probe is started beside it, so the
        back-off would never end, nor be over for it to be renewed.
        """
        if self.candidate is not None or self.vacancies():
            return False
        return self.settings.surge == 0 or not self.to_renew()

    # -- room -------------------------------------------------------------------

    def room_ahead(self, surge: int) -> bool:
        """Whether one more may be started beside its predecessor.

        Those ahead count for ``surge``; each of them will make its predecessor
        leave, and of those that leave there are never more than ``workers``.
        """
        ahead = self._ahead()
        return ahead < surge and self._room_to_leave(ahead)

    def room_to_leave(self) -> bool:
        """Whether one more may be on its way out."""
        return self._room_to_leave(self._ahead())

    def in_flux(self) -> bool:
        """Whether a slot is between two workers (surge 0 replaces one by one)."""
        return len(self.members) < self.target or any(
            m.state is not WorkerState.READY for m in self.members.values()
        )

    def _ahead(self) -> int:
        """How many there are beside others; a canary is, though its slot may be empty now."""
        staying = self.staying()
        slots = {m.slot for m in staying if not self.is_canary(m)}
        return len(staying) - len(slots)

    def _room_to_leave(self, ahead: int) -> bool:
        return len(self.leaving()) + ahead < max(self.target, 1)
