"""Who gets which job, and what becomes of it: all of a queue's rules, none of its descriptors.

Requests change the rows in memory and are gathered in a batch; ``commit`` gives idle
workers jobs, has the batch written, and returns what may be handed out now. If it cannot
be written the batch is kept, so a settle is lost only with the keeper and the worker both.
Time is an argument.

What has changed is kept in :mod:`.pending`, which rows are in memory in
:mod:`.lookahead`, what is reserved in :mod:`.prefetch`, what is not
accepted yet in :mod:`.bulk`.
"""

from __future__ import annotations

from graced.queue import jsonvalue
from graced.queue.job import Discarded, Done, Outcome, Postponed
from graced.queue.protocol import QueueError
from graced.queue.sqlite.bulk import STEP, Streams
from graced.queue.sqlite.lookahead import Lookahead
from graced.queue.sqlite.pending import PendingWrites
from graced.queue.sqlite.prefetch import DEPTH, Consumer, Prefetch
from graced.queue.sqlite.rows import DEAD, DONE, NAMES, RESERVED, STAGED, TAKEN, WAITING, Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from graced.queue.policy import Policy
    from graced.queue.sqlite.store import Store

ROW_BYTES = 200  # that a job takes besides its payload, with its places in the indexes
CLOCK_STEP = 1000  # ms of the queue's time that may be lost with its keeper
SHORTEST = 10_000  # ms for which a done job is kept, whatever ``keep_done`` says
GONE = "gone"  # the state of a job that was dropped


