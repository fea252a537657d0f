"""Deaths of one pool's workers, and how it starts others: at once, or with back-off and probes.

Rules:

1.  A worker that left as asked, by graced or not, is no death. One that asks itself is
    evidence against the code, as a death is, if it was interrupted or left at once.
2.  A death that is the job's (it had one in hand, and its attempt counts) says nothing of the code.
3.  A first death is replaced at once; a replacement that dies without a good round begins a
    back-off, in which one probe at a time is started, see :mod:`.backoff`.
4.  A back-off ends with a good round of a worker started since, or with one that waits for work
    and has outlived those that died, or with a probe that lives for ``backoff.reset``.
5.  Of a pool that was never ready the death of a probe is the end: it is hopeless.
"""

from __future__ import annotations

from graced.core.actions import CleanUp, LookAt, NoteEnd, Say, WatchRounds
from graced.core.backoff import Backoff
from graced.core.counters import DeathCause
from graced.core.counters import count as count_one
from graced.core.member import CANCELLED, HASTY_BELOW_S, Member, count
from graced.core.states import Asked, StartReason, WorkerState
from graced.units import format_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.core.context import Context
    from graced.core.events import Died
    from graced.core.slots import Candidate, Slots

MAX_LAST_DEATHS = 10  # deaths shown in a status
LADDER = "ladder"  # the cause of an end that was asked for, and took too long
UNASKED = "was interrupted, but not by graced: by a SIGINT of its own, or by hand"


