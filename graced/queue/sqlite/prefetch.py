"""Workers as a queue knows them, and the jobs that are reserved for the quick ones.

A quick worker's next jobs are *reserved* by the commit that settles its last one, so that
they are handed out without waiting for the next commit, which may settle several. A
reserved job still waits: idle workers may have it, and a worker that is no longer quick
loses it. When that is done is said in :mod:`.dispatcher`.
"""

from __future__ import annotations

from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.queue.sqlite.rows import Row

QUICK = 50  # ms in which a worker does all that is reserved for it,
DEPTH = 16  # jobs at most


class Consumer:
    """A worker, as the queue knows it."""

    __slots__ = ("capacity", "depth", "name", "prefetched", "rows", "since", "withheld")

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: dict[int, Row] = {}  # handed to it, and not settled
        self.prefetched: dict[int, Row] = {}  # its next jobs, unless an idle worker is there first
        self.capacity = 1  # how many it takes at once; quick ones of more get no reserves
        self.depth = 0  # how many those may be
        self.since = 0  # when it got its job
        self.withheld = False  # it is about to be interrupted, and gets nothing more

    def took(self, ms: int) -> None:
        """Take note of how long a round took, of one that has one job at a time."""
        self.depth = min(QUICK // max(ms, 1), DEPTH)

    def next_reserved(self) -> Row | None:
        """Return the first of its next jobs, of those with the highest priority."""
        return max(self.prefetched.values(), key=_priority, default=None)


class Prefetch:
    """All that is reserved, in the order in which it was. Times are milliseconds."""

    def __init__(self) -> None:
        self._all: deque[tuple[int, Consumer, Row]] = deque()  # some entries are stale

    def add(self, consumer: Consumer, row: Row, now: int) -> None:
        """A job is reserved for a worker."""
        consumer.prefetched[row.id] = row
        self._all.append((now, consumer, row))

    def slowest(self, now: int) -> Consumer | None:
        """Return a worker that has left a reserved job waiting for too long."""
        while self._all:
            since, consumer, row = self._all[0]
            if consumer.prefetched.get(row.id) is row:
                return consumer if now - since > QUICK else None
            self._all.popleft()
        return None

    def reclaim(self) -> Row | None:
        """Take what has been reserved for the longest time."""
        while self._all:
            _since, consumer, row = self._all.popleft()
            if consumer.prefetched.pop(row.id, None) is row:
                return row
        return None

    def reclaim_above(self, priority: int | None) -> Row | None:
        """Take the first job that is reserved, of those with the highest priority above one."""
        found: tuple[Consumer, Row] | None = None
        least = priority
        for _since, consumer, row in self._all:
            if (least is None or row.priority > least) and consumer.prefetched.get(row.id) is row:
                found, least = (consumer, row), row.priority
        if found is None:
            return None
        consumer, row = found
        return consumer.prefetched.pop(row.id)


def _priority(row: Row) -> int:
    return row.priority
