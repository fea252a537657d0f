"""How long a pool that keeps dying waits before its next start.

A worker that dies is replaced at once. If the replacement dies too before it
ended a round well, one probe at a time is started, later and later. It is over with a
round that ends well, and with a worker that waits for work and has outlived those that died.
"""

from __future__ import annotations

from collections.abc import Callable

from graced.core.states import StartReason
from graced.settings import Backoff as Limits

MIN_PROOF_S = 1.0  # seconds that a worker which waits for work has to live at least,
PROOF_FACTOR = 10  #   and how often as long as those that died


class Backoff:
    """The back-off of one pool. Times are seconds of the monotonic clock."""

    __slots__ = (
        "_jitter",
        "_longest_life",
        "delay",
        "failures",
        "limits",
        "next_start",
        "probe",
        "since",
    )

    def __init__(self, limits: Limits, jitter: Callable[[], float]) -> None:
        self.limits = limits
        self._jitter = jitter
        self.since: float | None = None  # the death that began the trouble
        self.failures = 0  # starts that failed since the pool is in back-off
        self.delay = 0.0  # the wait before the next probe
        self.next_start: float | None = None  # when the next probe may start
        self.probe: int | None = None  # the one worker that is tried
        self._longest_life = 0.0  # of those whose death made it wait

    @property
    def active(self) -> bool:
        """Whether only probes may be started."""
        return self.next_start is not None or self.probe is not None

    @property
    def proof(self) -> float:
        """The age at which a worker that waits for work has proven itself."""
        return max(MIN_PROOF_S, PROOF_FACTOR * self._longest_life)

    def died(self, worker: int, reason: StartReason, good: int, born_at: float, now: float) -> None:
        """Take note of an unplanned death."""
        if worker == self.probe:
            self.probe = None
            if good:
                self.end()
                self.since = now
            else:
                self._wait(born_at, now)
        elif self.active:
            return
        elif reason is StartReason.REPLACEMENT and not good:
            if self.since is None:  # the trouble before was over
                self.since = now
            self._wait(born_at, now)
        else:
            self.since = now

    def left(self, worker: int, now: float) -> None:
        """Take note of a planned end: a probe that was stopped proves nothing."""
        if worker == self.probe:
            self.probe = None
            self.next_start = now

    def probing(self, worker: int) -> None:
        """A probe has been started."""
        self.probe = worker
        self.next_start = None

    def due(self, now: float) -> bool:
        """Whether a probe may start now."""
        return self.next_start is not None and now >= self.next_start

    def proves(self, born_at: float) -> bool:
        """Whether a round of a worker born then says that the code works.

        Only those started since the trouble began are evidence: the healthy
        neighbours of a slot that always dies would end each back-off at once.
        """
        return self.active and self.since is not None and born_at >= self.since

    def end(self) -> None:
        """The code works again: start all that is missing."""
        self.since = self.next_start = self.probe = None
        self.failures = 0
        self.delay = self._longest_life = 0.0

    def _wait(self, born_at: float, now: float) -> None:
        self._longest_life = max(self._longest_life, now - born_at)
        self.delay = wait(self.limits, self.failures) * (0.9 + 0.1 * self._jitter())
        self.failures += 1
        self.next_start = now + self.delay


def wait(limits: Limits, failures: int) -> float:
    """Return the seconds to wait after so many failures before."""
    try:
        return min(limits.first * limits.factor**failures, limits.limit)
    except OverflowError:
        return limits.limit
