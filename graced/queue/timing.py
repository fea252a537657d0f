"""The queue's two clocks: its own for jobs, which outlive a boot; monotonic for patience."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

NEVER = float("inf")


SHOWN = ("submitted", "due", "began", "ended")  # the moments in a job's listing, in seconds


def wall_ms() -> int:
    """Return milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def boot_ms() -> int:
    """Return the milliseconds since the boot, a suspend included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Clock:
    """The queue's time, in milliseconds: the wall's, but it never goes back.

    It follows the wall clock where that is set forward: what is due then is due. Where that
    is set back it goes on at its own pace, ahead of it. The keepers that follow begin where
    it was: it is written down with the jobs, see :meth:`.dispatcher.Dispatcher.commit`.
    """

    def __init__(self) -> None:
        self._now = wall_ms()
        self._since = boot_ms()
        self._ahead = 0  # of the wall's

    def now(self) -> int:
        """Return the time."""
        elapsed, wall = boot_ms(), wall_ms()
        self._now = max(wall, self._now + elapsed - self._since)
        self._since, self._ahead = elapsed, self._now - wall
        return self._now

    def at_least(self, ms: int) -> None:
        """It has been as late as that."""
        self._now = max(self.now(), ms)

    def wall(self, ms: int) -> int:
        """Return what the wall clock shows at a moment of the queue's, as it stood at `now()`."""
        return ms - self._ahead

    def shown(self, job: dict[str, Any]) -> dict[str, Any]:
        """Put the wall clock's moments into a job's listing, and return it."""
        self.now()
        for name in SHOWN:
            if job.get(name) is not None:
                job[name] = self.wall(round(job[name] * 1000)) / 1000
        return job


class RetryTimer:
    """When to try again what failed: later and later, at a limit. Seconds of a clock."""

    __slots__ = ("_delay", "_first", "_limit", "_now", "due")

    def __init__(
        self, first: float, limit: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._now = now
        self._first = first
        self._limit = limit
        self._delay = first
        self.due: float | None = None

    def failed(self) -> None:
        """Try again after a while, a longer one each time."""
        self.due = self._now() + self._delay
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
        return NEVER if self.due is None else self.due - self._now()

    def is_due(self) -> bool:
        """Whether it is time."""
        return self.due is not None and self._now() >= self.due
