"""Random histories of a queue, with a real file and time as an argument.

Whatever happens, in whatever order: no job is lost, none is in two hands, and an attempt
counts exactly when the contract says so.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from graced.queue.job import Discarded, Done, Outcome, Postponed, Raised
from graced.queue.policy import Policy
from graced.queue.protocol import STATES, QueueError, StorageError
from graced.queue.sqlite import bulk, window
from graced.queue.sqlite import dispatcher as rules
from graced.queue.sqlite import store as store_module
from graced.queue.sqlite.dispatcher import Dispatcher
from graced.queue.sqlite.rows import DEAD, DONE, SHOWN, STAGED, TAKEN, WAITING, Batch, Row
from graced.queue.sqlite.store import PAGE_BYTES, Store
from graced.queue.sqlite.transitions import CANCELLED
from graced.queue.standing import Standing
from graced.queue.tally import OUTCOMES
from graced.queue.terms import Terms
from graced.settings import Retry

SHM = "/dev/shm" if Path("/dev/shm").is_dir() else None
POLICY = Policy(max_attempts=3, retry=Retry(1.0, 2.0, 60.0), keep_done=1e9)
SIZES = (window.AHEAD, window.LOW, window.MOST)
START = 1_700_000_000_000
WORKERS = [f"d:{n}" for n in range(4)]


# What SQLite itself sees become of jobs, to compare with what is counted.
WITNESS = """
CREATE TABLE IF NOT EXISTS seen (what TEXT);
CREATE TRIGGER IF NOT EXISTS a AFTER INSERT ON jobs WHEN new.state <> 5
    BEGIN INSERT INTO seen VALUES ('submitted'); END;
CREATE TRIGGER IF NOT EXISTS b AFTER UPDATE ON jobs WHEN old.state = 5 AND new.state <> 5
    BEGIN INSERT INTO seen VALUES ('submitted'); END;
CREATE TRIGGER IF NOT EXISTS c AFTER UPDATE ON jobs WHEN old.state <> 3 AND new.state = 3
    BEGIN INSERT INTO seen VALUES ('done'); END;
CREATE TRIGGER IF NOT EXISTS d AFTER UPDATE ON jobs WHEN old.state <> 4 AND new.state = 4
    BEGIN INSERT INTO seen VALUES ('dead'); END;
CREATE TRIGGER IF NOT EXISTS e AFTER INSERT ON attempts WHEN new.counts
    BEGIN INSERT INTO seen VALUES ('failed'); END;
"""
SEEN = """
SELECT what, count(*) FROM (
    SELECT what FROM seen UNION ALL
    SELECT 'submitted' FROM jobs JOIN streams ON owner = 'stream:' || streams.id
    WHERE state = 5 AND streams.due IS NOT NULL
) GROUP BY what
"""


class FlakyStore(Store):
    """A store whose disk is full at times."""

    full = False
    jammed = False  # not even the log can grow

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._db.executescript(WITNESS)

    def put(self, batch: Batch) -> None:
        super().put(batch)
        if self.jammed:
            self._undo()
            raise StorageError("no space", full=True)

    def commit(self) -> None:
        if self.full:
            self._undo()
            raise StorageError("no space", full=True)
        super().commit()


class Worker:
    """A worker as the model knows it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.hand: tuple[int, int] | None = None  # job, token
        self.settled: list[tuple[int, int, Outcome]] = []  # said, not confirmed
        self.asked = False

    @classmethod
    def settled_only(cls, other: Worker) -> Worker:
        ghost = cls(other.name)
        ghost.settled = other.settled
        return ghost


class Known:
    """A job as the model knows it; the failures that it may have had."""

    def __init__(self, due: int, limit: int, priority: int = 0) -> None:
        self.due = due
        self.priority = priority
        self.cancelled = False
        self.limit = limit or POLICY.max_attempts
        self.low = self.high = 0
        self.ends: set[int] = set()  # states in which it may have ended
        self.gone = False

    def count(self, outcome: Outcome) -> None:
        if isinstance(outcome, Done):
            self.ends.add(DONE)
            return
        if self.cancelled:
            self.ends.add(DEAD)
            return
        self.low += 1
        self.high += 1
        if isinstance(outcome, Discarded) or self.high >= self.limit:
            self.ends.add(DEAD)

    def may_wait(self) -> bool:
        if self.gone or self.cancelled:
            return False
        return not self.ends or (DEAD in self.ends and self.low < self.limit)


