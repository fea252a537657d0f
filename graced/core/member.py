"""One worker as the core knows it: its state, and where it is on the stop ladder."""

from __future__ import annotations

from graced.core.actions import Drain, Interrupt, Kill, Say
from graced.core.states import (
    ON_THE_WAY_OUT,
    Asked,
    KillReason,
    RoundState,
    StartReason,
    WorkerState,
)
from graced.settings import Pool
from graced.units import format_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.core.actions import Action

RESEND_AFTER_S = 0.1  # seconds between two signals to a worker that has not acknowledged
UNANSWERED_AFTER_S = 1.0  # seconds until it is told that one has not acknowledged
HASTY_BELOW_S = 1.0  # seconds that one lives which asks itself to leave as soon as it has begun
KILL_RETRY_S = 0.05  # seconds until a kill that could not be decided is tried again
KILL_AGAIN_AFTER_S = 1.0  # seconds until a worker that survived SIGKILL gets it again
CANCELLED = "cancelled"  # Member.wants: its job was
IN_SETUP = 2  # Acknowledged.ack: it was asked to drain in setup(), so it interrupts itself


class Member:
    """A worker of a pool. The rung it is on began at ``rung_at``."""

    __slots__ = (
        "age_limit",
        "asked",
        "at_fault",
        "born_at",
        "failure",
        "generation",
        "held_until",
        "hold_until",
        "id",
        "kill_at",
        "kill_reason",
        "leased",
        "look_at",
        "nudge_at",
        "overdue_text",
        "pid",
        "round",
        "rung_at",
        "rung_base",
        "rung_length",
        "settings",
        "slot",
        "start_reason",
        "state",
        "told_to_drain",
        "wants",
        "was_ready",
        "zygote",
    )

    def __init__(
        self,
        worker: int,
        settings: Pool,
        generation: int,
        zygote: int,
        slot: int,
        start_reason: StartReason,
        now: float,
    ) -> None:
        self.id = worker
        self.settings = settings
        self.generation = generation
        self.zygote = zygote
        self.slot = slot
        self.start_reason = start_reason
        self.born_at = now
        self.state = WorkerState.STARTING
        self.asked = Asked.NOTHING
        self.was_ready = False  # so its handlers stand, or user code has put its own there
        self.told_to_drain = False  # since then
        self.hold_until: float | None = None  # until when it may prove to have left hastily
        self.look_at: float | None = None  # when to see whether it waits for work
        self.pid: int | None = None
        self.wants: str | None = None  # why it is to be replaced by a like one
        self.failure: str | None = None  # why the core ends it, if that is a death
        self.at_fault = False  # and it had not been asked to leave before
        self.round = RoundState.FINE
        self.overdue_text = ""
        self.kill_reason: KillReason | None = None
        self.kill_at: float | None = None  # when a kill that is wanted is tried (again)
        self.age_limit: float | None = None
        self.leased = 0.0
        self.held_until: float | None = None
        self.nudge_at: float | None = None
        self.rung_at = now
        self.rung_base = 0.0
        self.rung_length: float | None = settings.ready_timeout

    # -- what it is -----------------------------------------------------------

    @property
    def leaving(self) -> bool:
        """Whether it is on its way out."""
        return self.state in ON_THE_WAY_OUT

    @property
    def has_slot(self) -> bool:
        """Whether no other is started in its slot before its end.

        That is so for one that is ended for a failure, and for one that asks itself to
        leave: only its end shows whether the next start has to wait.
        """
        by_itself = self.state is WorkerState.INTERRUPTED and self.asked is Asked.NOTHING
        return self.at_fault or by_itself or self.hold_until is not None

    @property
    def label(self) -> str:
        """Its name in log lines: ``jobs/2 (pid 817)``."""
        name = f"{self.settings.name}/{self.slot}"
        return name if self.pid is None else f"{name} (pid {self.pid})"

    def rung_end(self) -> float | None:
        """When the rung it is on is over, leases so far included."""
        if self.rung_length is None:
            return None
        return self.rung_at + self.rung_length + (self.leased - self.rung_base)

    def deadline(self) -> float | None:
        """When something has to be done about it, or None."""
        limit = self.age_limit if self.wants is None else None
        if self.state is WorkerState.READY and self.kill_at is None:  # most are, most of the time
            if self.look_at is None or limit is None:
                return limit if self.look_at is None else self.look_at
            return min(limit, self.look_at)
        times = [
            self._not_before_lease(self.rung_end()),
            self._not_before_lease(self.kill_at),
            self.nudge_at,
            self.look_at,
            self.hold_until,
            None if self.leaving else limit,
        ]
        return min((time for time in times if time is not None), default=None)

    def longest(self, now: float) -> float:
        """Seconds that the rest of the ladder can take at most."""
        left = max((self.rung_end() or now) - now, (self.held_until or now) - now, 0.0)
        if self.state is WorkerState.DRAINING:
            left += self.settings.stop_timeout
        return left

    # -- what happens to it ---------------------------------------------------

    def ready(self) -> bool:
        """Its setup() returned; return whether it is to begin its work."""
        self.was_ready, self.told_to_drain = True, False
        if self.state is not WorkerState.STARTING:
            return False
        self.state = WorkerState.READY
        self.rung_length = None
        return True

    def acknowledged(self, ack: int, now: float) -> None:
        """It has seen a signal; one that was still in setup() interrupts itself."""
        if self.state is WorkerState.READY or (self.state is WorkerState.STARTING and ack):
            self._rung(WorkerState.DRAINING, self.settings.drain_timeout, now)
            if now - self.born_at < HASTY_BELOW_S:
                self.hold_until = self.born_at + HASTY_BELOW_S
        if self.state is WorkerState.DRAINING and ack >= IN_SETUP:
            self._rung(WorkerState.INTERRUPTED, self.settings.stop_timeout, now)
        if self.state is WorkerState.DRAINING or ack >= IN_SETUP:
            self.nudge_at = None

    def seen_in_setup(self, now: float) -> None:
        """It has no round to finish: the rest of the ladder is that of an interrupt."""
        if self.state is WorkerState.DRAINING:
            self._rung(WorkerState.INTERRUPTED, self.settings.stop_timeout, now)

    def leases(self, leased: float, held_until: float | None, now: float) -> None:
        """The ladder's clock stands still while a lease holds.

        Not for what a lease took before this rung began, though it was not known then.
        """
        self.leased = leased
        self.rung_base = max(self.rung_base, leased - (now - self.rung_at))
        self.held_until = None if self.state is WorkerState.KILLED else held_until

    def drain(self, now: float) -> list[Action]:
        """Ask it to finish the round in hand."""
        if self.leaving:
            return []
        patience = self.settings.drain_timeout
        if self.pid is None:  # and it has no round, as far as we know
            patience = min(patience, self.settings.stop_timeout)
        self.asked = Asked.DRAIN
        self._rung(WorkerState.DRAINING, patience, now)
        return self._nudge(now)

    def interrupt(self, now: float) -> list[Action]:
        """Raise WorkerInterrupt in it."""
        self.asked = Asked.INTERRUPT
        if self.state in (WorkerState.INTERRUPTED, WorkerState.KILLED):
            return []
        self._rung(WorkerState.INTERRUPTED, self.settings.stop_timeout, now)
        return self._nudge(now)

    def kill(self, now: float, kill_reason: KillReason) -> list[Action]:
        """Ask for its end. Tried again until it is answered."""
        self.kill_reason = kill_reason
        self.kill_at = now + KILL_RETRY_S
        if self.pid is None:
            return []
        force, stuck = kill_reason is KillReason.FORCED, kill_reason is KillReason.STUCK
        return [Kill(self.id, force=force, stuck=stuck)]

    def killed(self, now: float) -> None:
        """SIGKILL is on its way."""
        if self.kill_reason is KillReason.STUCK:
            self.failure, self.at_fault = self.overdue_text, not self.leaving
        self._rung(WorkerState.KILLED, KILL_AGAIN_AFTER_S, now)
        self.held_until = self.nudge_at = self.kill_at = None

    def spawned(self, pid: int, now: float) -> list[Action]:
        """It has a process now; what it was asked before reaches it."""
        self.pid = pid
        if self.state is WorkerState.DRAINING:
            self.rung_length = self.settings.drain_timeout
        if self.kill_reason is KillReason.FORCED:
            return self.kill(now, self.kill_reason)
        if self.kill_reason is KillReason.LADDER:  # it has not heard of any rung yet
            self.kill_reason = self.kill_at = None
            self._rung(WorkerState.INTERRUPTED, self.settings.stop_timeout, now)
        return self._nudge(now) if self.leaving else []

    def tick(self, now: float) -> list[Action]:
        """Do what is due: the next signal, or the next rung."""
        actions: list[Action] = []
        if self.age_limit is not None and now >= self.age_limit and self.wants is None:
            self.wants = "max_age"
        if self.hold_until is not None and now >= self.hold_until:
            self.hold_until = None
        if self.kill_reason is not None and self._over(self.kill_at, now):
            actions += self.kill(now, self.kill_reason)
        elif self._over(self.rung_end(), now):
            actions += self._next_rung(now)
        elif self.nudge_at is not None and now >= self.nudge_at:
            actions += self._nudge(now)
        return actions

    # -- the ladder -----------------------------------------------------------

    def _not_before_lease(self, time: float | None) -> float | None:
        if time is None or self.held_until is None:
            return time
        return max(time, self.held_until)

    def _over(self, time: float | None, now: float) -> bool:
        time = self._not_before_lease(time)
        return time is not None and now >= time

    def _next_rung(self, now: float) -> list[Action]:
        if self.state is WorkerState.STARTING:
            self.failure = (
                f"setup() took longer than {format_duration(self.settings.ready_timeout)}"
            )
            self.at_fault = True
            return self.interrupt(now)
        if self.state is WorkerState.DRAINING:
            return self.interrupt(now)
        if self.state is WorkerState.KILLED:
            self._rung(WorkerState.KILLED, KILL_AGAIN_AFTER_S, now)
            return self.kill(now, KillReason.FORCED)
        self.rung_length = self.nudge_at = None
        return self.kill(now, KillReason.LADDER)

    def _rung(self, state: WorkerState, length: float, now: float) -> None:
        self.state = state
        self.rung_at, self.rung_length, self.rung_base = now, length, self.leased

    def _nudge(self, now: float) -> list[Action]:
        """Send the signal of this rung, again and again until it is acknowledged.

        SIGTERM only once to a worker that is ready: it can't miss it then, and handlers that
        libraries have put there take a second one for the wish to end at once.
        """
        if self.pid is None or self.state is WorkerState.KILLED:
            return []
        if self.state is not WorkerState.DRAINING:
            self.asked = Asked.INTERRUPT
            self.nudge_at = now + RESEND_AFTER_S
            return [Interrupt(self.id)]
        if self.told_to_drain:
            self.nudge_at = None
            return [self._say_unanswered()]
        self.told_to_drain = self.was_ready
        self.nudge_at = now + (UNANSWERED_AFTER_S if self.was_ready else RESEND_AFTER_S)
        return [Drain(self.id)]

    def _say_unanswered(self) -> Say:
        text = (
            f"worker {self.label} has not answered SIGTERM for"
            f" {format_duration(UNANSWERED_AFTER_S)}: likely a handler of its own"
            " has been called instead, or it is in a call that has not"
            f" returned; it is interrupted after {format_duration(self.settings.drain_timeout)}"
        )
        return Say("info", text, self.settings.name, self.slot, self.generation)

    # -- a round that takes too long --------------------------------------------

    def overdue(self, text: str) -> bool:
        """Its round is past its deadline; returns whether that is news."""
        if self.round is not RoundState.FINE or self.state not in (
            WorkerState.READY,
            WorkerState.DRAINING,
        ):
            return False
        self.round = RoundState.OVERDUE
        self.overdue_text = text
        return True

    def stack_printed(self, now: float) -> list[Action]:
        """The stack of its overdue round is in the log: end it."""
        if self.round is not RoundState.OVERDUE or self.state is WorkerState.KILLED:
            return []
        self.round = RoundState.DOOMED
        if self.kill_reason is not None:
            return []
        self.kill_reason, self.kill_at = KillReason.STUCK, now
        return self.kill(now, KillReason.STUCK) if self._over(now, now) else []

    def recovered(self) -> None:
        """The overdue round ended before the kill."""
        self.round = RoundState.FINE
        if self.kill_reason is KillReason.STUCK:
            self.kill_reason = self.kill_at = None


def count(number: int, thing: str) -> str:
    """Write a number of things: ``1 round``, ``12 rounds``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
