"""The fence of a pool whose jobs are on a server: no worker has one when the host's lease ends.

Rules, for the workers of the pool that have a job in hand:

1.  They are interrupted `stop_timeout` before the lease ends, but not before half of it is over.
2.  They are killed one second before it ends, also in a critical section.
3.  Holders of one are looked for at both moments and again and again until the lease is over: a job
    may have been on its way. Nothing is looked for before, since a lease is renewed long before.
    Whoever could not look in time, having been stopped itself, does so as soon as it goes on.
4.  A lease that is renewed takes all of that back.

Whether the lease was renewed is what the keeper last said, whatever that does now; the supervisor
reads it before each tick. Times are monotonic seconds.
"""

from __future__ import annotations

from enum import Enum

from graced.core.actions import LookForJob, Say
from graced.core.states import KillReason, WorkerState
from graced.fencing import moments
from graced.units import format_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from graced.core.actions import Action
    from graced.core.member import Member

LOOK_AGAIN_S = 0.2  # seconds between two looks for workers with a job
LAST_LOOK_S = 1.0  # seconds after the end of a lease, or the first look to kill, until the last one


class FenceState(Enum):
    """How far it is."""

    OPEN = "open"  # there is no lease, or it is good for long
    INTERRUPTING = "interrupting"
    KILLING = "killing"
    SHUT = "shut"  # the lease is over, and nothing is left to be looked for


class Fence:
    """What one pool knows of its host's lease."""

    def __init__(self) -> None:
        self.state = FenceState.OPEN
        self._until: float | None = None  # None: its jobs are not on a server
        self._interrupt_at = 0.0
        self._kill_at = 0.0
        self._shut_at = 0.0
        self._look_at: float | None = None

    def held(self, until: float, length: float, stop_timeout: float) -> None:
        """The host has the lease until then; it was granted for so many seconds."""
        self.state = FenceState.OPEN
        self._until = until
        self._interrupt_at, self._kill_at = moments(until, length, stop_timeout)
        self._look_at = self._interrupt_at

    def next_deadline(self) -> float | None:
        """When :meth:`tick` has something to do, or None."""
        return self._look_at

    def tick(self, name: str, members: Iterable[Member], now: float) -> list[Action]:
        """Look for workers with a job, if it is time."""
        if self._until is None or self._look_at is None or now < self._look_at:
            return []
        said = self._advance(name, now)
        self._look_at = None
        if self.state is FenceState.SHUT:
            return said
        next_looks = [now + LOOK_AGAIN_S]
        if now < self._kill_at:
            next_looks.append(self._kill_at)
        self._look_at = min(next_looks)
        return said + [LookForJob(m.id) for m in members if m.state is not WorkerState.KILLED]

    def _advance(self, name: str, now: float) -> list[Action]:
        assert self._until is not None
        before = self.state
        if now < self._kill_at:
            self.state = FenceState.INTERRUPTING
        elif before is not FenceState.KILLING:
            self.state = FenceState.KILLING
            self._shut_at = max(self._until, now) + LAST_LOOK_S
        elif now >= self._shut_at:
            self.state = FenceState.SHUT
        if before is not FenceState.OPEN:
            return []
        left = self._until - now
        when = "is over" if left <= 0 else f"ends in {format_duration(left)}"
        text = (
            f"pool {name}: the lease of its queue is not renewed and {when};"
            " workers with a job in hand are stopped, and start anew"
        )
        return [Say("error", text, name)]

    def found(self, member: Member, now: float) -> list[Action]:
        """A worker that was looked at has a job in hand."""
        if self._until is None or now < self._interrupt_at:
            return []
        if now >= self._kill_at:
            return member.kill(now, KillReason.FORCED)
        return member.interrupt(now)
