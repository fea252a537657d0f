"""Streams: jobs that are submitted chunk by chunk and accepted all or none.

Until its stream is committed a job is staged, and not to be seen. What was committed is
let wait, and what was broken off is deleted, in small steps. What a job may become then is
said in :mod:`.dispatcher`.
"""

from __future__ import annotations

from graced.queue.sqlite.rows import STAGED, WAITING, Batch, Row
from graced.queue.sqlite.store import Store, stream_owner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from graced.queue.sqlite.lookahead import Lookahead
    from graced.queue.sqlite.pending import PendingWrites
    from graced.queue.terms import Terms

STEP = 500  # rows changed at once by what can wait,
AT_ONCE = 50  #   of so many streams


class Streams:
    """The streams of one queue, open, committed and broken off."""

    def __init__(self, store: Store, writes: PendingWrites, lookahead: Lookahead) -> None:
        self._store = store
        self._writes = writes
        self._lookahead = lookahead
        self._last = store.last_stream()
        self._sizes: dict[int, int] = {}  # rows of each open stream
        # Committed ones whose rows still are staged, when those are due, and their priority
        self._promoting: list[tuple[int, int, int]] = []
        self._deleting: list[int] = []

    def load(self, found: Iterable[tuple[int, int | None, int]]) -> None:
        """Take over what an earlier keeper has left, with the times at which it falls due."""
        for stream, due, priority in found:
            if due is None:
                self._deleting.append(stream)
            else:
                self._accept(stream, due, priority, self._store.staged(stream))

    def open(self) -> int:
        """Begin a stream."""
        self._last += 1
        self._writes.batch.streams.append(self._last)
        self._sizes[self._last] = 0
        return self._last

    def stage(
        self, stream: int, first: int, payloads: Sequence[str], terms: Terms, now: int
    ) -> None:
        """Keep some jobs of a stream; `first` is the id of the first."""
        owner = stream_owner(stream)
        rows = [
            Row.submitted_on(terms, first + n, STAGED, now, now, owner, payload)
            for n, payload in enumerate(payloads)
        ]
        self._writes.batch.staged.append((stream, rows))
        self._writes.counts[STAGED] += len(rows)
        self._sizes[stream] += len(rows)

    def commit(self, stream: int, due: int, priority: int) -> int:
        """Accept a stream; return how many jobs it has."""
        self._writes.batch.committed.append((stream, due, priority))
        return self._sizes[stream]

    def abort(self, stream: int) -> None:
        """Forget a stream that did not come to its end."""
        if self._sizes.pop(stream, None) is not None:
            self._deleting.append(stream)

    def written(self, batch: Batch) -> None:
        """It is in the file that streams were committed."""
        for stream, due, priority in batch.committed:
            self._accept(stream, due, priority, self._sizes.pop(stream))

    def _accept(self, stream: int, due: int, priority: int, size: int) -> None:
        self._writes.counts[STAGED] -= size
        self._writes.counts[WAITING] += size
        self._promoting.append((stream, due, priority))

    def accepts(self, row: Row) -> bool:
        """Have a staged row wait, ahead of the others, if its stream is committed."""
        for stream, due, _priority in self._promoting:
            if row.owner == stream_owner(stream):
                row.state, row.due, row.owner = WAITING, due, None
                return True
        return False

    def withdraw(self) -> None:
        """Take all of streams out of the batch that cannot be written."""
        batch = self._writes.batch
        for _stream, rows in batch.staged:
            self._writes.counts[STAGED] -= len(rows)
        for stream in batch.streams:
            self._sizes.pop(stream, None)
        batch.staged, batch.streams, batch.committed = [], [], []

    # -- in small steps

    @property
    def needs_maintenance(self) -> bool:
        """Whether some have ended, one way or the other, and have staged rows."""
        return bool(self._promoting or self._deleting)

    def maintain(self) -> None:
        """Do a small step; only when nothing is pending."""
        if self._promoting:
            self._promote(self._promoting[:AT_ONCE])
        else:
            self._delete(self._deleting[0])

    def _promote(self, streams: Sequence[tuple[int, int, int]]) -> None:
        over = self._store.promote([(stream, due) for stream, due, _priority in streams], STEP)
        for _stream, due, priority in streams[: over + 1]:
            self._lookahead.lower_horizon(priority, (due, 0))
        del self._promoting[:over]

    def _delete(self, stream: int) -> None:
        counts = self._writes.counts
        deleted = self._store.delete_staged(stream, STEP)
        counts[STAGED] = max(counts[STAGED] - deleted, 0)
        if deleted < STEP:
            del self._deleting[0]
