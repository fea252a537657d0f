"""Where the schedules of a queue's file stand, in memory and in the batch of changes."""

from __future__ import annotations

from graced.queue.standing import Standing, adopted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from graced.queue.sqlite.pending import PendingWrites
    from graced.queue.sqlite.rows import Row
    from graced.queue.sqlite.store import Store
    from graced.queue.standing import Wanted
    from graced.queue.terms import Terms


class Standings:
    """All of them, by name. The keeper of a file has all its schedules: others are gone."""

    def __init__(self, store: Store, writes: PendingWrites) -> None:
        self._all: dict[str, Standing] = store.standings()
        self._writes = writes
        self._before: dict[str, Standing | None] = {}  # the batch, where a new job changed it

    def adopt(self, wanted: Mapping[str, Wanted], now: int) -> dict[str, Standing]:
        """Know these schedules from now on, and no others; return where they stand."""
        for name in self._all.keys() - wanted.keys():
            if self._all[name].rule:
                self._put(name, self._all[name].replace(rule=""))
        for name, told in wanted.items():
            standing = adopted(self._all.get(name), told, now)
            if standing != self._all.get(name):
                self._put(name, standing)
        return {name: self._all[name] for name in wanted}

    def takes(self, terms: Terms) -> bool:
        """Whether a job may be made, as far as its schedule is concerned."""
        if terms.schedule is None or terms.scheduled is None:
            return True
        standing = self._all.get(terms.schedule)
        return standing is None or standing.takes(int(terms.scheduled))

    def keep(self, terms: Terms) -> None:
        """A job is made, or one that is there will do: its instant is kept."""
        if terms.schedule is None or terms.scheduled is None:
            return
        name, instant = terms.schedule, int(terms.scheduled)
        standing = self._all.get(name)
        self._before.setdefault(name, standing)
        self._put(name, (standing or Standing("", instant)).replace(last=instant))

    def withdraw(self, rows: Iterable[Row]) -> None:
        """New jobs could not be written: their instants are not kept."""
        for name in {row.schedule for row in rows if row.schedule is not None}:
            before = self._before.get(name)
            self._put(name, self._all[name].replace(last=before and before.last))

    def written(self) -> None:
        """All that is kept is in the file."""
        self._before.clear()

    def _put(self, name: str, standing: Standing) -> None:
        self._all[name] = self._writes.batch.standings[name] = standing