class Histories(RuleBasedStateMachine):
    """One queue, some workers, a keeper that dies and a disk that fills up."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(dir=SHM)
        self.now = START
        self.known: dict[int, Known] = {}
        self.tokens: dict[int, int] = {}  # the last one of each job that was handed out
        self.workers: dict[str, Worker] = {}
        self.number = 0
        self.listening = False
        self.paused = False
        self.unwritten: list[int] = []  # jobs submitted, and not answered
        self.unburied: list[tuple[Worker, bool]] = []  # deaths told, and not answered
        self._open()

    def _open(self) -> None:
        self.store = FlakyStore(f"{self.folder}/q.db")
        self.dispatcher = Dispatcher(self.store, POLICY, lambda: 0.5)

    def teardown(self) -> None:
        try:
            self._finish()
        finally:
            window.AHEAD, window.LOW, window.MOST = SIZES
            self.store.close()
            shutil.rmtree(self.folder)

    # -- what happens

    @initialize(small=st.booleans(), listening=st.booleans())
    def sizes(self, small: bool, listening: bool) -> None:
        """Let what is in memory end after a few rows, or hold everything."""
        self.listening = listening
        window.AHEAD, window.LOW, window.MOST = (3, 1, 4) if small else SIZES

    @rule(
        count=st.integers(1, 6),
        delay=st.sampled_from([0.0, 0.0, 0.0, 1.5, 40.0]),
        limit=st.sampled_from([0, 0, 1, 5]),
        priority=st.sampled_from([0, 0, 7, -7, 100]),
        unique=st.sampled_from([None, None, None, "a", "b"]),
    )
    def submit(
        self, count: int, delay: float, limit: int, priority: int, unique: str | None
    ) -> None:
        if unique is not None:
            count = 1
            if self.store.full:
                return
        terms = Terms(delay, limit, priority, unique)
        ids = self.dispatcher.submit(["{}"] * count, terms, self.now)
        assert len(ids) == count
        if unique is not None and ids[0] in self.known:
            assert not self.known[ids[0]].gone
            return
        for id in ids:
            assert id not in self.known, "a number was used twice"
            self.known[id] = Known(self.now + round(delay * 1000), limit, priority)
            self.unwritten.append(id)
        self._commit()

    @rule(count=st.integers(1, 8), finished=st.booleans())
    def stream(self, count: int, finished: bool) -> None:
        stream = self.dispatcher.open_stream()
        first = self.dispatcher._last + 1
        for _ in range(count):
            self.dispatcher.stage(stream, ["{}"], Terms(), self.now)
        if finished:
            assert self.dispatcher.commit_stream(stream, Terms(), self.now) == count
            for id in range(first, first + count):
                self.known[id] = Known(self.now, 0)
                self.unwritten.append(id)
        else:
            self.dispatcher.abort_stream(stream)
        self._commit()

    @rule()
    def hire(self) -> None:
        if len(self.workers) < 4:
            self.number += 1
            worker = Worker(f"d:{self.number}")
            self.workers[worker.name] = worker
            self.dispatcher.join(worker.name, [], self.now)

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def ask(self, data: st.DataObject) -> None:
        worker = self._some(data)
        if worker.hand is None and not worker.asked:
            worker.asked = True
            self._deliver(self.dispatcher.ask(worker.name, self.now))
            self._commit()

    @precondition(lambda self: any(w.hand for w in self.workers.values()))
    @rule(
        data=st.data(),
        outcome=st.sampled_from(
            [Done(), Done("1"), Done(), Raised("{}"), Postponed("{}", 2.5), Discarded("{}")]
        ),
        more=st.booleans(),
        took=st.sampled_from([0, 3, 200]),
    )
    def settle(self, data: st.DataObject, outcome: Outcome, more: bool, took: int) -> None:
        worker = data.draw(st.sampled_from([w for w in self.workers.values() if w.hand]))
        assert worker.hand is not None
        self.now += took
        (id, token), worker.hand = worker.hand, None
        worker.settled.append((id, token, outcome))
        worker.asked = more
        self.known[id].count(outcome)
        self._deliver(self.dispatcher.settle(worker.name, id, token, outcome, more, self.now))
        self._commit()

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def reconnect(self, data: st.DataObject) -> None:
        worker = self._some(data)
        self.dispatcher.absent(worker.name, self.now)
        self._commit()
        self._join(worker)
        self._commit()

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), counts=st.booleans())
    def die(self, data: st.DataObject, counts: bool) -> None:
        worker = self._some(data)
        del self.workers[worker.name]
        if worker.hand is not None and (counts or self.known[worker.hand[0]].cancelled):
            self.known[worker.hand[0]].count(Raised("{}"))
        self.dispatcher.bury(worker.name, "{}" if counts else None, self.now)
        self.unburied.append((worker, counts))
        self._commit()

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        worker = self._some(data)
        if worker.hand is None:
            self.dispatcher.leave(worker.name, self.now)
            worker.asked = False
            self._commit()

    @rule(seconds=st.sampled_from([0.02, 0.2, 1.0, 3.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += round(seconds * 1000)
        self._commit()

    @rule(full=st.booleans())
    def disk(self, full: bool) -> None:
        self.store.full = full
        self._commit()

    @rule(data=st.data(), lost=st.sets(st.integers(0, 3)), counts=st.booleans())
    def keeper_dies(self, data: st.DataObject, lost: set[int], counts: bool) -> None:
        """Some workers die before they can talk to the next keeper."""
        full, self.store.full = self.store.full, False
        self.store.close()
        self._forget_unwritten()
        self._open()
        self.paused = self.dispatcher.counts(self.now)["paused"]
        for index, worker in enumerate(list(self.workers.values())):
            if index in lost:
                self._die_unheard(worker, counts)
            else:
                self._join(worker)
        for worker, counts in self.unburied:
            if worker.hand is not None and counts and not self.known[worker.hand[0]].cancelled:
                self.known[worker.hand[0]].low -= 1  # handed out, and not written down as taken
            self._die_unheard(Worker.settled_only(worker), counts)
        self._commit()
        self.store.full = full

    @precondition(lambda self: self.known)
    @rule(paused=st.sampled_from([True, False, False]))
    def pause(self, paused: bool) -> None:
        self.paused = paused
        self.dispatcher.pause(paused, self.now)
        self._commit()

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.store.full:
            return
        id = data.draw(st.sampled_from(sorted(self.known)))
        job = self.known[id]
        held = any(w.hand and w.hand[0] == id for w in self.workers.values())
        refused = self.dispatcher.cancel([id], self.now)
        if refused:
            assert job.gone or DONE in job.ends, refused
        elif held:
            job.cancelled = True
        else:
            job.ends, job.cancelled = {DEAD}, True
        self._commit()

    @precondition(lambda self: self.known)
    @rule(data=st.data(), drop=st.booleans())
    def change(self, data: st.DataObject, drop: bool) -> None:
        if self.store.full:
            return
        id = data.draw(st.sampled_from(sorted(self.known)))
        job = self.known[id]
        held = any(w.hand and w.hand[0] == id for w in self.workers.values())
        refused = (self.dispatcher.drop if drop else self._retry)([id])
        assert not (held and not refused), "somebody works on it"
        if drop and not refused:
            job.gone = True
        elif not refused and job.ends == {DEAD}:
            job.low = job.high = 0
            job.ends.clear()
            job.cancelled = False
        if not refused:
            job.due = min(job.due, self.now)
        self._commit()

    def _retry(self, ids: list[int]) -> dict[int, str]:
        return self.dispatcher.retry(ids, self.now)

    # -- what must hold

    @invariant()
    def counts_are_right(self) -> None:
        if self.dispatcher.pending or self.store.full:
            return
        counts, _, _, _ = self.store.load()
        mine = {s: n for s, n in enumerate(self.dispatcher._counts) if n}
        if not self.dispatcher.needs_maintenance:
            assert mine == counts

    @invariant()
    def few_jobs_are_found(self) -> None:
        if self.dispatcher.pending or self.store.full:
            return
        for state in STATES:
            listed = [job["id"] for job in self.store.page(SHOWN[state], 0, 1000, PAGE_BYTES)]
            for after in (0, *listed[:1]):
                found = self.dispatcher.few(state, after, 1000)
                assert found == [id for id in listed if id > after] or found is None

    @invariant()
    def what_became_of_jobs_is_counted(self) -> None:
        """And a keeper that dies takes none of it along."""
        if not self.dispatcher.pending:
            seen = dict.fromkeys(OUTCOMES, 0) | dict(self.store._read(SEEN, ()))
            assert self.dispatcher.counted()[1] == seen

    @invariant()
    def keys_are_unique(self) -> None:
        if not self.dispatcher.pending:
            query = "SELECT count(*) FROM jobs WHERE state IN (0, 1, 2) AND unique_key IS NOT NULL"
            counts = self.store._read(f"{query} GROUP BY unique_key", ())
            assert all(count == 1 for (count,) in counts)
            open_jobs = "SELECT unique_key, id FROM jobs WHERE state IN (0, 1, 2)"
            wanted = self.store._read(f"{open_jobs} AND unique_key IS NOT NULL ORDER BY 1", ())
            assert self.store._read("SELECT key, job FROM keys ORDER BY 1", ()) == wanted

    def _deliver(self, row: Row | None) -> None:
        if row is None:
            return
        assert row.owner is not None
        worker = self.workers[row.owner]
        holders = [w.name for w in self.workers.values() if w.hand and w.hand[0] == row.id]
        assert not holders, f"{row.id} is in the hands of {holders}"
        job = self.known[row.id]
        assert job.may_wait(), f"{row.id} had ended: {job.ends}"
        assert job.low < row.attempt <= job.high + 1, (job.low, row.attempt, job.high)
        assert row.id not in self.unwritten, "handed out before it was durable"
        assert row.due <= self.now
        assert worker.hand is None
        assert worker.asked, "it had not asked"
        assert not self.paused, "handed out in a pause"
        self._nothing_higher(row)
        job.low = job.high = row.attempt - 1
        job.ends.clear()
        assert row.token > self.tokens.get(row.id, 0), "a token was used twice"
        self.tokens[row.id] = row.token
        worker.hand, worker.asked = (row.id, row.token), False

    def _nothing_higher(self, given: Row) -> None:
        """No job of a higher priority waits that is due, and has killed nobody."""
        dispatcher = self.dispatcher
        for id, job in self.known.items():
            if job.priority <= given.priority or id in self.unwritten:
                continue
            row = dispatcher._rows.get(id) or dispatcher._writes.find(id)
            if row is not None and row.state == WAITING and row.due <= self.now:
                assert id in dispatcher._lookahead.deadly, f"{id} is higher than {given.id}"

    # -- steps

    def _some(self, data: st.DataObject) -> Worker:
        return self.workers[data.draw(st.sampled_from(sorted(self.workers)))]

    def _commit(self) -> None:
        try:
            rows = self.dispatcher.commit(self.now, self._listen if self.listening else None)
        except StorageError:
            self.dispatcher.refuse_submits()
            self._forget_unwritten()
            return
        self._written(rows)
        while self.dispatcher.is_low:
            self.dispatcher.read_ahead()
            self._commit()
        if self.dispatcher.needs_maintenance and not self.dispatcher.pending:
            self.dispatcher.maintain(self.now)
            if not self.store.full:
                self._commit()

    def _listen(self) -> bool:
        """Somebody settles a job while the commit is under way."""
        busy = [w for w in self.workers.values() if w.hand]
        if not busy or self.now % 3 == 0:
            return False
        worker = busy[self.now % len(busy)]
        assert worker.hand is not None
        (id, token), worker.hand = worker.hand, None
        worker.settled.append((id, token, Done()))
        worker.asked = True
        self.known[id].count(Done())
        self._deliver(self.dispatcher.settle(worker.name, id, token, Done(), True, self.now))
        return True

    def _written(self, rows: list[Row]) -> None:
        self.unwritten.clear()
        self.unburied.clear()
        for worker in self.workers.values():
            worker.settled.clear()
        for row in rows:
            self._deliver(row)

    def _forget_unwritten(self) -> None:
        for id in self.unwritten:
            del self.known[id]
        self.unwritten.clear()

    def _join(self, worker: Worker) -> None:
        held = [(id, token) for id, token, _ in worker.settled]
        held += [worker.hand] if worker.hand else []
        self.dispatcher.join(worker.name, held, self.now)
        for id, token, outcome in worker.settled:
            assert self.dispatcher.settle(worker.name, id, token, outcome, False, self.now) is None
        if worker.asked:
            self._deliver(self.dispatcher.ask(worker.name, self.now))

    def _die_unheard(self, worker: Worker, counts: bool) -> None:
        """A settle that nobody wrote down is lost with the keeper and the worker both."""
        self.workers.pop(worker.name, None)
        uncertain = [(id, o) for id, _, o in worker.settled]
        for id, outcome in uncertain:
            job = self.known[id]
            if job.cancelled:
                job.ends = {DEAD}
                continue
            if not isinstance(outcome, Done):
                job.low -= 1
            elif counts:
                job.high += 1
            job.ends |= {DEAD} if job.high >= job.limit else set()
            job.ends.discard(DONE)
        if worker.hand is not None and self.known[worker.hand[0]].cancelled:
            self.known[worker.hand[0]].ends.add(DEAD)
        elif worker.hand is not None and counts:
            job = self.known[worker.hand[0]]
            job.high += 1
            job.ends |= {DEAD} if job.high >= job.limit else set()
        self.dispatcher.bury(worker.name, "{}" if counts else None, self.now)

    def _finish(self) -> None:
        """With a good disk and one last worker, all jobs come to their ends."""
        self.store.full = False
        self._commit()
        self.pause(False)
        for worker in list(self.workers.values()):
            if worker.hand:
                id, token = worker.hand
                worker.hand = None
                worker.settled.append((id, token, Done()))
                self.known[id].count(Done())
                self.dispatcher.settle(worker.name, id, token, Done(), False, self.now)
                self._commit()
            self.dispatcher.leave(worker.name, self.now)
            del self.workers[worker.name]
        last = self.workers["d:last"] = Worker("d:last")
        self.dispatcher.join("d:last", [], self.now)
        for _ in range(10 * len(self.known) + 10):
            self.now += 100_000
            if not last.asked and last.hand is None:
                last.asked = True
                self._deliver(self.dispatcher.ask("d:last", self.now))
            self._commit()
            if last.hand is not None:
                (id, token), last.hand = last.hand, None
                last.settled.append((id, token, Done()))
                self.known[id].count(Done())
                self.dispatcher.settle("d:last", id, token, Done(), False, self.now)
        self._commit()
        for id, job in self.known.items():
            row = self.store.row(id)
            if job.gone:
                assert row is None
            else:
                assert row is not None, f"{id} is lost"
                assert row.state in job.ends, (id, row.state, job.ends)


Histories.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestHistories = Histories.TestCase


@pytest.fixture
def store(tmp_path: Path) -> Any:
    store = Store(f"{tmp_path}/q.db")
    yield store
    store.close()


def settled(dispatcher: Dispatcher, name: str, row: Row, now: int) -> Row | None:
    return dispatcher.settle(name, row.id, row.token, Done(), True, now)


def test_a_quick_workers_next_job_comes_before_the_commit(store: Store) -> None:
    dispatcher = Dispatcher(store, POLICY, lambda: 0.5)
    dispatcher.submit(["{}"] * 50, Terms(), START)
    dispatcher.ask("d:1", START)
    [first] = _commit(dispatcher, START)
    assert settled(dispatcher, "d:1", first, START + 1) is None, "not known to be quick"
    [second] = _commit(dispatcher, START + 1)
    third = settled(dispatcher, "d:1", second, START + 2)
    assert third is not None
    for n in range(rules.DEPTH - 1):
        third = settled(dispatcher, "d:1", third, START + 3)
        assert third is not None, n
    assert settled(dispatcher, "d:1", third, START + 3) is None, "no more was durable"
    _commit(dispatcher, START + 3)
    assert dispatcher.counts(START)["taken"] == 1


@pytest.mark.parametrize(("ms", "reserved"), [(0, 16), (3, 16), (10, 5), (50, 1), (51, 0)])
def test_no_more_is_reserved_than_is_soon_begun(store: Store, ms: int, reserved: int) -> None:
    dispatcher = Dispatcher(store, POLICY, lambda: 0.5)
    dispatcher.submit(["{}"] * 50, Terms(), START)
    dispatcher.ask("d:1", START)
    [row] = _commit(dispatcher, START)
    settled(dispatcher, "d:1", row, START + ms)
    _commit(dispatcher, START + ms)
    assert len(dispatcher.consumers["d:1"].prefetched) == reserved


def test_a_reserved_job_is_free_for_the_idle(store: Store) -> None:
    dispatcher = Dispatcher(store, POLICY, lambda: 0.5)
    dispatcher.submit(["{}"] * 4, Terms(), START)
    dispatcher.ask("d:1", START)
    [row] = _commit(dispatcher, START)
    settled(dispatcher, "d:1", row, START)
    [row] = _commit(dispatcher, START)
    assert len(dispatcher.consumers["d:1"].prefetched) == 2
    for name in ("d:2", "d:3"):
        dispatcher.ask(name, START)
    assert len(_commit(dispatcher, START)) == 2
    assert not dispatcher.consumers["d:1"].prefetched


def test_the_oldest_job_does_not_wait_for_a_worker_that_became_slow(store: Store) -> None:
    dispatcher = Dispatcher(store, POLICY, lambda: 0.5)
    dispatcher.submit(["{}"] * 50, Terms(), START)
    dispatcher.ask("d:1", START)
    [row] = _commit(dispatcher, START)
    settled(dispatcher, "d:1", row, START)
    _commit(dispatcher, START)
    reserved = next(iter(dispatcher.consumers["d:1"].prefetched.values()))
    later = START + 1000
    dispatcher.ask("d:2", later)
    [row] = _commit(dispatcher, later)
    assert row is reserved


def quick_worker(dispatcher: Dispatcher, name: str) -> Row:
    """Have a worker with a job in hand and others reserved."""
    dispatcher.ask(name, START)
    [row] = _commit(dispatcher, START)
    settled(dispatcher, name, row, START)
    [row] = _commit(dispatcher, START)
    return row


def test_what_is_reserved_is_not_handed_out_before_that_is_durable(tmp_path: Path) -> None:
    store = FlakyStore(f"{tmp_path}/q.db")
    dispatcher = Dispatcher(store, POLICY, lambda: 0.5)
    dispatcher.submit(["{}"] * 50, Terms(), START)
    row = quick_worker(dispatcher, "d:1")
    store.full = True
    handed = 0
    while (following := settled(dispatcher, "d:1", row, START)) is not None:
        with pytest.raises(StorageError):
            dispatcher.commit(START)
        row, handed = following, handed + 1
    assert handed == rules.DEPTH
    with pytest.raises(StorageError):
        dispatcher.commit(START)
    store.full = False
    assert len(dispatcher.commit(START)) == 1
    store.close()


def test_what_is_settled_during_a_commit_is_settled_by_it(store: Store) -> None:
    dispatcher = Dispatcher(store, POLICY, lambda: 0.5)
    dispatcher.submit(["{}"] * 50, Terms(), START)
    hand = [quick_worker(dispatcher, "d:1")]
    done = []

    def listen() -> bool:
        row = hand.pop() if hand else None
        if row is None:
            return False
        done.append(row.id)
        following = settled(dispatcher, "d:1", row, START)
        hand.extend([following] if following else [])
        return True

    assert listen()
    handouts = dispatcher.commit(START, listen)
    assert len(done) == rules.DEPTH + 1
    assert [r.id for r in handouts] == [done[-1] + 1], "the last had no durable reserve"
    assert all(found and found.state == DONE for found in map(store.row, done))


def test_a_worker_whose_job_was_refused_after_all_gets_the_next_one(tmp_path: Path) -> None:
    store = FlakyStore(f"{tmp_path}/q.db")
    dispatcher = Dispatcher(store, POLICY, lambda: 0.5)
    assert dispatcher.ask("d:1", START) is None
    assert not _commit(dispatcher, START)
    dispatcher.submit(["{}"], Terms(), START)
    store.full = True
    with pytest.raises(StorageError):
        dispatcher.commit(START)
    assert dispatcher.consumers["d:1"].rows, "it was to be handed out"
    dispatcher.refuse_submits()
    store.full = False
    dispatcher.submit(["{}"], Terms(), START)
    assert len(_commit(dispatcher, START)) == 1
    store.close()


def test_a_job_is_written_to_be_in_hand_before_it_is_though_a_write_has_failed(
    tmp_path: Path,
) -> None:
    store = FlakyStore(f"{tmp_path}/q.db")
    dispatcher = Dispatcher(store, POLICY, lambda: 0.5)
    dispatcher.submit(["{}"], Terms(), START)
    _commit(dispatcher, START)
    dispatcher.ask("d:1", START)
    store.jammed = True
    with pytest.raises(StorageError):
        dispatcher.commit(START, lambda: False)
    store.jammed = False
    dispatcher.write()
    [row] = dispatcher.handouts()
    written = store.row(row.id)
    assert written is not None
    assert (written.state, written.owner) == (TAKEN, "d:1")
    store.close()


def test_an_attempt_that_was_not_handed_out_does_not_count(tmp_path: Path) -> None:
    store = FlakyStore(f"{tmp_path}/q.db")
    dispatcher = Dispatcher(store, POLICY, lambda: 0.5)
    dispatcher.submit(["{}"], Terms(), START)
    _commit(dispatcher, START)
    store.full = True
    dispatcher.ask("d:1", START)
    with pytest.raises(StorageError):
        dispatcher.commit(START)
    dispatcher.bury("d:1", "{}", START)
    store.full = False
    _commit(dispatcher, START)
    dispatcher.ask("d:2", START)
    [row] = _commit(dispatcher, START)
    assert row.attempt == 1
    store.close()


def test_a_reserve_that_the_next_keeper_finds_does_not_count(tmp_path: Path) -> None:
    store = Store(f"{tmp_path}/q.db")
    dispatcher = Dispatcher(store, POLICY, lambda: 0.5)
    dispatcher.submit(["{}"] * 3, Terms(), START)
    row = quick_worker(dispatcher, "d:1")
    reserved = set(dispatcher.consumers["d:1"].prefetched)
    store.close()
    store = Store(f"{tmp_path}/q.db")
    dispatcher = Dispatcher(store, POLICY, lambda: 0.5)
    dispatcher.bury("d:1", "{}", START)
    _commit(dispatcher, START)
    failures = {id: found.failures for id in (row.id, *reserved) if (found := store.row(id))}
    assert failures == {row.id: 1, **dict.fromkeys(reserved, 0)}
    store.close()


def test_memory_is_bounded_however_many_wait(store: Store) -> None:
    dispatcher = Dispatcher(store, POLICY, lambda: 0.5)
    for _ in range(20):
        dispatcher.submit(["{}"] * 1000, Terms(), START)
        _commit(dispatcher, START)
    assert len(dispatcher._lookahead._windows[0]._heap) <= 2 * window.MOST
    assert len(dispatcher._rows) <= 2 * window.MOST


def test_a_retry_that_falls_due_early_is_seen(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "AHEAD", 4)
    monkeypatch.setattr(window, "LOW", 2)
    dispatcher = Dispatcher(store, POLICY, lambda: 1.0)
    dispatcher.submit(["{}"], Terms(), START)
    dispatcher.ask("d:1", START)
    [row] = _commit(dispatcher, START)
    dispatcher.submit(["{}"] * 20, Terms(3600), START)
    _commit(dispatcher, START)
    dispatcher.settle("d:1", row.id, 1, Raised("{}"), True, START)
    assert _commit(dispatcher, START) == []
    assert dispatcher.next_due() == START + 1000
    [again] = _commit(dispatcher, START + 1000)
    assert (again.id, again.attempt) == (row.id, 2)


def test_dead_after_its_own_attempts(store: Store) -> None:
    dispatcher = Dispatcher(store, POLICY, lambda: 0.5)
    dispatcher.submit(["{}"], Terms(0, 2), START)
    now = START
    for attempt in (1, 2):
        dispatcher.ask("d:1", now)
        [row] = _commit(dispatcher, now)
        assert row.attempt == attempt
        dispatcher.bury("d:1", '{"signal":11}', now)
        _commit(dispatcher, now)
        now += 100_000
    assert dispatcher.ended() == [(1, "dead")]
    listing = store.listing(1)
    assert listing is not None
    assert (listing["state"], listing["attempts"]) == ("dead", 2)
    assert listing["evidence"] == '{"signal":11}'
    assert dispatcher.retry([1], now) == {}
    _commit(dispatcher, now)
    row_again = store.row(1)
    assert row_again is not None
    assert (row_again.state, row_again.failures) == (WAITING, 0)
    dispatcher.ask("d:1", now)
    [row] = _commit(dispatcher, now)
    dispatcher.settle("d:1", 1, row.token, Done(), False, now)
    _commit(dispatcher, now)
    listing = store.listing(1)
    assert listing is not None
    assert (listing["state"], listing["evidence"]) == ("done", None), "of a try that counts no more"


def test_done_jobs_are_kept_and_then_pruned(store: Store) -> None:
    policy = POLICY.replace(keep_done=10.0)
    dispatcher = Dispatcher(store, policy, lambda: 0.5)
    dispatcher.submit(["{}"] * 3, Terms(), START)
    dispatcher.ask("d:1", START)
    rows = _commit(dispatcher, START)
    while rows:
        row = settled(dispatcher, "d:1", rows[0], START)
        rows = [row] if row else _commit(dispatcher, START)
    _commit(dispatcher, START)
    assert dispatcher.next_prune is not None
    dispatcher.maintain(START + 9_000)
    assert dispatcher.counts(START)["done"] == 3
    dispatcher.maintain(dispatcher.next_prune)
    assert dispatcher.counts(START)["done"] == 0
    assert store.listing(1) is None
    assert dispatcher.next_prune is None
    for counting in (dispatcher, Dispatcher(store, policy, lambda: 0.5)):
        assert counting.counted()[1] == {"submitted": 3, "done": 3, "failed": 0, "dead": 0}


def test_a_full_queue_refuses_and_says_so(store: Store) -> None:
    dispatcher = Dispatcher(store, POLICY.replace(max_waiting=2), lambda: 0.5)
    dispatcher.submit(["{}"] * 2, Terms(), START)
    with pytest.raises(QueueError, match=r"the queue is full: 2 jobs wait and max_waiting is 2"):
        dispatcher.submit(["{}"], Terms(), START)


def test_numbers_are_never_used_twice(tmp_path: Path) -> None:
    path = f"{tmp_path}/q.db"
    store = Store(path)
    dispatcher = Dispatcher(store, POLICY, lambda: 0.5)
    dispatcher.submit(["{}"] * 3, Terms(), START)
    _commit(dispatcher, START)
    assert dispatcher.drop([1, 2, 3]) == {}
    _commit(dispatcher, START)
    store.close()
    store = Store(path)
    assert Dispatcher(store, POLICY, lambda: 0.5).submit(["{}"], Terms(), START) == range(4, 5)
    store.close()


def test_a_long_stream_is_promoted_in_steps_and_survives_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "STEP", 10)
    path = f"{tmp_path}/q.db"
    store = Store(path)
    dispatcher = Dispatcher(store, POLICY, lambda: 0.5)
    stream = dispatcher.open_stream()
    for _ in range(5):
        dispatcher.stage(stream, ["{}"] * 7, Terms(), START)
        _commit(dispatcher, START)
    assert dispatcher.counts(START)["waiting"] == 0
    assert dispatcher.commit_stream(stream, Terms(), START) == 35
    _commit(dispatcher, START)
    dispatcher.maintain(START)
    assert dispatcher.counts(START)["waiting"] == 35
    store.close()
    store = Store(path)
    dispatcher = Dispatcher(store, POLICY, lambda: 0.5)
    assert dispatcher.counts(START)["waiting"] == 35
    while dispatcher.needs_maintenance:
        dispatcher.maintain(START)
    assert store.load()[0] == {WAITING: 35}
    store.close()


def test_a_stream_that_is_accepted_is_seen_and_changed_at_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long before all of it is promoted; and one that is not accepted is not there."""
    monkeypatch.setattr(bulk, "STEP", 10)
    dispatcher = Dispatcher(store, POLICY, lambda: 0.5)
    [stream, other] = [dispatcher.open_stream() for _ in range(2)]
    dispatcher.stage(stream, ["{}"] * 30, Terms(), START)
    dispatcher.stage(other, ["{}"], Terms(), START)
    _commit(dispatcher, START)
    assert store.page(SHOWN[None], 0, 100, PAGE_BYTES) == []
    assert dispatcher.cancel([30], START) == {30: "no such job"}
    dispatcher.commit_stream(stream, Terms(60), START)
    _commit(dispatcher, START)
    dispatcher.maintain(START)
    for state in (None, "waiting"):
        page = store.page(SHOWN[state], 5, 100, PAGE_BYTES)
        assert [job["id"] for job in page] == list(range(6, 31))
        assert {(job["state"], job["due"]) for job in page} == {("waiting", START / 1000 + 60)}
    assert dispatcher.drop([28, 31]) == {31: "no such job"}
    assert dispatcher.cancel([29], START) == dispatcher.retry([30], START) == {}
    dispatcher.ask("d:1", START)
    [row] = _commit(dispatcher, START)
    assert row.id == 30
    while dispatcher.needs_maintenance:
        dispatcher.maintain(START)
    assert store.load()[0] == {WAITING: 27, TAKEN: 1, DEAD: 1, STAGED: 1}
    assert [dispatcher.counts(START)[state] for state in STATES] == [27, 1, 0, 1]


