"""What has changed in a queue and is not in the file yet; how many jobs are in each state.

What is in memory is the truth and the file follows: if it cannot be written the batch is
kept. What changes them, and why, is said in :mod:`.dispatcher`.
"""

from __future__ import annotations

from graced.queue.protocol import StorageError
from graced.queue.sqlite.rows import DEAD, DONE, OPEN, RESERVED, STAGED, TAKEN, Batch, Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from graced.queue.sqlite.store import Store


class PendingWrites:
    """The changes since the last commit. ``counts`` is by state, of all jobs there are.

    Those that there were, too, are counted in ``ever``, by what became of them; ``book`` is the
    number by which their file is known.
    """

    def __init__(self, store: Store, counts: list[int]) -> None:
        self.counts = counts
        self.batch = Batch()
        self._unsure = Batch()  # in the open transaction
        self._reserving: list[Row] = []  # durable with the next commit
        self._store = store
        self.book, self._gone = store.gone()
        self._failed = self._gone["failed"] + store.failures()

    @property
    def ever(self) -> dict[str, int]:
        """How many jobs were submitted, have ended so or so, and how many attempts have failed."""
        counts, gone = self.counts, self._gone
        return {
            "submitted": sum(counts[:STAGED]) + gone["submitted"],
            "done": counts[DONE] + gone["done"],
            "failed": self._failed,
            "dead": counts[DEAD] + gone["dead"],
        }

    def failed(self) -> None:
        """An attempt has failed."""
        self._failed += 1

    def forget(self, gone: Mapping[str, int]) -> None:
        """Count what can't be counted in the file any more."""
        for outcome, count in gone.items():
            self._gone[outcome] += count

    def revive(self, row: Row) -> None:
        """A dead job is to be as if it had never been tried."""
        self._lose({"submitted": 0, "done": 0, "failed": row.failures, "dead": 1})
        row.failures = 0

    def _lose(self, gone: dict[str, int]) -> None:
        self.batch.gone.append(gone)
        self.forget(gone)

    def add(self, row: Row) -> None:
        """A new job."""
        self.batch.fresh[row.id] = row
        self.counts[row.state] += 1
        if row.unique is not None:
            self.batch.keys[row.unique] = row.id

    def move(self, row: Row, state: int) -> None:
        """A job goes on to another state."""
        self.counts[row.state] -= 1
        self.counts[state] += 1
        row.state = state
        if row.unique is not None:
            self.batch.keys[row.unique] = row.id if state in OPEN else None
        if row.id not in self.batch.fresh:
            self.batch.dirty[row.id] = row

    def reserve(self, row: Row) -> None:
        """A job goes on to be reserved, which holds once it is written."""
        self.move(row, RESERVED)
        self._reserving.append(row)

    def delete(self, row: Row) -> None:
        """A job is to be forgotten."""
        batch = self.batch
        for pending in (batch.dirty, batch.fresh, batch.endings):
            pending.pop(row.id, None)
        self.counts[row.state] -= 1
        batch.deleted.add(row.id)
        done, dead = row.state == DONE, row.state == DEAD
        self._lose({"submitted": 1, "done": done, "failed": row.failures, "dead": dead})
        if row.unique is not None and row.state in OPEN:
            batch.keys[row.unique] = None

    def withdraw(self) -> list[Row]:
        """Take all new jobs out of the batch that cannot be written, and return them."""
        batch = self.batch
        fresh, batch.fresh = batch.fresh, {}
        withdrawn = []
        for row in fresh.values():
            batch.dirty.pop(row.id, None)
            batch.endings.pop(row.id, None)
            if row.unique is not None:
                batch.keys[row.unique] = None
            if row.id not in batch.deleted:
                self.counts[row.state] -= 1
                withdrawn.append(row)
        return withdrawn

    def find(self, id: int) -> Row | None:
        """Return a row as it is now, whether or not it has been written."""
        batch, unsure = self.batch, self._unsure
        if id in batch.deleted or id in unsure.deleted:
            return None
        found = batch.fresh.get(id) or batch.dirty.get(id)
        found = found or unsure.fresh.get(id) or unsure.dirty.get(id)
        return found or self._store.row(id)

    def holder(self, key: str) -> int | None:
        """Return the open job that has a unique key, whether or not it has been written."""
        keys = self.batch.keys
        return keys[key] if key in keys else self._store.holder(key)

    # -- into the file

    def put(self, *, taken: bool = True) -> None:
        """Write what changed, into the open transaction.

        Which jobs are in hand can wait until the last put of a commit: by then they may be done.
        """
        batch, self.batch = self.batch, Batch()
        if not taken:
            rows, batch.dirty = batch.dirty, {}
            for id, row in rows.items():
                (self.batch if row.state == TAKEN else batch).dirty[id] = row
        self._unsure.absorb(batch)
        try:
            self._store.put(batch)
        except StorageError:
            self._recall()
            raise

    def write(self) -> Batch | None:
        """Write all that changed, and return it.

        StorageError if it cannot be written; then it stays pending.
        """
        if self.batch:
            self.put()
        if not self._unsure:
            return None
        try:
            self._store.commit()
        except StorageError:
            self._recall()
            raise
        for row in self._reserving:
            row.durable = row.state == RESERVED
        self._reserving.clear()
        written, self._unsure = self._unsure, Batch()
        for row in written.fresh.values():
            row.is_written()
        return written

    def _recall(self) -> None:
        """The transaction came to nothing: all that it had is pending again."""
        self._unsure.absorb(self.batch)
        self.batch, self._unsure = self._unsure, Batch()
