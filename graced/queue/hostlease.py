"""A host's lease of a queue on a server: until when its workers may hold jobs. Pure rules.

The server grants it by its own clock, from the moment at which it got the request; the host counts
from before it asked, so it never believes to have it longer than the server does. Times are
CLOCK_BOOTTIME in seconds, which goes on while the machine is suspended.

What is done to the workers of a host that can't renew it is decided by the main process, see
:mod:`graced.core.fence`.
"""

from __future__ import annotations

from graced.fencing import KILL_BEFORE_S

RENEWALS = 3  # in the length of a lease, so that one or two may fail


class HostLease:
    """What one host knows of its lease."""

    __slots__ = ("asked_at", "length", "until")

    def __init__(self, length: float) -> None:
        self.length = length  # seconds; the one that is asked for next
        self.asked_at = 0.0
        self.until = 0.0  # 0: there is none

    def granted(self, asked_at: float, length: float) -> None:
        """A request of that moment was answered: it has the lease."""
        self.asked_at = asked_at
        self.length = length
        self.until = asked_at + length

    def lost(self) -> None:
        """The server says that it is over."""
        self.until = self.asked_at = 0.0

    def holds(self, now: float) -> bool:
        """Whether workers may be given jobs, and those they have be settled."""
        return now < self.until - KILL_BEFORE_S

    def left(self, now: float) -> float | None:
        """Return the seconds that are left of it; None if there is none."""
        return max(self.until - now, 0.0) if self.until else None

    def renew_at(self) -> float:
        """Return when to ask again, whatever else there is to say."""
        return self.asked_at + self.length / RENEWALS