def test_many_small_streams_are_let_wait_together(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else those who submit a few jobs at a time, often, are ahead of it more and more."""
    monkeypatch.setattr(bulk, "STEP", 10)
    dispatcher = Dispatcher(store, POLICY, lambda: 0.5)
    for count in (3, 3, 4, 0, 15, 2):
        stream = dispatcher.open_stream()
        dispatcher.stage(stream, ["{}"] * count, Terms(), START)
        dispatcher.commit_stream(stream, Terms(), START)
    _commit(dispatcher, START)
    waiting = []
    while dispatcher.needs_maintenance:
        dispatcher.maintain(START)
        waiting.append(store.load()[0][WAITING])
    assert waiting == [10, 20, 27]
    assert store.load()[2] == []


@pytest.mark.parametrize("state", [None, *STATES])
def test_a_look_for_jobs_reads_no_more_the_more_there_are(
    store: Store, monkeypatch: pytest.MonkeyPatch, state: str | None
) -> None:
    monkeypatch.setattr(store_module, "LOOKED_AT", 10)
    dispatcher = Dispatcher(store, POLICY, lambda: 0.5)
    dispatcher.submit(["{}"] * 5000, Terms(), START)
    _commit(dispatcher, START)
    steps: list[int] = []
    store._db.set_progress_handler(lambda: steps.append(1), 100)
    found = store.look_for(SHOWN[state], 0, 5, PAGE_BYTES)
    ids = found if isinstance(found, int) else [job["id"] for job in found]
    assert ids == ([1, 2, 3, 4, 5] if state in (None, "waiting") else 10)
    assert store.listing(4999)["state"] == "waiting"  # type: ignore[index]
    assert store.listing(5001) is None
    assert len(steps) < 20


def test_a_stream_that_was_broken_off_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither rows nor room in the queue, whether it broke off now or with the last keeper."""
    monkeypatch.setattr(bulk, "STEP", 10)
    path = f"{tmp_path}/q.db"
    policy = POLICY.replace(max_waiting=25)
    store = Store(path)
    dispatcher = Dispatcher(store, policy, lambda: 0.5)
    for _ in range(2):
        stream = dispatcher.open_stream()
        dispatcher.stage(stream, ["{}"] * 25, Terms(), START)
        _commit(dispatcher, START)
        with pytest.raises(QueueError, match="the queue is full"):
            dispatcher.stage(stream, ["{}"], Terms(), START)
        dispatcher.abort_stream(stream)
        while dispatcher.needs_maintenance:
            dispatcher.maintain(START)
        assert store.load()[0] == {}
    dispatcher.stage(dispatcher.open_stream(), ["{}"] * 25, Terms(), START)
    _commit(dispatcher, START)
    store.close()
    store = Store(path)
    dispatcher = Dispatcher(store, policy, lambda: 0.5)
    assert dispatcher.has_maintenance(START)
    while dispatcher.needs_maintenance:
        dispatcher.maintain(START)
    assert store.load()[0] == {}
    assert store.load()[2] == []
    assert len(dispatcher.submit(["{}"] * 25, Terms(), START)) == 25
    store.close()


def test_what_was_reserved_first_is_given_on_first(store: Store) -> None:
    dispatcher = Dispatcher(store, POLICY, lambda: 0.5)
    dispatcher.submit(["{}"] * 4, Terms(), START)
    quick_worker(dispatcher, "d:1")
    assert list(dispatcher.consumers["d:1"].prefetched) == [3, 4]
    handed = []
    for name in ("d:2", "d:3"):
        dispatcher.ask(name, START)
        handed += [row.id for row in _commit(dispatcher, START)]
    assert handed == [3, 4]


def test_how_long_the_oldest_waits(store: Store) -> None:
    dispatcher = Dispatcher(store, POLICY, lambda: 0.5)
    assert "oldest" not in dispatcher.counts(START)
    dispatcher.submit(["{}"], Terms(10), START)
    _commit(dispatcher, START)
    assert "oldest" not in dispatcher.counts(START + 9_999), "it does not wait before it is due"
    dispatcher.submit(["{}"], Terms(12), START)
    _commit(dispatcher, START)
    assert dispatcher.counts(START + 10_000)["oldest"] == 0
    assert dispatcher.counts(START + 12_500)["oldest"] == 2.5


@pytest.mark.parametrize("written", [False, True])
def test_what_is_asked_of_a_job_that_has_just_ended_is_asked_of_that(
    store: Store, *, written: bool
) -> None:
    """It is in the batch, or in the open transaction; in the file it is in hand still."""
    dispatcher = Dispatcher(store, POLICY, lambda: 0.5)
    dispatcher.submit(["{}"] * 3, Terms(), START)
    for name in ("d:1", "d:2"):
        dispatcher.ask(name, START)
    first, second = _commit(dispatcher, START)

    asked = []

    def ask() -> bool:
        asked.append(1)
        assert dispatcher.retry([first.id], START) == {first.id: "is done"}
        if len(asked) == 1:
            assert dispatcher.drop([second.id]) == {}
        assert dispatcher.retry([second.id], START) == {second.id: "no such job"}
        return len(asked) == 1  # once more, when the drop is in the open transaction too

    for name, row in (("d:1", first), ("d:2", second)):
        dispatcher.settle(name, row.id, 1, Done(), False, START)
    if not written:
        ask()
    dispatcher.commit(START, ask if written else None)
    _commit(dispatcher, START)
    assert {id: row and row.state for id in (1, 2) for row in [store.row(id)]} == {1: DONE, 2: None}


def test_who_killed_a_worker_waits_behind_those_who_did_not(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many wait, and whatever came first; not behind one that is not due."""
    for name, size in zip(("AHEAD", "LOW", "MOST"), (4, 2, 8), strict=True):
        monkeypatch.setattr(window, name, size)
    dispatcher = Dispatcher(store, POLICY, lambda: 1.0)
    dispatcher.submit(["{}"] * 3, Terms(), START)

    def next_job(now: int) -> int:
        dispatcher.ask("d:1", now)
        [row] = _commit(dispatcher, now)
        return row.id

    for id in (1, 2):
        assert next_job(START) == id
        dispatcher.bury("d:1", '{"signal":11}', START)
    dispatcher.submit(["{}"] * 20, Terms(5), START)
    dispatcher.submit(["{}"], Terms(600), START)
    _commit(dispatcher, START)
    later = START + 60_000
    assert dispatcher.next_due() is None
    assert dispatcher.counts(later)["oldest"] == 60
    workers = [f"d:{n}" for n in range(10)]
    order = []
    while len(order) < 23:  # more of them at once than there are jobs in memory
        for name in workers:
            dispatcher.ask(name, later)
        rows = _commit(dispatcher, later)
        order += [row.id for row in rows]
        for row in rows:
            dispatcher.settle(str(row.owner), row.id, row.token, Done(), False, later)
    assert order == [3, *range(4, 24), 1, 2]


def test_who_was_found_after_a_crash_or_is_retried_by_hand_waits_behind_nobody(
    store: Store,
) -> None:
    dispatcher = Dispatcher(store, POLICY, lambda: 1.0)
    dispatcher.submit(["{}"] * 3, Terms(), START)
    for name in ("d:1", "d:2"):
        dispatcher.ask(name, START)
    assert len(_commit(dispatcher, START)) == 2
    dispatcher.bury("d:1", "{}", START, alone=False)
    dispatcher.bury("d:2", "{}", START)
    assert dispatcher.retry([2], START) == {}
    later = START + 60_000
    dispatcher.submit(["{}"], Terms(61), START)
    for name in ("d:3", "d:4", "d:5"):
        dispatcher.ask(name, later)
    assert [row.id for row in _commit(dispatcher, later)] == [2, 3, 1]


def test_the_first_interrupt_of_a_job_costs_no_attempt_and_each_further_one_does(
    store: Store,
) -> None:
    dispatcher = Dispatcher(store, POLICY, lambda: 1.0)
    dispatcher.submit(["{}"], Terms(0, 2), START)
    attempts = []
    now = START
    for _ in range(3):
        dispatcher.ask("d:1", now)
        [row] = _commit(dispatcher, now)
        attempts.append(row.attempt)
        dispatcher.bury("d:1", "{}", now, interrupted=True)
        _commit(dispatcher, now)
        now += 100_000
    assert attempts == [1, 1, 2]
    assert dispatcher.ended() == [(1, "dead")]


def _commit(dispatcher: Dispatcher, now: int) -> list[Row]:
    rows = dispatcher.commit(now)
    while dispatcher.is_low:
        dispatcher.read_ahead()
        rows += dispatcher.commit(now)
    return rows


# -- priorities, keys, cancel, pause -----------------------------------------------------


def test_the_higher_goes_first_however_few_of_them_are_in_memory(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if those in memory are used up while there are more in the file."""
    for name, size in zip(("AHEAD", "LOW", "MOST"), (3, 0, 4), strict=True):
        monkeypatch.setattr(window, name, size)
    dispatcher = Dispatcher(store, POLICY, lambda: 0.5)
    for priority in (0, 5, -5, 5, 0, 100):
        dispatcher.submit(["{}"] * 7, Terms(priority=priority), START)
        _commit(dispatcher, START)
    dispatcher.submit(["{}"], Terms(3600, priority=50), START)
    for number in range(1, 6):
        dispatcher.ask(f"d:{number}", START)
    given: list[tuple[int, int]] = []
    while len(given) < 42:
        rows = dispatcher.commit(START)
        while rows:
            row = rows.pop(0)
            given.append((-row.priority, row.id))
            following = settled(dispatcher, str(row.owner), row, START)
            rows += [] if following is None else [following]
        if dispatcher.is_low:
            dispatcher.read_ahead()
    assert given == sorted(given)


def test_of_what_is_reserved_the_higher_goes_first(store: Store) -> None:
    """For whom it is reserved, and for an idle worker that takes it from there."""
    dispatcher = Dispatcher(store, POLICY, lambda: 0.5)
    first, second, low = (dispatcher.submit(["{}"], Terms(), START)[0] for _ in range(3))
    dispatcher.join("d:1", [], START)
    dispatcher.ask("d:1", START)
    [row] = _commit(dispatcher, START)
    assert row.id == first
    assert settled(dispatcher, "d:1", row, START) is None
    [row] = _commit(dispatcher, START)  # and the third is reserved for it now
    assert row.id == second
    assert dispatcher.consumers["d:1"].prefetched
    high, higher = (dispatcher.submit(["{}"], Terms(priority=p), START)[0] for p in (1, 2))
    assert _commit(dispatcher, START) == []
    assert settled(dispatcher, "d:1", row, START) is None, "there are higher ones than the next"
    dispatcher.ask("d:2", START)
    assert [(row.owner, row.id) for row in _commit(dispatcher, START)] == [
        ("d:1", higher),
        ("d:2", high),
    ]
    assert dispatcher.drop([low]) == {}


def test_what_was_reserved_later_and_is_higher_goes_first(store: Store) -> None:
    dispatcher = Dispatcher(store, POLICY, lambda: 0.5)
    ids = list(dispatcher.submit(["{}"] * 4, Terms(), START))
    [high] = dispatcher.submit(["{}"], Terms(0.01, priority=1), START)
    dispatcher.ask("d:1", START)
    [row] = _commit(dispatcher, START)
    settled(dispatcher, "d:1", row, START)
    [row] = _commit(dispatcher, START)
    assert list(dispatcher.consumers["d:1"].prefetched) == ids[2:]
    third = settled(dispatcher, "d:1", row, START)
    assert third is not None
    _commit(dispatcher, START + 10)
    assert list(dispatcher.consumers["d:1"].prefetched) == [ids[3], high]
    row_next = settled(dispatcher, "d:1", third, START + 10)
    assert row_next is not None
    assert row_next.id == high


def test_a_key_is_free_as_soon_as_its_job_is_over_written_or_not(store: Store) -> None:
    dispatcher = Dispatcher(store, POLICY, lambda: 0.5)
    key = Terms(unique="k")

    def submit() -> int:
        return dispatcher.submit(["{}"], key, START)[0]

    first = submit()
    assert submit() == first, "it is not written yet"
    assert dispatcher.cancel([first], START) == {}
    second = submit()
    assert second != first
    _commit(dispatcher, START)
    assert submit() == second
    assert dispatcher.drop([second]) == {}
    third = submit()
    assert third not in (first, second)
    dispatcher.refuse_submits()
    fourth = submit()
    assert fourth not in (first, second)
    _commit(dispatcher, START)
    assert submit() == fourth
    again = Dispatcher(store, POLICY, lambda: 0.5)
    assert again.submit(["{}"], key, START)[0] == fourth


def test_what_was_to_be_handed_out_in_the_next_commit_is_not_in_a_pause(tmp_path: Path) -> None:
    store = FlakyStore(f"{tmp_path}/q.db")
    dispatcher = Dispatcher(store, POLICY, lambda: 0.5)
    [id] = dispatcher.submit(["{}"], Terms(), START)
    _commit(dispatcher, START)
    dispatcher.ask("d:1", START)
    store.full = True
    with pytest.raises(StorageError):
        _commit(dispatcher, START)
    dispatcher.pause(True, START)
    store.full = False
    assert _commit(dispatcher, START) == []
    assert dispatcher.next_due() is None, "nothing has to be done when it falls due"
    dispatcher.pause(False, START)
    [row] = _commit(dispatcher, START)
    assert (row.id, row.attempt) == (id, 1)
    store.close()


def test_a_cancelled_job_in_hand_is_dead_however_its_worker_lets_go(store: Store) -> None:
    """Whether it leaves, dies, does not know it, or says that it has failed; told once."""
    dispatcher = Dispatcher(store, POLICY, lambda: 0.5)
    ids = list(dispatcher.submit(["{}"] * 5, Terms(), START))
    for number in range(5):
        dispatcher.ask(f"d:{number}", START)
    rows = _commit(dispatcher, START)
    assert dispatcher.cancel(ids, START) == {} == dispatcher.cancel(ids, START)
    assert [row.id for row in dispatcher.cancelling()] == ids
    _commit(dispatcher, START)
    assert dispatcher.cancelling() == []
    assert len(Dispatcher(store, POLICY, lambda: 0.5).cancelling()) == 5, "the next one knows"
    dispatcher.leave("d:0", START)
    dispatcher.bury("d:1", "{}", START)
    dispatcher.join("d:2", [], START)
    dispatcher.settle("d:3", rows[3].id, rows[3].token, Postponed("{}", 1.0), True, START)
    dispatcher.settle("d:4", rows[4].id, rows[4].token, Done("7"), True, START)
    assert _commit(dispatcher, START + 100_000) == []
    found = [store.listing(id) or {} for id in ids]
    assert [(job["state"], job["attempts"]) for job in found] == [*[("dead", 0)] * 4, ("done", 1)]
    assert all(job["evidence"] == CANCELLED for job in found[:4])


def test_an_instant_whose_job_could_not_be_written_is_not_kept(store: Store) -> None:
    dispatcher = Dispatcher(store, Policy(), lambda: 0.5)
    dispatcher.schedules({"s": ("daily", None, False)}, 100)
    dispatcher.submit(["1"], Terms(schedule="s", scheduled=200), 1000)
    dispatcher.commit(1000)
    terms = Terms(schedule="s", scheduled=300)
    for _ in range(2):
        assert len(dispatcher.submit(["1"], terms, 1000)) == 1
        assert list(dispatcher.submit(["1"], terms, 1000)) == []
        dispatcher.refuse_submits()
    dispatcher.commit(1000)
    assert store.standings() == {"s": Standing("daily", 100, 200)}
