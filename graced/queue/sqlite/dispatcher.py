"""Which worker gets a job, and what becomes of it: a queue's rules, none of its descriptors.

Requests change the rows in memory and are gathered in a batch; ``commit`` gives idle
workers jobs, has the batch written, and returns what may be handed out now. If it cannot
be written the batch is kept, so a settle is lost only with the keeper and the worker both.
Time is an argument.

What has changed is kept in :mod:`.pending`, which rows are in memory in
:mod:`.lookahead`, what is reserved in :mod:`.prefetch`, what is not
accepted yet in :mod:`.bulk`; what becomes of a job is said in :mod:`.transitions`,
what clients want of single ones in :mod:`.changes`.
"""

from __future__ import annotations

from itertools import chain

from graced.queue import jsonvalue
from graced.queue.job import Done, Outcome
from graced.queue.protocol import QueueError
from graced.queue.sqlite.bulk import STEP, Streams
from graced.queue.sqlite.changes import Changes
from graced.queue.sqlite.lookahead import Lookahead
from graced.queue.sqlite.pending import PendingWrites
from graced.queue.sqlite.prefetch import DEPTH, Consumer, Prefetch
from graced.queue.sqlite.rows import DEAD, DONE, NAMES, RESERVED, STAGED, TAKEN, WAITING, Row
from graced.queue.sqlite.standings import Standings
from graced.queue.sqlite.transitions import Transitions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from graced.queue.policy import Policy
    from graced.queue.sqlite.store import Store
    from graced.queue.standing import Standing, Wanted
    from graced.queue.terms import Terms

ROW_BYTES = 200  # that a job takes besides its payload, with its places in the indexes
CLOCK_STEP = 1000  # ms of the queue's time that may be lost with its keeper
FEW = 10_000  # jobs in a state that are found by its index, whatever the order of that is
SHORTEST = 10_000  # ms for which a done job is kept, whatever ``keep_done`` says


