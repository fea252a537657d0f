"""A worker in a test of its user's: graced.testing.worker()."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from graced import (
    AsyncJobWorker,
    AsyncWorker,
    Discard,
    Job,
    JobDead,
    JobWorker,
    QueueError,
    Retry,
    SocketWorker,
    Worker,
    WorkerInterrupt,
)
from graced.queue.job import Discarded
from graced.testing import MemoryQueue, worker
from graced.workers import Command


class Poller(Worker):
    """Counts; raises, waits, asks as its options say."""

    done = 0
    told: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.begun = threading.Event()

    def setup(self) -> None:
        self.told += ("setup",)

    def step(self) -> None:
        self.begun.set()
        self.done += self.options.get("by", 1)
        self.log.info("round %d of %s/%d", self.done, self.pool, self.slot)
        if self.options.get("raises"):
            raise OSError("no network")
        self.told += (str(self.wait(self.options.get("wait", 0))),)

    def teardown(self) -> None:
        self.told += ("teardown",)


class Thumbs(JobWorker):
    def __init__(self) -> None:
        self.begun = threading.Event()

    def handle(self, job: Job) -> Any:
        match job.payload:
            case "again":
                raise Retry(after=3600)
            case "never":
                raise Discard("no picture")
            case "bad":
                raise ValueError("bad picture")
            case "cut":
                self.begun.set()
                self.wait()
            case "once":
                if job.attempt == 1:
                    raise ValueError("at first")
            case "set":
                return {1, 2}
        return {"path": job.payload, "size": self.options["size"], "attempt": job.attempt}


@contextlib.contextmanager
def once_begun(polls: Poller | Thumbs, ask: Callable[[], None]) -> Iterator[None]:
    """Ask in another thread, once a round has begun: before, there would be none."""
    other = threading.Thread(target=lambda: polls.begun.wait(60) and ask())
    other.start()
    yield
    other.join()


def test_rounds_between_setup_and_teardown(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), worker(Poller, options={"by": 2}, slot=3) as detached:
        detached.step()
        assert detached.run(2) == 2
        poller = detached.worker
    assert poller.done == 6
    assert poller.told == ("setup", "False", "False", "False", "teardown")
    assert "round 2 of jobs/3" in caplog.messages


def test_a_step_raises_and_run_logs_as_a_daemon_does(caplog: pytest.LogCaptureFixture) -> None:
    with worker(Poller, options={"raises": True}, max_errors=3) as detached:
        with pytest.raises(OSError, match="no network"):
            detached.step()
        assert detached.run() == 2  # three in a row are as many as it may
        assert detached.errors == 3
    assert caplog.messages.count("step() raised") == 3
    assert detached.worker.told == ("setup", "teardown")


def test_a_drain_ends_wait_and_run_from_any_thread() -> None:
    with worker(Poller, options={"wait": None}) as detached:
        assert not detached.worker.draining
        with once_begun(detached.worker, detached.drain):
            assert detached.run() == 1
        assert detached.worker.draining
        assert detached.worker.told == ("setup", "True")


def test_an_interrupt_ends_a_wait() -> None:
    with (
        worker(Poller, options={"wait": None}) as detached,
        once_begun(detached.worker, detached.interrupt),
        pytest.raises(WorkerInterrupt),
    ):
        detached.step()
    assert detached.worker.told == ("setup", "teardown")


def test_what_setup_raises_is_raised_and_nothing_is_torn_down() -> None:
    class Broken(Poller):
        def setup(self) -> None:
            raise RuntimeError("no database")

        def teardown(self) -> None:
            raise AssertionError("there is nothing to tear down")

    with pytest.raises(RuntimeError, match="no database"), worker(Broken):
        pass


def test_a_loop_of_ones_own() -> None:
    class Loop(Worker):
        turns = 0

        def run(self) -> None:
            while not self.draining:
                self.turns += 1
                if self.turns == 3:
                    detached.drain()

    with worker(Loop) as detached:
        detached.run()
        assert detached.worker.turns == 3


@pytest.mark.parametrize("cls", [Worker, JobWorker, object])
def test_a_class_that_a_daemon_would_refuse(cls: type[Any]) -> None:
    with pytest.raises(TypeError, match=r"define (step|handle)|not a subclass"):
        worker(cls)


# Jobs


def test_a_job_by_itself() -> None:
    with worker(Thumbs, options={"size": 8}) as detached:
        assert detached.handle("a.png") == {"path": "a.png", "size": 8, "attempt": 1}
        assert detached.handle(Job(7, ("b", 1), 3, 0.0)) == {
            "path": ["b", 1],
            "size": 8,
            "attempt": 3,
        }
        for payload, error in (("again", Retry), ("never", Discard), ("bad", ValueError)):
            with pytest.raises(error):
                detached.handle(payload)
        with pytest.raises(TypeError, match="no JSON value"):
            detached.handle("set")
        with pytest.raises(TypeError):
            detached.handle({1, 2})
        assert detached.errors == 1  # Retry and Discard are none
        assert len(detached.queue) == 0


def test_a_call_without_a_block_is_a_whole_life() -> None:
    lone = worker(Poller)
    for _ in range(2):
        lone.step()
        assert lone.worker.told == ("setup", "False", "teardown")
    assert lone.run(2) == 2
    assert lone.worker.told == ("setup", "False", "False", "teardown")
    assert worker(Thumbs, {"size": 8}).handle("a")["size"] == 8
    jobs = worker(Thumbs, {"size": 8}, queue=["a.png"])
    assert jobs.run() == 1
    assert jobs.queue.job(1).state == "done"
    assert worker(Thumbs, options=None, queue=None).run() == 0


def test_jobs_of_the_queue_end_as_in_a_daemon() -> None:
    jobs = ["a.png", "once", "again", "never", "bad", "set"]
    with worker(Thumbs, {"size": 1}, jobs, max_attempts=2) as detached:
        assert detached.run(1) == 1
        assert detached.queue.counts() == {"waiting": 5, "taken": 0, "done": 1, "dead": 0}
        before = detached.queue.now
        assert detached.run() == 9
        assert detached.queue.now >= before + 3600  # of Retry(after=3600), in no time
    states = {job.payload: (job.state, job.attempts) for job in detached.queue.jobs()}
    assert states == {
        "a.png": ("done", 1),
        "once": ("done", 2),
        "again": ("dead", 2),
        "never": ("dead", 1),
        "bad": ("dead", 2),
        "set": ("dead", 2),
    }
    once, bad = detached.queue.job(2), detached.queue.job(5)
    assert once.result == {"path": "once", "size": 1, "attempt": 2}
    assert bad.evidence is not None
    assert "ValueError: bad picture" in bad.evidence["reason"]
    assert "in handle" in bad.evidence["traceback"]
    assert [each["attempt"] for each in bad.tries] == [1, 2]
    with pytest.raises(JobDead, match="ValueError: bad picture"):
        detached.queue.wait(5)
    assert detached.queue.wait(2) == once.result
    with pytest.raises(TimeoutError):
        detached.queue.wait(detached.queue.submit("late"))


def test_an_interrupted_job_waits_again() -> None:
    with (
        worker(Thumbs, {"size": 1}, ["cut", "b.png"]) as detached,
        once_begun(detached.worker, detached.interrupt),
        pytest.raises(WorkerInterrupt),
    ):
        detached.run()
    assert [(job.state, job.attempts) for job in detached.queue.jobs()] == [("waiting", 0)] * 2


def test_order_and_terms_of_jobs() -> None:
    queue = MemoryQueue()
    late = queue.submit("late", delay=60, priority=9)
    low, first = queue.submit("low"), queue.submit("first", priority=1)
    assert queue.submit("x", unique="key") == queue.submit("y", unique="key")
    taken = []
    while (job := queue.take()) is not None:
        taken.append(job.id)
    assert taken == [first, low, first + 1, late]
    with pytest.raises(ValueError):
        queue.submit("x", priority=101)
    with pytest.raises(ValueError):
        queue.submit("x" * (1 << 20))
    with pytest.raises(TypeError):
        queue.submit_many(["fine", {1}])
    assert len(queue.jobs()) == 4


def test_what_is_due_first_is_first_and_an_open_job_keeps_its_key() -> None:
    queue = MemoryQueue()
    later, first = queue.submit("later", delay=2, unique="key"), queue.submit("first", delay=1)
    queue.advance(3)
    assert [job.id for _ in range(2) if (job := queue.take())] == [first, later]
    queue.settle(later, Discarded('{"reason":"no"}'))
    again = queue.submit("again", unique="key")
    with pytest.raises(QueueError, match=f"job {again} with the same unique key is open"):
        queue.retry(later)
    assert queue.job(later).state == "dead"


def test_threads_of_a_worker_may_submit() -> None:
    queue = MemoryQueue()
    with ThreadPoolExecutor(10) as executor:
        many = list(executor.map(queue.submit_many, [range(200)] * 100))
    assert sorted(number for some in many for number in some) == list(range(1, 20_001))
    assert queue.counts()["waiting"] == 20_000


def test_a_worker_s_queues_are_in_memory_too() -> None:
    class Chains(JobWorker):
        def handle(self, job: Job) -> int | None:
            self.progress(0.25, job.payload)
            if job.payload == "cancel":
                self.queue().cancel(job.id)
                raise ValueError("interrupted, so to say")
            return self.queue("mail").submit({"to": job.payload, "token": job.token}, priority=3)

    with worker(Chains, queue=["a", "cancel", "b"]) as detached:
        detached.run()
        assert [job.payload["to"] for job in detached.queues["mail"].jobs()] == ["a", "b"]
        assert [job.payload["token"] for job in detached.queues["mail"].jobs()] == [1, 3]
        assert detached.queue.wait(3) == 2
        assert detached.progress == [(0.25, "a"), (0.25, "cancel"), (0.25, "b")]
        cancelled = detached.queue.job(2)
        assert (cancelled.state, cancelled.attempts) == ("dead", 0)
        assert cancelled.evidence == {"reason": "cancelled", "cancelled": True}
        assert [each["counts"] for each in cancelled.tries] == [False]
        with pytest.raises(QueueError, match="is done"):
            detached.queue.cancel(3)
        detached.queue.retry(2)
        assert detached.queue.job(2).evidence is None
        detached.queue.drop(2)
        assert [job.id for job in detached.queue.jobs()] == [1, 3]


def test_jobs_in_an_event_loop() -> None:
    class Sleeper(AsyncJobWorker):
        async def setup(self) -> None:
            self.log.info("set up")

        async def handle(self, job: Job) -> Any:
            self.progress(0.5, f"half of {job.payload}")
            if job.payload == "bad" and job.attempt == 1:
                raise ValueError("at first")
            await asyncio.sleep(0)
            return [job.payload, job.attempt]

        async def teardown(self) -> None:
            self.log.info("torn down")

    with worker(Sleeper, queue=["a", "bad"]) as detached:
        assert detached.handle("x") == ["x", 1]
        with pytest.raises(ValueError, match="at first"):
            detached.handle("bad")
        assert detached.run() == 3
        assert detached.queue.wait(2) == ["bad", 2]
        assert detached.progress[:2] == [(0.5, "half of x"), (0.5, "half of bad")]


def test_rounds_in_an_event_loop() -> None:
    class Ticker(AsyncWorker):
        ticks = 0

        async def step(self) -> None:
            self.ticks += 1
            await self.wait(0)
            if self.ticks == 4:
                detached.drain()

    with worker(Ticker) as detached:
        detached.step()
        assert detached.run() == 3
    assert detached.worker.ticks == 4


def test_commands_run() -> None:
    with worker(Command, options={"env": {"WHAT": "told"}}) as detached:
        assert detached.handle({"argv": ["sh", "-c", 'test "$WHAT" = told']}) == {"exit": 0}


def test_connections() -> None:
    class Echo(SocketWorker):
        def handle(self, connection: socket.socket, address: Any) -> None:
            connection.sendall(connection.recv(100).upper())

    with worker(Echo) as detached:
        address = detached.worker.sockets[0].getsockname()
        with socket.create_connection(address) as client:
            client.sendall(b"hello")
            assert detached.run(1) == 1
            assert client.recv(100) == b"HELLO"
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.sendall(b"you")
            detached.handle(theirs, "")
            assert ours.recv(100) == b"YOU"


def test_it_leaves_no_descriptor_and_no_wakeup_behind() -> None:
    import os
    import signal

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    with worker(Poller):  # what is imported at first stays
        pass
    before = descriptors()
    for _ in range(3):
        with worker(Poller, options={"wait": 0}) as detached:
            thread = threading.Thread(target=detached.worker.wait, args=(10,))
            thread.start()
            detached.drain()
            thread.join()
            detached.run()
    assert descriptors() == before
    assert signal.set_wakeup_fd(-1) == -1
    assert time.time() - detached.queue.now < 60