class Dispatcher:
    """The jobs of one queue. Times are those of its own clock: milliseconds since the epoch."""

    def __init__(self, store: Store, policy: Policy, chance: Callable[[], float]) -> None:
        self.policy = policy
        self.consumers: dict[str, Consumer] = {}
        self._store = store
        self._chance = chance
        self._rows: dict[int, Row] = {}  # all rows in memory
        self._lookahead = Lookahead(self._rows)
        self._idle: dict[str, Consumer] = {}  # idle, in the order of their asking
        self._prefetching: dict[str, Consumer] = {}  # at work; may get a reserve
        self._prefetch = Prefetch()
        self._handouts: dict[int, Row] = {}  # to be handed out after the commit
        self._ended: list[tuple[int, str]] = []  # with the next commit
        self._clock = store.clock()  # the time that is in the file
        self._interrupted: set[int] = set()  # jobs that an interrupt has cost no attempt
        self._may_shrink = True  # there may be much of the file that nothing is in
        self._load(store)

    def _load(self, store: Store) -> None:
        counts, owned, streams, self._last = store.load()
        self._counts = [counts.get(state, 0) for state in range(STAGED + 1)]
        self._writes = PendingWrites(store, self._counts)
        self._streams = Streams(store, self._writes, self._lookahead)
        self.next_prune: int | None = 0 if self._counts[DONE] else None
        for row in owned:
            assert row.owner is not None
            self._rows[row.id] = row
            self.consumer(row.owner).rows[row.id] = row
        self._streams.load(streams)

    def apply(self, policy: Policy) -> None:
        """Go by other settings from now on."""
        self.policy = policy
        self.next_prune = 0 if self._counts[DONE] else None

    # -- workers

    def consumer(self, name: str) -> Consumer:
        """Return an consumer, known or new."""
        found = self.consumers.get(name)
        if found is None:
            found = self.consumers[name] = Consumer(name)
        return found

    def join(self, name: str, holds: Iterable[tuple[int, int]], now: int) -> None:
        """A worker has connected and says what it has in hand: it has seen nothing else."""
        consumer = self.consumer(name)
        held = set(holds)
        self._idle.pop(name, None)
        consumer.since = now
        for row in list(consumer.rows.values()):
            if (row.id, row.attempt) not in held:
                self._give_back(row)
            elif row.state == RESERVED:
                self._writes.move(row, TAKEN)
        self._release(consumer)

    def ask(self, name: str, now: int) -> Row | None:
        """A worker is idle; return a job that can be handed out at once."""
        consumer = self.consumer(name)
        row = consumer.next_reserved()
        if row is not None and row.durable:
            self._hand(consumer, row, now)
            return row
        self._idle[name] = consumer
        return None

    def settle(
        self, name: str, id: int, attempt: int, outcome: Outcome, more: bool, now: int
    ) -> Row | None:
        """A job ended; return the next one if it can be handed out at once.

        Of a job that this worker does not hold nothing changes: the settle was repeated.
        """
        consumer = self.consumer(name)
        row = consumer.rows.get(id)
        if row is not None and row.attempt == attempt and row.state == TAKEN:
            del consumer.rows[id]
            consumer.took(now - consumer.since)
            self._settle(row, outcome, now)
        if more:
            return self.ask(name, now)
        self._release(consumer)
        return None

    def _settle(self, row: Row, outcome: Outcome, now: int) -> None:
        if isinstance(outcome, Done):
            if outcome.result is not None or row.failures:
                self._writes.batch.endings[row.id] = (outcome.result, None)
            self._end(row, DONE, now)
            if self.next_prune is None:
                self.next_prune = now + self._kept()
        elif isinstance(outcome, Postponed):
            self._fail(row, outcome.evidence, now, outcome.after)
        else:
            final = isinstance(outcome, Discarded)
            self._fail(row, outcome.evidence, now, None, final=final)

    def leave(self, name: str) -> None:
        """A worker has nothing in hand and wants nothing."""
        consumer = self.consumer(name)
        self._idle.pop(name, None)
        for row in list(consumer.rows.values()):
            self._give_back(row)
        self._release(consumer)

    def absent(self, name: str) -> None:
        """A worker's connection is gone: hand it nothing until it joins again."""
        consumer = self.consumers.get(name)
        if consumer is not None:
            self._idle.pop(name, None)
            self._prefetching.pop(name, None)
            self._release(consumer)

    def requeue(self, row: Row) -> None:
        """A job could not be handed out: its worker has not seen it."""
        self._give_back(row)

    def bury(
        self,
        name: str,
        evidence: str | None,
        now: int,
        *,
        alone: bool = True,
        interrupted: bool = False,
    ) -> None:
        """A worker and all of its processes are gone; with evidence the attempt counts.

        Where it was `interrupted` by hand, or by its own job, nobody knows which: the first
        time costs that job no attempt, each further one does, so that no job is repeated for ever.

        A worker that died `alone` may have died of its job, which then waits behind all others:
        else a few of that kind keep the pool busy with dying.
        """
        consumer = self.consumer(name)
        for row in list(consumer.rows.values()):
            del consumer.rows[row.id]
            unseen = row.state == RESERVED or row.id in self._handouts
            free = interrupted and row.id not in self._interrupted
            if evidence is None or unseen or free:
                if free and not unseen:
                    self._interrupted.add(row.id)
                self._give_back(row)
            else:
                if alone:
                    self._lookahead.deadly.add(row.id)
                self._fail(row, evidence, now, None)
        self._release(consumer)
        self._idle.pop(name, None)
        self._prefetching.pop(name, None)
        del self.consumers[name]

    # -- clients

    def submit(
        self, payloads: Sequence[str], delay: float, max_attempts: int, now: int
    ) -> tuple[int, int]:
        """Accept jobs; return the first id and how many."""
        self._check_room(len(payloads))
        due = now + round(delay * 1000)
        first = self._last + 1
        for payload in payloads:
            self._last += 1
            row = Row(self._last, WAITING, due, 0, max_attempts, now, None, payload)
            self._writes.add(row)
            self._lookahead.offer(row)
        return first, len(payloads)

    def _check_room(self, more: int) -> None:
        most = self.policy.max_waiting
        counts = self._counts
        waiting = counts[WAITING] + counts[RESERVED] + counts[STAGED]
        if most is not None and waiting + more > most:
            raise QueueError(
                f"the queue is full: {waiting} jobs wait and max_waiting is {most}; submit later"
            )

    def open_stream(self) -> int:
        """Begin a stream of jobs that shall be accepted all or none."""
        return self._streams.open()

    def stage(self, stream: int, payloads: Sequence[str], max_attempts: int, now: int) -> None:
        """Keep some jobs of a stream, out of everybody's sight."""
        self._check_room(len(payloads))
        self._streams.stage(stream, self._last + 1, payloads, max_attempts, now)
        self._last += len(payloads)

    def commit_stream(self, stream: int, delay: float, now: int) -> int:
        """Accept a stream; return how many jobs it has."""
        return self._streams.commit(stream, now + round(delay * 1000))

    def abort_stream(self, stream: int) -> None:
        """Forget a stream that did not come to its end."""
        self._streams.abort(stream)

    def retry(self, ids: Iterable[int], now: int) -> dict[int, str]:
        """Make jobs due now, dead ones with all their attempts; return the refusals."""
        return self._each(ids, lambda row: self._retry(row, now))

    def _retry(self, row: Row, now: int) -> str | None:
        self._forget_deaths(row)
        if row.state == DEAD:
            self._writes.batch.endings[row.id] = (None, None)  # of tries that count no more
            row.failures = 0
            row.ended = None
        elif row.state in (DONE, TAKEN):
            return "is being worked on" if row.state == TAKEN else "is done"
        if row.state != RESERVED:
            row.due = min(row.due, now) if row.state == WAITING else now
            self._writes.move(row, WAITING)
            self._lookahead.offer(row)
        return None

    def drop(self, ids: Iterable[int]) -> dict[int, str]:
        """Forget jobs that nobody works on; return the refusals."""
        return self._each(ids, self._drop)

    def _drop(self, row: Row) -> str | None:
        if row.state == TAKEN or (row.state == RESERVED and not self._unreserve(row)):
            return "is being worked on"
        self._rows.pop(row.id, None)
        self._forget_deaths(row)
        self._handouts.pop(row.id, None)
        self._writes.delete(row)
        row.state = DEAD  # for those who still have it in a list
        self._may_shrink = True
        self._ended.append((row.id, GONE))
        return None

    def _forget_deaths(self, row: Row) -> None:
        self._lookahead.deadly.discard(row.id)
        self._interrupted.discard(row.id)

    def _unreserve(self, row: Row) -> bool:
        """Take a job from a worker's next ones; False if that worker has not been heard yet."""
        consumer = self.consumers.get(row.owner or "")
        return consumer is not None and consumer.prefetched.pop(row.id, None) is not None

    def _each(self, ids: Iterable[int], act: Callable[[Row], str | None]) -> dict[int, str]:
        refused = {}
        for id in ids:
            known = 0 < id <= self._last  # beyond 64 bits SQLite is not to be asked
            row = self._rows.get(id) or self._writes.find(id) if known else None
            why = "no such job" if row is None or row.state == STAGED else act(row)
            if why is not None:
                refused[id] = why
        return refused

    def counts(self, now: int) -> dict[str, Any]:
        """Return how many jobs are in each state, and how many seconds the oldest waits."""
        counts = self._counts
        found: dict[str, Any] = {
            NAMES[WAITING]: counts[WAITING] + counts[RESERVED],
            NAMES[TAKEN]: counts[TAKEN],
            NAMES[DONE]: counts[DONE],
            NAMES[DEAD]: counts[DEAD],
        }
        top = self._lookahead.top()
        if top is not None and top.due <= now:
            found["oldest"] = (now - top.due) / 1000
        return found

    # -- the commit

    def commit(self, now: int, listen: Callable[[], bool] | None = None) -> list[Row]:
        """Give idle workers jobs, write all that changed, return what may be handed out.

        ``listen`` hears who has said something meanwhile and returns whether anybody
        has: that goes into the same commit. StorageError if it cannot be written: then
        nothing is lost, and nothing is handed out.
        """
        self._assign(now)
        if self._writes.batch and not self._clock <= now < self._clock + CLOCK_STEP:
            self._clock = self._writes.batch.clock = now
        for _ in range(DEPTH if listen is not None and self._writes.batch else 0):
            self._writes.put()
            if listen is None or not listen():
                break
            self._assign(now)
        self.write()
        return self.handouts()

    def write(self) -> None:
        """Write all that changed. StorageError if it cannot be written; then it stays pending."""
        written = self._writes.write()
        if written is not None:
            self._streams.written(written)

    def handouts(self) -> list[Row]:
        """Return the jobs that were given to idle workers, once they are written."""
        handouts = list(self._handouts.values())
        self._handouts.clear()
        return handouts

    @property
    def is_low(self) -> bool:
        """Whether there are rows to be read ahead, and nothing pending that they would miss."""
        return self._lookahead.is_low and not self._writes.batch

    def read_ahead(self) -> None:
        """Read more of the waiting rows; commit again afterwards."""
        self._lookahead.read_ahead(self._store)

    def refuse_submits(self) -> None:
        """Take all new jobs out of the batch that cannot be written."""
        for row in self._writes.withdraw():
            self._rows.pop(row.id, None)
            self._handouts.pop(row.id, None)
            consumer = self.consumers.get(row.owner or "")
            if consumer is not None:
                consumer.prefetched.pop(row.id, None)
                if consumer.rows.pop(row.id, None) is not None:
                    self._idle[consumer.name] = consumer
            row.state = DEAD
        self._streams.withdraw()

    def ended(self) -> list[tuple[int, str]]:
        """Return the jobs that are done, dead or GONE since the last call."""
        ended, self._ended = self._ended, []
        return ended

    def new_bytes(self) -> int:
        """Return about how many bytes the jobs will take that are not in the file yet."""
        batch = self._writes.batch
        rows = [*batch.fresh.values(), *(row for _, rows in batch.staged for row in rows)]
        return sum(jsonvalue.size(row.payload or "") + ROW_BYTES for row in rows)

    @property
    def pending(self) -> bool:
        """Whether something has not been written."""
        return bool(self._writes.batch)

    # -- what can wait

    @property
    def needs_maintenance(self) -> bool:
        """Whether ``maintain`` has work that waits for no clock."""
        return self._streams.needs_maintenance

    def has_maintenance(self, now: int) -> bool:
        """Whether ``maintain`` has work to do."""
        due = self.next_prune is not None and self.next_prune <= now
        return self.needs_maintenance or due or self._may_shrink

    def maintain(self, now: int) -> None:
        """Do a small step of what can wait; only when nothing is pending."""
        if self._streams.needs_maintenance:
            self._streams.maintain()
        elif self.next_prune is not None and self.next_prune <= now:
            self._prune(now)
        elif self._may_shrink:
            self._may_shrink = self._store.shrink()

    def _prune(self, now: int) -> None:
        pruned = self._store.prune(now - self._keep(), STEP)
        self._counts[DONE] -= pruned
        self._may_shrink = True
        if pruned < STEP:
            oldest = self._store.oldest_done()
            self.next_prune = None if oldest is None else max(oldest + self._kept(), now + 1000)

    def _kept(self) -> int:
        """Return the ms until a job done now is pruned: never one by one."""
        keep = self._keep()
        return keep + min(max(keep // 50, 1000), 600_000)

    def _keep(self) -> int:
        """Return for how many ms done jobs are kept at least: whoever waits for one may be slow."""
        return max(round(self.policy.keep_done * 1000), SHORTEST)

    # -- the waiting rows

    def next_due(self) -> int | None:
        """Return when a job falls due that an idle worker waits for."""
        top = self._lookahead.top() if self._idle else None
        return None if top is None else top.due

    def payload(self, row: Row) -> str:
        """Return a row's payload, from the file if it is a long one."""
        return self._store.payload(row.id) if row.payload is None else row.payload

    # -- handing out

    def _assign(self, now: int) -> None:
        """Give idle workers jobs, and quick ones reserves."""
        while (slow := self._prefetch.slowest(now)) is not None:
            self._release(slow)
        while self._idle:
            name, consumer = next(iter(self._idle.items()))
            row = (
                consumer.next_reserved()
                or self._lookahead.next(now)
                or self._prefetch.reclaim()
                or self._lookahead.next_deadly(now)
            )
            if row is None:
                break
            del self._idle[name]
            self._hand(consumer, row, now)
            self._handouts[row.id] = row
        while self._prefetching:
            consumer = self._prefetching.pop(next(iter(self._prefetching)))
            while consumer.rows and len(consumer.prefetched) < consumer.depth:
                row = self._lookahead.next(now)
                if row is None:
                    self._prefetching.clear()
                    break
                self._reserve(consumer, row, now)

    def _hand(self, consumer: Consumer, row: Row, now: int) -> None:
        consumer.prefetched.pop(row.id, None)
        row.owner = consumer.name
        row.durable = False
        self._writes.move(row, TAKEN)
        consumer.rows[row.id] = row
        consumer.since = now
        self._prefetching[consumer.name] = consumer

    def _reserve(self, consumer: Consumer, row: Row, now: int) -> None:
        row.owner = consumer.name
        self._writes.reserve(row)
        self._prefetch.add(consumer, row, now)

    def _release(self, consumer: Consumer) -> None:
        prefetched, consumer.prefetched = consumer.prefetched, {}
        for row in prefetched.values():
            self._give_back(row)

    # -- what becomes of a row

    def _give_back(self, row: Row) -> None:
        """Let a row wait again as if it had never been taken."""
        consumer = self.consumers.get(row.owner or "")
        if consumer is not None:
            consumer.rows.pop(row.id, None)
        self._handouts.pop(row.id, None)
        row.owner = None
        row.durable = False
        self._writes.move(row, WAITING)
        self._lookahead.offer(row)

    def _fail(
        self, row: Row, evidence: str, now: int, after: float | None, *, final: bool = False
    ) -> None:
        row.failures += 1
        self._writes.batch.endings[row.id] = (None, evidence)
        self._handouts.pop(row.id, None)
        if final or row.failures >= (row.limit or self.policy.max_attempts):
            self._end(row, DEAD, now)
            return
        if after is None:
            after = self.policy.delay(row.failures, self._chance())
        row.owner = None
        row.due = now + round(after * 1000)
        self._writes.move(row, WAITING)
        self._lookahead.offer(row)

    def _end(self, row: Row, state: int, now: int) -> None:
        row.owner = None
        row.ended = now
        self._writes.move(row, state)
        self._rows.pop(row.id, None)
        self._forget_deaths(row)
        self._ended.append((row.id, NAMES[state]))