class Dispatcher:
    """See :class:`graced.queue.protocol.Dispatcher`; a queue's clock tells ms since the epoch."""

    def __init__(self, store: Store, policy: Policy, chance: Callable[[], float]) -> None:
        self.policy = policy
        self.consumers: dict[str, Consumer] = {}
        self._store = store
        self._rows: dict[int, Row] = {}  # all rows in memory
        self._lookahead = Lookahead(self._rows, store.priorities())
        self._idle: dict[str, Consumer] = {}  # idle, in the order of their asking
        self._prefetching: dict[str, Consumer] = {}  # at work; may get a reserve
        self._prefetch = Prefetch()
        self._clock = store.clock()  # the time that is in the file
        self._is_paused = store.is_paused()
        self._may_shrink = True  # there may be much of the file that nothing is in
        self._load(store, chance)

    def _load(self, store: Store, chance: Callable[[], float]) -> None:
        counts, owned, streams, self._last = store.load()
        self._counts = [counts.get(state, 0) for state in range(STAGED + 1)]
        self._writes = PendingWrites(store, self._counts)
        self._standings = Standings(store, self._writes)
        self._streams = Streams(store, self._writes, self._lookahead)
        known = self._rows, self._writes, self._lookahead
        self._transitions = Transitions(self.policy, *known, chance)
        self._changes = Changes(*known, self._transitions, self.consumers, self._streams)
        self._handouts = self._transitions.handouts
        self.next_prune: int | None = 0 if self._counts[DONE] else None
        for row in owned:
            assert row.owner is not None
            self._rows[row.id] = row
            self.consumer(row.owner).rows[row.id] = row
            if row.cancelled is not None:
                self._changes.cancelling.append(row)
        self._streams.load(streams)

    def apply(self, policy: Policy) -> None:
        """Go by other settings from now on."""
        self.policy = self._transitions.policy = policy
        self.next_prune = 0 if self._counts[DONE] else None

    # -- workers

    def consumer(self, name: str) -> Consumer:
        """Return a consumer, known or new."""
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
            if (row.id, row.token) not in held:
                self._give_back(row, now)
            elif row.state == RESERVED:
                self._writes.move(row, TAKEN)
        self._release(consumer, now)

    def ask(self, name: str, now: int) -> Row | None:
        consumer = self.consumer(name)
        if consumer.withheld:
            return None
        if consumer.capacity != 1:
            self._line_up(consumer)
            return None
        row = self._reserved(consumer, now)
        if row is not None and row.durable:
            self._hand(consumer, row, now)
            return row
        self._idle[name] = consumer
        return None

    def want(self, name: str, count: int, now: int) -> None:
        """A worker takes so many jobs at once, in all; 0: no more."""
        consumer = self.consumer(name)
        consumer.capacity, consumer.depth = count, 0
        self._release(consumer, now)
        self._line_up(consumer)

    def _line_up(self, consumer: Consumer) -> None:
        """Let a worker stand in line as long as it has room for one more."""
        if len(consumer.rows) < consumer.capacity and not consumer.withheld:
            self._idle.setdefault(consumer.name, consumer)
        else:
            self._idle.pop(consumer.name, None)

    def put_back(self, name: str, id: int, token: int, now: int) -> None:
        consumer = self.consumer(name)
        row = consumer.rows.get(id)
        if row is not None and row.token == token and row.state == TAKEN:
            self._give_back(row, now)
        self._line_up(consumer)

    def settle(
        self, name: str, id: int, token: int, outcome: Outcome, more: bool, now: int
    ) -> Row | None:
        """A job ended; return the next one if it can be handed out at once.

        Of a job that this worker does not hold nothing changes: the settle was repeated.
        """
        consumer = self.consumer(name)
        row = consumer.rows.get(id)
        if row is not None and row.token == token and row.state == TAKEN:
            del consumer.rows[id]
            if consumer.capacity == 1:
                consumer.took(now - consumer.since)
            self._transitions.settle(row, outcome, now)
            if self.next_prune is None and isinstance(outcome, Done):
                self.next_prune = now + self._kept()
        if more:
            return self.ask(name, now)
        self._release(consumer, now)
        return None

    def leave(self, name: str, now: int) -> None:
        consumer = self.consumer(name)
        self._idle.pop(name, None)
        for row in list(consumer.rows.values()):
            self._give_back(row, now)
        self._release(consumer, now)

    def withhold(self, name: str) -> None:
        consumer = self.consumers.get(name)
        if consumer is not None:
            consumer.withheld = True
            self._idle.pop(name, None)
            self._prefetching.pop(name, None)

    def absent(self, name: str, now: int) -> None:
        consumer = self.consumers.get(name)
        if consumer is not None:
            self._idle.pop(name, None)
            self._prefetching.pop(name, None)
            self._release(consumer, now)

    def requeue(self, row: Row, now: int) -> None:
        self._give_back(row, now)

    def bury(
        self,
        name: str,
        evidence: str | None,
        now: int,
        *,
        alone: bool = True,
        interrupted: bool = False,
    ) -> list[int]:
        """A worker and all of its processes are gone; with evidence the attempt counts.

        Where it was `interrupted` by hand, or by its own job, it can't be known which: the first
        time costs that job no attempt, each further one does, so that no job is repeated for ever.

        Return the jobs that it had in hand and that wait again.

        A worker that died `alone` may have died of its job, which then waits behind all others:
        else a few of that kind keep the pool busy with dying.
        """
        consumer = self.consumer(name)
        back = []
        for row in list(consumer.rows.values()):
            del consumer.rows[row.id]
            unseen = row.state == RESERVED or row.id in self._handouts
            free = interrupted and row.id not in self._transitions.interrupted
            if evidence is None or unseen or free or row.cancelled is not None:
                if free and not unseen:
                    self._transitions.interrupted.add(row.id)
                self._give_back(row, now)
            else:
                if alone:
                    self._lookahead.deadly.add(row.id)
                self._transitions.fail(row, evidence, now)
            if row.state == WAITING and not unseen:
                back.append(row.id)
        self._release(consumer, now)
        self._idle.pop(name, None)
        self._prefetching.pop(name, None)
        del self.consumers[name]
        return back

    # -- clients

    def submit(self, payloads: Sequence[str], terms: Terms, now: int) -> Sequence[int]:
        """Accept jobs; return their ids, or that of the open job with the same unique key.

        None for an instant of a schedule that is kept already.
        """
        if not self._standings.takes(terms):
            return ()
        holder = None if terms.unique is None else self._writes.holder(terms.unique)
        if holder is not None:
            self._standings.keep(terms)
            return (holder,)
        self._check_room(len(payloads))
        self._standings.keep(terms)
        due = now + round(terms.delay * 1000)
        first = self._last + 1
        for payload in payloads:
            self._last += 1
            row = Row.submitted_on(terms, self._last, WAITING, due, now, None, payload)
            self._writes.add(row)
            self._lookahead.offer(row)
        return range(first, first + len(payloads))

    def schedules(self, wanted: Mapping[str, Wanted], now: int) -> dict[str, Standing]:
        """Watch these schedules from now on; return where they stand. Seconds of the wall clock."""
        return self._standings.adopt(wanted, now)

    def _check_room(self, more: int) -> None:
        most = self.policy.max_waiting
        counts = self._counts
        waiting = counts[WAITING] + counts[RESERVED]
        more += counts[STAGED]
        if most is not None and waiting + more > most:
            raise QueueError(
                f"the queue is full: {waiting} jobs wait and max_waiting is {most}, too few for"
                f" {more} more; submit fewer, or later"
            )

    def open_stream(self) -> int:
        return self._streams.open()

    def stage(self, stream: int, payloads: Sequence[str], terms: Terms, now: int) -> range:
        self._check_room(len(payloads))
        first = self._last + 1
        self._streams.stage(stream, first, payloads, terms, now)
        self._last += len(payloads)
        return range(first, first + len(payloads))

    def commit_stream(self, stream: int, terms: Terms, now: int) -> int:
        """Accept a stream; return how many jobs it has."""
        return self._streams.commit(stream, now + round(terms.delay * 1000), terms.priority)

    def abort_stream(self, stream: int) -> None:
        self._streams.abort(stream)

    def retry(self, ids: Iterable[int], now: int) -> dict[int, str]:
        return self._changes.retry(ids, now)

    def drop(self, ids: Iterable[int]) -> dict[int, str]:
        self._may_shrink = True
        return self._changes.drop(ids)

    def cancel(self, ids: Iterable[int], now: int) -> dict[int, str]:
        return self._changes.cancel(ids, now)

    def cancelling(self) -> list[Row]:
        found, self._changes.cancelling = self._changes.cancelling, []
        return [row for row in found if row.cancelled is not None]

    def pause(self, paused: bool, now: int) -> None:
        self._is_paused = self._writes.batch.paused = paused
        if not paused:
            return
        for row in list(self._handouts.values()):
            consumer = self.consumer(row.owner or "")
            self._give_back(row, now)
            self._line_up(consumer)
        for consumer in self.consumers.values():
            self._release(consumer, now)

    def counts(self, now: int) -> dict[str, Any]:
        """Return how many jobs are in each state, and how many seconds the oldest waits."""
        counts = self._counts
        found: dict[str, Any] = {
            NAMES[WAITING]: counts[WAITING] + counts[RESERVED],
            NAMES[TAKEN]: counts[TAKEN],
            NAMES[DONE]: counts[DONE],
            NAMES[DEAD]: counts[DEAD],
            "paused": self._is_paused,
        }
        top = self._lookahead.top()
        if top is not None and top.due <= now:
            found["oldest"] = (now - top.due) / 1000
        return found

    def few(self, state: str | None, after: int, limit: int) -> list[int] | None:
        """Return the ids of the next jobs in a state, None if those are to be looked for."""
        consumers = self.consumers.values()
        known: Iterable[int] = ()
        found: list[int] = []
        if state == "taken":
            known = chain.from_iterable(consumer.rows for consumer in consumers)
        elif state == "waiting":
            if self._streams.needs_maintenance or self._counts[WAITING] > FEW:
                return None
            known = chain.from_iterable(consumer.prefetched for consumer in consumers)
            found = self._store.few(WAITING, after, limit)
        elif state == "dead" or (state == "done" and self._counts[DONE] <= FEW):
            found = self._store.few(NAMES.index(state), after, limit)
        else:
            return None
        return sorted({*found, *(id for id in known if id > after)})[:limit]

    # -- the commit

    def commit(self, now: int, listen: Callable[[], bool] | None = None) -> list[Row]:
        """Give idle workers jobs, write all that changed, return what may be handed out.

        ``listen`` hears what was said meanwhile and returns whether any worker
        has: that goes into the same commit. StorageError if it cannot be written: then
        nothing is lost, and nothing is handed out.
        """
        self._assign(now)
        if self._writes.batch and not self._clock <= now < self._clock + CLOCK_STEP:
            self._clock = self._writes.batch.clock = now
        for _ in range(DEPTH if listen is not None and self._writes.batch else 0):
            self._writes.put(taken=False)
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
            self._standings.written()

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
        withdrawn = self._writes.withdraw()
        self._standings.withdraw(withdrawn)
        for row in withdrawn:
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
        ended, self._transitions.ended = self._transitions.ended, []
        return ended

    def counted(self) -> tuple[int, Mapping[str, int]]:
        """Return what is counted in the file, once all is written, and its number."""
        return self._writes.book, self._writes.ever

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
        gone = self._store.prune(now - self._keep(), STEP)
        self._writes.forget(gone)
        pruned = gone["done"]
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
        """Return for how many ms done jobs are kept at least: one that waits may be slow."""
        return max(round(self.policy.keep_done * 1000), SHORTEST)

    # -- the waiting rows

    def next_due(self) -> int | None:
        """Return when a job falls due that an idle worker waits for."""
        top = self._lookahead.top() if self._idle and not self._is_paused else None
        return None if top is None else top.due

    def payload(self, row: Row) -> str:
        """Return a row's payload, from the file if it is a long one."""
        return self._store.payload(row.id) if row.payload is None else row.payload

    # -- handing out

    def _assign(self, now: int) -> None:
        """Give idle workers jobs, and quick ones reserves."""
        while (slow := self._prefetch.slowest(now)) is not None:
            self._release(slow, now)
        if self._is_paused:
            return
        while self._idle:
            name, consumer = next(iter(self._idle.items()))
            row = (
                self._reserved(consumer, now)
                or self._first_due(now)
                or self._lookahead.next_deadly(now)
            )
            if row is None:
                break
            del self._idle[name]
            self._hand(consumer, row, now)
            if consumer.capacity != 1:  # behind those that have waited for longer
                self._line_up(consumer)
            self._handouts[row.id] = row
        while self._prefetching:
            consumer = self._prefetching.pop(next(iter(self._prefetching)))
            while consumer.rows and len(consumer.prefetched) < consumer.depth:
                row = self._lookahead.next(now)
                if row is None:
                    self._prefetching.clear()
                    break
                self._reserve(consumer, row, now)

    def _reserved(self, consumer: Consumer, now: int) -> Row | None:
        """Return the first of a worker's next jobs, unless a higher one has fallen due."""
        if self._lookahead.is_level:
            return next(iter(consumer.prefetched.values()), None)
        row = consumer.next_reserved()
        if row is not None and self._lookahead.is_due_above(row.priority, now):
            self._release(consumer, now)
            return None
        return row

    def _first_due(self, now: int) -> Row | None:
        """Take out the first due job of the highest priority, one of another worker's next, too."""
        if self._lookahead.is_level:
            return self._lookahead.next(now) or self._prefetch.reclaim()
        priority = self._lookahead.due_priority(now)
        return self._prefetch.reclaim_above(priority) or self._lookahead.next(now)

    def _hand(self, consumer: Consumer, row: Row, now: int) -> None:
        consumer.prefetched.pop(row.id, None)
        if row.owner != consumer.name:  # with a token that is in the file before it is seen
            row.owner, row.token = consumer.name, row.token + 1
        row.durable = False
        row.began = now
        self._writes.move(row, TAKEN)
        consumer.rows[row.id] = row
        consumer.since = now
        if consumer.capacity == 1:
            self._prefetching[consumer.name] = consumer

    def _reserve(self, consumer: Consumer, row: Row, now: int) -> None:
        row.owner, row.token = consumer.name, row.token + 1
        self._writes.reserve(row)
        self._prefetch.add(consumer, row, now)

    def _release(self, consumer: Consumer, now: int) -> None:
        prefetched, consumer.prefetched = consumer.prefetched, {}
        for row in prefetched.values():
            self._give_back(row, now)

    def _give_back(self, row: Row, now: int) -> None:
        consumer = self.consumers.get(row.owner or "")
        if consumer is not None:
            consumer.rows.pop(row.id, None)
        self._transitions.give_back(row, now)
