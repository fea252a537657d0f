"""Streams: jobs that are submitted chunk by chunk and accepted all or none.

Until its stream is sealed a job is staged, out of everybody's sight. What was sealed is
let wait, and what was broken off is deleted, in small steps. What a job may become then is
said in :mod:`.dispatcher`.
"""

from __future__ import annotations

from graced.queue.sqlite.rows import STAGED, WAITING, Row
from graced.queue.sqlite.store import stream_owner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from graced.queue.sqlite.lookahead import Waiting
    from graced.queue.sqlite.pending import Changes
    from graced.queue.sqlite.rows import Batch
    from graced.queue.sqlite.store import Store

STEP = 500  # rows changed at once by what can wait


class Streams:
    """The streams of one queue, open, sealed and broken off."""

    def __init__(self, store: Store, changes: Changes, waiting: Waiting) -> None:
        self._store = store
        self._changes = changes
        self._waiting = waiting
        self._last = store.last_stream()
        self._sizes: dict[int, int] = {}  # rows of each open stream
        self._promoting: list[tuple[int, int]] = []  # sealed streams whose rows still are staged
        self._scrapping: list[int] = []

    def load(self, found: Iterable[tuple[int, int | None]]) -> None:
        """Take over what an earlier keeper has left, with the times at which it falls due."""
        for stream, due in found:
            if due is None:
                self._scrapping.append(stream)
            else:
                self._accept(stream, due, self._store.staged(stream))

    def open(self) -> int:
        """Begin a stream."""
        self._last += 1
        self._changes.batch.streams.append(self._last)
        self._sizes[self._last] = 0
        return self._last

    def stage(
        self, stream: int, first: int, payloads: Sequence[str], max_attempts: int, now: int
    ) -> None:
        """Keep some jobs of a stream; `first` is the id of the first."""
        owner = stream_owner(stream)
        rows = [
            Row(first + n, STAGED, now, 0, max_attempts, now, owner, payload)
            for n, payload in enumerate(payloads)
        ]
        self._changes.batch.staged.append((stream, rows))
        self._changes.counts[STAGED] += len(rows)
        self._sizes[stream] += len(rows)

    def seal(self, stream: int, due: int) -> int:
        """Accept a stream; return how many jobs it has."""
        self._changes.batch.sealed.append((stream, due))
        return self._sizes[stream]

    def scrap(self, stream: int) -> None:
        """Forget a stream that did not come to its end."""
        if self._sizes.pop(stream, None) is not None:
            self._scrapping.append(stream)

    def written(self, batch: Batch) -> None:
        """It is in the file that streams were sealed."""
        for stream, due in batch.sealed:
            self._accept(stream, due, self._sizes.pop(stream))

    def _accept(self, stream: int, due: int, size: int) -> None:
        self._changes.counts[STAGED] -= size
        self._changes.counts[WAITING] += size
        self._promoting.append((stream, due))

    def withdraw(self) -> None:
        """Take all of streams out of the batch that cannot be written."""
        batch = self._changes.batch
        for _stream, rows in batch.staged:
            self._changes.counts[STAGED] -= len(rows)
        for stream in batch.streams:
            self._sizes.pop(stream, None)
        batch.staged, batch.streams, batch.sealed = [], [], []

    # -- in small steps

    @property
    def untidy(self) -> bool:
        """Whether some have ended, one way or the other, and have staged rows."""
        return bool(self._promoting or self._scrapping)

    def tidy(self) -> None:
        """Do a small step; only when nothing is pending."""
        if self._promoting:
            self._promote(*self._promoting[0])
        else:
            self._delete(self._scrapping[0])

    def _promote(self, stream: int, due: int) -> None:
        moved = self._store.promote(stream, due, STEP)
        self._waiting.lower_horizon((due, 0))
        if moved < STEP:
            del self._promoting[0]

    def _delete(self, stream: int) -> None:
        counts = self._changes.counts
        scrapped = self._store.scrap(stream, STEP)
        counts[STAGED] = max(counts[STAGED] - scrapped, 0)
        if scrapped < STEP:
            del self._scrapping[0]
