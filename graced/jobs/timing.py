"""The queue's two clocks: the wall's for jobs, which outlive a boot; monotonic for patience."""

from __future__ import annotations

import time

NEVER = float("inf")


def wall_ms() -> int:
    """Return milliseconds since the epoch: what is due must still be so after a boot."""
    return time.time_ns() // 1_000_000


class Patience:
    """When to try again what failed: later and later, at a limit. Monotonic seconds."""

    __slots__ = ("_delay", "_first", "_limit", "due")

    def __init__(self, first: float, limit: float) -> None:
        self._first = first
        self._limit = limit
        self._delay = first
        self.due: float | None = None

    def failed(self) -> None:
        """Try again after a while, a longer one each time."""
        self.due = time.monotonic() + self._delay
        self._delay = min(2 * self._delay, self._limit)

    def soon(self) -> None:
        """Try again after the shortest while."""
        self._delay = self._first
        self.failed()

    def over(self) -> None:
        """There is nothing to try."""
        self._delay = self._first
        self.due = None

    def left(self) -> float:
        """Return the seconds until it is time; infinity if there is nothing to try."""
        return NEVER if self.due is None else self.due - time.monotonic()

    def is_due(self) -> bool:
        """Whether it is time."""
        return self.due is not None and time.monotonic() >= self.due
