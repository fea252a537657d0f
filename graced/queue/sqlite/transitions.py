"""What becomes of a job: it ends, fails, is given back or cancelled, in memory and in the batch.

Which worker has it, and which gets the next one, is said in :mod:`.dispatcher`; what clients
want of single jobs in :mod:`.changes`.
"""

from __future__ import annotations

from graced.queue.job import Discarded, Done, Outcome, Postponed
from graced.queue.sqlite.rows import DEAD, DONE, NAMES, TAKEN, WAITING, Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.queue.policy import Policy
    from graced.queue.sqlite.lookahead import Lookahead
    from graced.queue.sqlite.pending import PendingWrites

CANCELLED = '{"reason":"cancelled","cancelled":true}'


class Transitions:
    """From one state to another. Times are milliseconds of the queue's clock."""

    def __init__(
        self,
        policy: Policy,
        rows: dict[int, Row],
        writes: PendingWrites,
        lookahead: Lookahead,
        chance: Callable[[], float],
    ) -> None:
        self.policy = policy
        self.handouts: dict[int, Row] = {}  # to be handed out after the commit
        self.ended: list[tuple[int, str]] = []  # with the next commit
        self.interrupted: set[int] = set()  # jobs that an interrupt has cost no attempt
        self._rows = rows  # all rows in memory
        self._writes = writes
        self._lookahead = lookahead
        self._chance = chance

    def settle(self, row: Row, outcome: Outcome, now: int) -> None:
        """The worker that had it has said how it ended. What is cancelled may still be done."""
        if isinstance(outcome, Done):
            if outcome.result is not None or row.failures:
                self._writes.batch.endings[row.id] = (outcome.result, None)
            self.end(row, DONE, now)
        elif row.cancelled is not None:
            self.cancel(row, now)
        elif isinstance(outcome, Postponed):
            self.fail(row, outcome.evidence, now, outcome.after)
        else:
            self.fail(row, outcome.evidence, now, final=isinstance(outcome, Discarded))

    def give_back(self, row: Row, now: int) -> None:
        """Let a row wait again as if it had never been taken; if it is cancelled, end it."""
        if row.cancelled is not None:
            self.cancel(row, now)
            return
        self.handouts.pop(row.id, None)
        row.owner = None
        row.durable = False
        self._writes.move(row, WAITING)
        self._lookahead.offer(row)

    def fail(
        self,
        row: Row,
        evidence: str,
        now: int,
        after: float | None = None,
        *,
        final: bool = False,
    ) -> None:
        """An attempt that counts has come to nothing; another one follows unless it was `final`."""
        row.failures += 1
        self._writes.failed()
        self._record(row, evidence, now, row.failures, counts=True)
        self.handouts.pop(row.id, None)
        if final or row.failures >= (row.limit or self.policy.max_attempts):
            self.end(row, DEAD, now)
            return
        if after is None:
            after = self.policy.delay(row.failures, self._chance())
        row.owner = None
        row.due = now + round(after * 1000)
        self._writes.move(row, WAITING)
        self._lookahead.offer(row)

    def cancel(self, row: Row, now: int) -> None:
        """End a row that is in no worker's hands any more, without an attempt."""
        self.handouts.pop(row.id, None)
        if row.state == TAKEN:
            self._record(row, CANCELLED, now, row.attempt, counts=False)
        else:
            self._writes.batch.endings[row.id] = (None, CANCELLED)
        self.end(row, DEAD, now, "cancelled")

    def _record(self, row: Row, evidence: str, now: int, number: int, *, counts: bool) -> None:
        batch = self._writes.batch
        batch.endings[row.id] = (None, evidence)
        batch.attempts.append(
            (row.id, row.token, number, row.began, now, row.owner, counts, evidence)
        )

    def end(self, row: Row, state: int, now: int, word: str | None = None) -> None:
        """There is nothing more to do for a row."""
        row.owner = None
        row.ended = now
        row.cancelled = None
        self._writes.move(row, state)
        self._rows.pop(row.id, None)
        if self._lookahead.deadly or self.interrupted:
            self.forget_deaths(row)
        self.ended.append((row.id, word or NAMES[state]))

    def forget_deaths(self, row: Row) -> None:
        """What a row has cost before counts no more."""
        self._lookahead.deadly.discard(row.id)
        self.interrupted.discard(row.id)
