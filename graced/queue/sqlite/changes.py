"""What clients want of single jobs: to try them again, to forget them, to cancel them."""

from __future__ import annotations

from graced.queue.job import BIGGEST
from graced.queue.protocol import NO_SUCH_JOB
from graced.queue.sqlite.rows import DEAD, DONE, RESERVED, STAGED, TAKEN, WAITING, Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from graced.queue.sqlite.bulk import Streams
    from graced.queue.sqlite.lookahead import Lookahead
    from graced.queue.sqlite.pending import PendingWrites
    from graced.queue.sqlite.prefetch import Consumer
    from graced.queue.sqlite.transitions import Transitions

AT_WORK = "is being worked on"
GONE = "gone"  # the state of a job that was dropped


class Changes:
    """Changes of the rows of a queue, by their ids. Each returns the refusals."""

    def __init__(
        self,
        rows: dict[int, Row],
        writes: PendingWrites,
        lookahead: Lookahead,
        transitions: Transitions,
        consumers: Mapping[str, Consumer],
        streams: Streams,
    ) -> None:
        self.cancelling: list[Row] = []  # in hand, and to be told with the next commit
        self._rows = rows
        self._writes = writes
        self._lookahead = lookahead
        self._transitions = transitions
        self._consumers = consumers
        self._streams = streams

    def retry(self, ids: Iterable[int], now: int) -> dict[int, str]:
        """Make jobs due now, dead ones with all their attempts."""
        return self._each(ids, lambda row: self._retry(row, now))

    def _retry(self, row: Row, now: int) -> str | None:
        if row.state in (DONE, TAKEN):
            return AT_WORK if row.state == TAKEN else "is done"
        if row.state == DEAD:
            holder = None if row.unique is None else self._writes.holder(row.unique)
            if holder is not None:
                return f"job {holder} with the same unique key is open"
            self._writes.batch.endings[row.id] = (None, None)  # of tries that count no more
            self._writes.revive(row)
            row.ended = None
        self._transitions.forget_deaths(row)
        if row.state != RESERVED:
            row.due = min(row.due, now) if row.state == WAITING else now
            self._writes.move(row, WAITING)
            self._lookahead.offer(row)
        return None

    def drop(self, ids: Iterable[int]) -> dict[int, str]:
        """Forget jobs that are in no worker's hands."""
        return self._each(ids, self._drop)

    def _drop(self, row: Row) -> str | None:
        if row.state == TAKEN or (row.state == RESERVED and not self._unreserve(row)):
            return AT_WORK
        self._rows.pop(row.id, None)
        self._transitions.forget_deaths(row)
        self._transitions.handouts.pop(row.id, None)
        self._writes.delete(row)
        row.state = DEAD  # for lists that it still is in
        self._transitions.ended.append((row.id, GONE))
        return None

    def cancel(self, ids: Iterable[int], now: int) -> dict[int, str]:
        """Have jobs dead that are not done; those in hand once their workers let go of them."""
        return self._each(ids, lambda row: self._cancel(row, now))

    def _cancel(self, row: Row, now: int) -> str | None:
        if row.state == DONE:
            return "is done"
        if row.state == WAITING or (row.state == RESERVED and self._unreserve(row)):
            self._transitions.cancel(row, now)
        elif row.state != DEAD and row.cancelled is None:
            row.cancelled = now
            self._writes.move(row, row.state)
            self.cancelling.append(row)
        return None

    def _unreserve(self, row: Row) -> bool:
        """Take a job from a worker's next ones; False if that worker has not been heard yet."""
        consumer = self._consumers.get(row.owner or "")
        return consumer is not None and consumer.prefetched.pop(row.id, None) is not None

    def _each(self, ids: Iterable[int], act: Callable[[Row], str | None]) -> dict[int, str]:
        refused = {}
        for id in ids:
            known = 0 < id <= BIGGEST  # beyond 64 bits SQLite is not to be asked
            row = self._rows.get(id) or self._writes.find(id) if known else None
            if row is not None and row.state == STAGED and not self._streams.accepts(row):
                row = None
            why = NO_SUCH_JOB if row is None else act(row)
            if why is not None:
                refused[id] = why
        return refused
