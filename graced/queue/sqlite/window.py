"""The waiting jobs of one priority that are in memory: those that fall due first, in order.

All others wait in the file, past a horizon, and are read ahead before those in memory
are used up. Which priority comes first is said in :mod:`.lookahead`.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import count

from graced.queue.sqlite.rows import WAITING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.queue.sqlite.rows import Row
    from graced.queue.sqlite.store import Store

    Entry = tuple[int, int, int, Row]  # due, id, one more, so that rows are never compared

AHEAD = 512  # jobs read from the file at once
LOW = 64  # read on when so few are left
MOST = 4096  # jobs kept in memory, of all priorities about; the others are in the file
FOREVER = (1 << 62, 0)
NEVER = (-1, 0)


class Window:
    """A window on the waiting rows of a priority. ``rows`` are all rows in memory."""

    def __init__(
        self, priority: int, rows: dict[int, Row], deadly: set[int], horizon: tuple[int, int]
    ) -> None:
        self._priority = priority
        self._rows = rows
        self._heap: list[Entry] = []  # some entries are stale
        self._behind: list[Entry] = []  # the same, of those under which a worker has died
        self._deadly = deadly  # their ids
        self._serial = count()
        self._horizon = horizon  # every waiting row up to here is in memory

    def first(self) -> Row | None:
        """Return the row that falls due first."""
        tops = [row for row in map(self._top, (self._heap, self._behind)) if row is not None]
        return min(tops, key=lambda row: (row.due, row.id), default=None)

    def _top(self, heap: list[Entry]) -> Row | None:
        while heap:
            if self._is_live(heap[0]):
                return heap[0][3]
            heappop(heap)
        return None

    def has_due(self, now: int) -> bool:
        """Whether there may be a due row, in memory or to be read; but deadly ones."""
        row = self._top(self._heap)
        return self.has_due_unread(now) if row is None else row.due <= now

    def has_due_unread(self, now: int) -> bool:
        """Whether there may be due rows in the file that have to be read first."""
        return self._horizon[0] <= now and self._top(self._heap) is None

    def next(self, now: int) -> Row | None:
        """Take out the first row if it is due."""
        return self._next(self._heap, now)

    def next_deadly(self, now: int) -> Row | None:
        """Take out the first due row under which a worker has died."""
        return self._next(self._behind, now)

    def _next(self, heap: list[Entry], now: int) -> Row | None:
        row = self._top(heap)
        if row is None or row.due > now:
            return None
        heappop(heap)
        return row

    def offer(self, row: Row, most: int) -> None:
        """Remember a waiting row, or leave it to the file if it comes late, or beyond so many."""
        if (row.due, row.id) > self._horizon:
            self._rows.pop(row.id, None)
            return
        self._remember(row)
        if len(self._heap) > 2 * most:
            self._trim(most)

    @property
    def is_low(self) -> bool:
        """Whether there may be rows to be read ahead, and few are left in memory."""
        return self._horizon != FOREVER and len(self._heap) <= LOW

    def read_ahead(self, store: Store) -> None:
        """Read more rows from the file. StorageError if it can't be read."""
        rows = store.ahead(self._priority, self._horizon, AHEAD)
        self._horizon = FOREVER if len(rows) < AHEAD else (rows[-1].due, rows[-1].id)
        for row in rows:
            self._remember(row)

    def lower_horizon(self, key: tuple[int, int]) -> None:
        """Leave to the file what comes after a time of falling due and an id."""
        if key >= self._horizon:
            return
        self._horizon = key
        for entry in self._heap:
            if entry[:2] > key and self._is_live(entry):
                del self._rows[entry[1]]
        self._heap = [entry for entry in self._heap if entry[:2] <= key]
        heapify(self._heap)

    def _remember(self, row: Row) -> None:
        self._rows[row.id] = row
        heap = self._behind if row.id in self._deadly else self._heap
        heappush(heap, (row.due, row.id, next(self._serial), row))

    def _trim(self, most: int) -> None:
        live = sorted(entry for entry in self._heap if self._is_live(entry))
        self._heap = live
        if len(live) > most:
            self.lower_horizon(live[most - 1][:2])

    def _is_live(self, entry: Entry) -> bool:
        due, _id, _serial, row = entry
        return row.state == WAITING and row.due == due and self._rows.get(row.id) is row
