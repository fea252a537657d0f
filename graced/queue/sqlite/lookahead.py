"""The waiting jobs of a queue that are in memory, the highest priority first.

Those of each priority are in a :mod:`.window` of their own. Which worker gets them is said in
:mod:`.dispatcher`.
"""

from __future__ import annotations

from graced.queue.sqlite import window
from graced.queue.sqlite.window import FOREVER, NEVER, Window

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from graced.queue.sqlite.rows import Row
    from graced.queue.sqlite.store import Store


class Lookahead:
    """Windows on the waiting rows. ``rows`` are all rows in memory, waiting or not."""

    def __init__(self, rows: dict[int, Row], priorities: Iterable[int]) -> None:
        self.deadly: set[int] = set()  # ids; each has cost a worker, so they are not many
        self._rows = rows
        self._windows: dict[int, Window] = {}  # by priority, the highest first
        self.is_level = True  # all jobs have the same priority
        for priority in priorities:
            self._add(priority, NEVER)

    def _add(self, priority: int, horizon: tuple[int, int]) -> Window:
        found = Window(priority, self._rows, self.deadly, horizon)
        windows = {**self._windows, priority: found}
        self._windows = {priority: windows[priority] for priority in sorted(windows, reverse=True)}
        self.is_level = len(windows) <= 1
        return found

    def _window(self, priority: int) -> Window:
        """Return a priority's window; of one that is new nothing is in the file."""
        found = self._windows.get(priority)
        return self._add(priority, FOREVER) if found is None else found

    def top(self) -> Row | None:
        """Return the row that falls due first."""
        tops = [each.first() for each in self._windows.values()]
        rows = [row for row in tops if row is not None]
        return min(rows, key=lambda row: (row.due, row.id), default=None)

    def due_priority(self, now: int) -> int | None:
        """Return the highest priority of which there may be a due row, but deadly ones."""
        for priority, each in self._windows.items():
            if each.has_due(now):
                return priority
        return None

    def is_due_above(self, priority: int, now: int) -> bool:
        """Whether there may be a due row of a higher priority."""
        for other, each in self._windows.items():
            if other <= priority:
                return False
            if each.has_due(now):
                return True
        return False

    def next(self, now: int) -> Row | None:
        """Take out the first due row of the highest priority; None if it has to be read first."""
        for each in self._windows.values():
            row = each.next(now)
            if row is not None or each.has_due_unread(now):
                return row
        return None

    def next_deadly(self, now: int) -> Row | None:
        """Take out the first due row under which a worker has died, if no other one is due."""
        if any(each.has_due(now) for each in self._windows.values()):
            return None
        deadly = (each.next_deadly(now) for each in self._windows.values())
        return next((row for row in deadly if row is not None), None)

    def offer(self, row: Row) -> None:
        """Remember a waiting row, or leave it to the file if it comes late."""
        most = max(window.MOST // max(len(self._windows), 1), window.AHEAD)
        self._window(row.priority).offer(row, most)

    @property
    def is_low(self) -> bool:
        """Whether there may be rows to be read ahead, and few are left in memory."""
        return any(each.is_low for each in self._windows.values())

    def read_ahead(self, store: Store) -> None:
        """Read more rows from the file. StorageError if it can't be read."""
        for each in self._windows.values():
            if each.is_low:
                each.read_ahead(store)
                return

    def lower_horizon(self, priority: int, key: tuple[int, int]) -> None:
        """Leave to the file what comes after a time of falling due and an id."""
        self._window(priority).lower_horizon(key)
