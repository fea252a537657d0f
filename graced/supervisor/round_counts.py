"""What a pool's workers have done so far, those that are gone included: it only grows.

A worker counts in its own record; when that is given back, it is added up here.
"""

from __future__ import annotations

from graced.host.histogram import BUCKETS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from graced.host.scoreboard import WorkerRecord

NANOSECONDS = 1_000_000_000


class RoundCounts:
    """Rounds by how they ended and how long they took, and the time that workers were busy."""

    __slots__ = ("buckets", "busy", "cut", "errors", "good", "ns")

    def __init__(self) -> None:
        self.good = 0
        self.errors = 0
        self.cut = 0  # interrupted, or ended by sys.exit()
        self.busy = 0.0  # seconds, of rounds in hand too
        self.ns = 0  # of rounds that ended
        self.buckets = [0] * BUCKETS

    def add(self, record: WorkerRecord, busy: float) -> None:
        """Add what a worker has done in its life so far."""
        self.good += record.good
        self.errors += record.errors
        self.cut += record.cut
        self.busy += busy
        self.ns += record.busy_ns
        self.buckets = [sum(pair) for pair in zip(self.buckets, record.round_buckets)]

    def copy(self) -> RoundCounts:
        """Return one to go on with, for a moment's sum."""
        twin = RoundCounts()
        for name in self.__slots__:
            setattr(twin, name, getattr(self, name))
        return twin

    def picture(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "rounds": {"ok": self.good, "error": self.errors, "interrupted": self.cut},
            "busy_seconds": self.busy,
            "round_seconds": {"sum": self.ns / NANOSECONDS, "buckets": self.buckets},
        }