class Restarts:
    """What one pool has learned from its workers' ends, and from those that work."""

    def __init__(self, slots: Slots, context: Context) -> None:
        self.backoff = Backoff(slots.settings.backoff, context.jitter)
        self.ever_ready = False
        self.hopeless: str | None = None  # why a first start can't succeed
        self.deaths = 0
        self.kills = 0  # workers that the ladder had to kill
        self.evidence = ""  # what the last worker that counts for the back-off died of
        self.last_deaths: list[tuple[int, int | None, str, str, int]] = []
        self.slots_with_death: set[int] = set()  # their next worker is a replacement
        self.proven: set[int] = set()  # slots that had a ready worker, and no death since
        self._slots = slots
        self._context = context
        self._counters = context.counters.of(slots.settings.name)

    def put_in_force(self, candidate: Candidate) -> None:
        """Begin anew, with a generation that has proven itself."""
        self.ever_ready = True
        self.backoff = Backoff(self._slots.settings.backoff, self._context.jitter)
        self.slots_with_death.clear()
        self.proven = {m.slot for m in self._slots.members.values() if m.id == candidate.canary}

    def became_ready(self, member: Member) -> None:
        """A worker's setup() returned."""
        self.ever_ready = True
        if self._slots.current_code(member):
            self.proven.add(member.slot)
        if self._proves(member):
            self._watch_proof(member)

    def round_done(self, member: Member) -> None:
        """A worker that was watched ended a round well."""
        if self._proves(member):
            self._say(
                "info", f"pool {self._slots.settings.name}: a round was completed, back-off is over"
            )
            self.backoff.end()

    def seen_waiting(self, member: Member, now: float) -> None:
        """A worker waits for work; that proves it if it has outlived those that died."""
        if self._proves(member) and now - member.born_at >= self.backoff.proof:
            lived = format_duration(now - member.born_at)
            self._say(
                "info",
                f"pool {self._slots.settings.name}: worker {member.label} has lived for"
                f" {lived} and waits for work, back-off is over",
                member,
            )
            self.backoff.end()

    def died(self, member: Member, event: Died, now: float, *, is_up: bool) -> None:
        """A worker is gone: decide what it says of the code, and of its job."""
        self.ever_ready = self.ever_ready or event.was_ready
        reason = member.failure or event.reason
        planned = event.planned or (event.clean and member.asked is not Asked.NOTHING)
        killed = member.state is WorkerState.KILLED and not planned
        cut = event.interrupted and member.asked is not Asked.INTERRUPT
        unasked = planned and (cut or (event.job and member.asked is Asked.NOTHING))
        counts = member.failure is not None or unasked or not (planned or killed)
        jobs = event.job and counts  # its death is the job's, and says nothing of the code
        if self._slots.is_canary(member) and not jobs and member.wants != CANCELLED:
            assert self._slots.candidate is not None
            self._slots.candidate.failure = reason
        if killed and (member.failure is None or not is_up):
            self.kills += 1
        if member.failure is None and (planned or event.own_handler):
            self._left(member, event, unasked, jobs, now, is_up=is_up)
        elif killed and member.failure is None:
            self.backoff.left(member.id, now)
            count_one(self._counters.stops, "kill")
            self._note(member, LADDER, "had to be killed", event)
            self._say("warning", f"worker {member.label} had to be killed", member)
        else:
            self._unplanned(member, reason, event, jobs, now, is_up=is_up)
        if member.pid is not None:
            cut = unasked and member.failure is None
            why = UNASKED if cut else reason
            self._context.do(
                [CleanUp(member.id, self._slots.settings.name, member.slot, why, counts, cut)]
            )

    def _left(
        self, member: Member, event: Died, unasked: bool, jobs: bool, now: float, *, is_up: bool
    ) -> None:
        """A worker has left as it was asked to, though perhaps not by us: that is no death.

        But one that asks itself would do so for ever, so it is evidence if no other process
        need have asked: it was interrupted, or it left as soon as it had begun.
        """
        if member.pid is not None:
            count_one(self._counters.stops, _rung(member, event))
        how = UNASKED if unasked else _how_it_left(member, event)
        hasty = not event.good and now - member.born_at < HASTY_BELOW_S
        own = member.asked is Asked.NOTHING and (unasked or hasty)
        if own and not jobs and is_up and self._slots.current_code(member):
            self._record_death(member, f"its worker {how}", event.good, now)
            how += self._what_next(member, True, now)
        else:
            self.backoff.left(member.id, now)
        level = "warning" if unasked else "info"
        self._say(level, f"worker {member.label} {how}", member)

    def _unplanned(
        self, member: Member, reason: str, event: Died, jobs: bool, now: float, *, is_up: bool
    ) -> None:
        if self._is_in_force(member):
            self.deaths += 1
            self.last_deaths.append((member.slot, member.pid, event.at, reason, event.rounds))
            del self.last_deaths[:-MAX_LAST_DEATHS]
            cause = _cause(member, event)
            count_one(self._counters.deaths, cause)
            self._note(member, cause, reason, event)
        missed = self._slots.current_code(member) and (not member.leaving or member.at_fault)
        if is_up and missed and not jobs:
            self._record_death(member, reason, event.good, now)
        else:
            self.backoff.left(member.id, now)
        text = f"worker {member.label} died: {reason}, after {count(event.rounds, 'round')}"
        self._say("warning", text + self._what_next(member, is_up and missed, now), member)

    def _note(self, member: Member, cause: str, reason: str, event: Died) -> None:
        name = self._slots.settings.name
        end = NoteEnd(member.id, name, member.slot, member.pid, cause, reason, event.rounds)
        self._context.do([end])

    def _is_in_force(self, member: Member) -> bool:
        """Whether it is no canary; what that died of is the reason of a refused reload."""
        on_trial = self._slots.candidate is not None and member.id == self._slots.candidate.canary
        return not on_trial and member.start_reason is not StartReason.REFUSED

    def _record_death(self, member: Member, reason: str, good: int, now: float) -> None:
        self.evidence = reason
        self.slots_with_death.add(member.slot)
        self.proven.discard(member.slot)
        if good and self._proves(member):
            self.backoff.end()
        lasted = self.ever_ready and now - member.born_at >= self._slots.settings.backoff.reset
        start_reason = StartReason.FIRST if lasted else member.start_reason
        if start_reason is StartReason.PROBE and not self.ever_ready:
            self.hopeless = reason
        was_active = self.backoff.active
        self.backoff.died(member.id, start_reason, good, member.born_at, now)
        if self.backoff.active and not was_active:
            self._watch_evidence()

    def _what_next(self, member: Member, evidence: bool, now: float) -> str:
        if not evidence or member.slot >= self._slots.target:
            return ""
        if self.hopeless is not None:
            return "; giving up"
        if self.backoff.next_start is not None:
            return f"; starting again in {format_duration(max(self.backoff.next_start - now, 0.0))}"
        if self.backoff.active:
            return "; waiting for the probe in back-off"
        return "; starting again"

    def _watch_evidence(self) -> None:
        for member in self._slots.members.values():
            if member.state is WorkerState.READY and self._proves(member):
                self._watch_proof(member)

    def _watch_proof(self, member: Member) -> None:
        """What ends a back-off: a round, or to wait for work and live."""
        member.look_at = member.born_at + self.backoff.proof
        self._context.do([WatchRounds(member.id)])

    def look(self, member: Member, now: float) -> None:
        """See what one that may prove the code does; if it is busy, again at twice its age."""
        if member.look_at is None or now < member.look_at:
            return
        member.look_at = None
        if self._proves(member) and not member.leaving:
            age = now - member.born_at
            if age >= self.backoff.proof:
                self._context.do([LookAt(member.id)])
            member.look_at = member.born_at + max(2 * age, self.backoff.proof)

    def _proves(self, member: Member) -> bool:
        """Whether a round of it says that the code works."""
        return self._slots.current_code(member) and self.backoff.proves(member.born_at)

    def reason_for(self, slot: int, otherwise: StartReason) -> StartReason:
        return StartReason.REPLACEMENT if slot in self.slots_with_death else otherwise

    def probe_reset(self) -> float | None:
        """When the probe has lived long enough; until a first setup() ended, that is no proof."""
        probe = self._slots.members.get(self.backoff.probe) if self.backoff.probe else None
        if probe is None or not self.ever_ready:
            return None
        return probe.born_at + self._slots.settings.backoff.reset

    def _say(self, level: str, text: str, member: Member | None = None) -> None:
        slots = self._slots
        slot = None if member is None else member.slot
        generation = slots.generation if member is None else member.generation
        self._context.do([Say(level, text, slots.settings.name, slot, generation)])


def _rung(member: Member, event: Died) -> str:
    """Say on which rung of the ladder a worker left that was to leave, or had itself leave."""
    if member.state is WorkerState.KILLED:
        return "kill"
    is_interrupt = event.interrupted or member.state is WorkerState.INTERRUPTED
    return "interrupt" if is_interrupt else "drain"


def _cause(member: Member, event: Died) -> str:
    """Name what a worker died of: what the core ended it for, before how it ended."""
    if member.failure is None:
        return event.cause
    is_stuck = member.failure == member.overdue_text
    return DeathCause.ROUND_TIMEOUT if is_stuck else DeathCause.READY_TIMEOUT


def _how_it_left(member: Member, event: Died) -> str:
    """Say how a worker left that was asked to."""
    if member.pid is None:
        return "left before it was forked"
    asked = member.asked is not Asked.NOTHING or not event.own_handler
    why = f" ({member.wants})" if member.wants is not None else ""
    how = "" if asked else f": {event.reason}"
    return f"left after {count(event.rounds, 'round')}{why}{how}"
