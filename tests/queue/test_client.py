"""graced.Queue at a real keeper, killed and stopped, and at a file that no daemon keeps."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from keeper_harness import DEADLINE, KeeperHarness, in_a_process, settle, take
from postgresql_server import PostgreSQL

import graced
from graced import AnswerLost, JobDead, NoSuchJob, Queue, QueueError
from graced.cli.main import main
from graced.client.daemon import Where, control_of
from graced.client.find import DaemonPlace, Manner
from graced.exitcodes import USAGE
from graced.queue import wire
from graced.queue.job import Discarded, Done
from graced.queue.policy import Policy
from graced.queue.wire import Kind
from graced.queue.worker_end import WorkerEnd, evidence


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[KeeperHarness]:
    with KeeperHarness(tmp_path, Policy()) as harness:
        yield harness.start()


@pytest.fixture
def queue(harness: KeeperHarness) -> Iterator[Queue]:
    with Queue.open(f"sqlite:///{harness.file}") as queue:
        yield queue


@pytest.fixture
def worker(harness: KeeperHarness) -> WorkerEnd:
    return harness.worker(1)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(60) as executor:
        yield executor


def configured(folder: Path, **pools: dict[str, Any]) -> Path:
    """Write a configuration of a daemon that does not run."""
    folder.mkdir(exist_ok=True)
    config = folder / "config.yaml"
    dirs = {"runtime_dir": str(folder / "run"), "state_dir": str(folder / "state")}
    config.write_text(yaml.safe_dump({**dirs, "pools": pools}))
    return config


COMMAND = {"worker": "graced.workers:Command"}


def until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


# What it does, with a keeper and without


@pytest.fixture(params=["keeper", "file", "configuration", "server"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Queue]:
    if request.param == "keeper":
        request.getfixturevalue("harness")
    source = f"sqlite:///{tmp_path}/jobs.db"
    if request.param == "server":
        source = request.getfixturevalue("postgresql_server").made()
    if request.param == "configuration":
        source = str(configured(tmp_path / "own", jobs=COMMAND))
    with Queue.open(source) as queue:
        yield queue


def test_what_is_submitted_is_there(either: Queue) -> None:
    before = time.time()
    number = either.submit({"path": "ä.png"}, delay=3600, max_attempts=5)
    job = either.job(number)
    assert (job.id, job.state, job.attempts, job.max_attempts) == (number, "waiting", 0, 5)
    assert (job.payload, job.result, job.evidence) == ({"path": "ä.png"}, None, None)
    assert before - 1 <= job.submitted <= time.time() + 1
    assert job.due - job.submitted == pytest.approx(3600, abs=1)
    with pytest.raises(TimeoutError, match=f"job {number} .* 0 s"):
        either.wait(number, timeout=0)


def test_many_are_submitted_all_or_none(either: Queue) -> None:
    numbers = either.submit_many(({"n": n} for n in range(2500)), delay=3600)
    assert either.job(numbers[-1]).state == "waiting"
    assert len(numbers) == len(set(numbers)) == 2500
    assert (numbers[0], numbers[-1]) == (min(numbers), max(numbers))
    jobs = either.jobs("waiting")
    assert [job.id for job in jobs] == list(numbers)
    assert [job.payload for job in jobs] == [{"n": n} for n in range(2500)]
    assert [job.id for job in either.jobs(after=numbers[9], limit=3)] == list(numbers[10:13])
    with pytest.raises(TypeError, match="the payload is no JSON value"):
        either.submit_many([1] * 1500 + [{2}])
    with pytest.raises(ZeroDivisionError):
        either.submit_many(1 // (1500 - n) for n in range(2500))
    until(lambda: either.counts()["waiting"] == 2500)
    assert list(either.submit_many([])) == []


def test_what_yields_payloads_may_ask_the_same_queue(either: Queue) -> None:
    inner: list[int] = []

    def payloads(more: int) -> Iterator[int]:
        for n in range(more):
            if more > 2 and n in (0, 1500):
                inner.append(either.submit("one"))
                inner.extend(either.submit_many(payloads(2)))
                assert either.job(inner[-1]).state == "waiting"
                with pytest.raises(NoSuchJob):
                    either.drop(1 << 40)
            yield n

    numbers = list(either.submit_many(payloads(2500)))
    assert [either.job(number).payload for number in inner] == ["one", 0, 1] * 2
    found = {job.id: job.payload for job in either.jobs()}
    assert [found[number] for number in numbers] == list(range(2500))
    assert len(found) == len(numbers) + len(inner)


def test_a_signal_s_handler_may_ask_while_a_job_is_waited_for(queue: Queue) -> None:
    number = queue.submit(1, delay=3600)

    def cancel(*_: object) -> None:
        queue.cancel(number)
        assert queue.counts()["dead"] == 1

    before = signal.signal(signal.SIGALRM, cancel)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(JobDead, match="cancelled"):
            queue.wait(number, timeout=DEADLINE)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_jobs_are_dropped_and_retried(either: Queue) -> None:
    number = either.submit(1, delay=3600)
    either.retry(number)
    assert either.job(number).due <= time.time() + 1
    either.drop(number)
    for ask in (either.job, either.drop, either.retry, either.wait, either.cancel):
        for one in (number, 1 << 63):
            with pytest.raises(NoSuchJob, match=f"job {one}"):
                ask(one)


def test_a_unique_key_is_one_job_and_a_cancelled_one_is_dead(either: Queue) -> None:
    key = "Screenshot 10.30\u202fPM\u3000\U0001f468\u200d\U0001f467.png"  # as files are named
    number = either.submit(1, delay=3600, unique=key, priority=7)
    assert either.submit(2, unique=key) == number
    job = either.job(number)
    assert (job.payload, job.unique, job.priority) == (1, key, 7)
    either.cancel(number)
    assert either.job(number).state == "dead"
    with pytest.raises(JobDead, match="cancelled"):
        either.wait(number)
    assert either.submit(3, delay=3600, unique=key) != number


@pytest.mark.parametrize(
    ("payload", "terms", "wrong"),
    [
        ({1, 2}, {}, TypeError),
        (float("nan"), {}, ValueError),
        ("x" * (1 << 20), {}, ValueError),
        (1, {"delay": -1}, ValueError),
        (1, {"delay": 1e9}, ValueError),
        (1, {"delay": 10**400}, ValueError),
        (1, {"delay": "30s"}, TypeError),
        (1, {"max_attempts": 0}, ValueError),
        (1, {"max_attempts": 1.5}, TypeError),
        (1, {"priority": 101}, ValueError),
        (1, {"unique": ""}, ValueError),
        (1, {"unique": 5}, TypeError),
        (1, {"unique": "a\x85"}, ValueError),
        (1, {"unique": "ä" * 101}, ValueError),
    ],
)
def test_what_cannot_be_submitted_is_refused(
    tmp_path: Path, payload: Any, terms: dict[str, Any], wrong: type[Exception]
) -> None:
    with Queue.open(f"sqlite:///{tmp_path}/jobs.db") as queue:
        with pytest.raises(wrong):
            queue.submit(payload, **terms)
        for ask in (queue.job, queue.wait, queue.drop):
            with pytest.raises(TypeError, match="a job's number is an int"):
                ask("1")
        with pytest.raises(ValueError, match="no state 'late', only waiting"):
            queue.jobs("late")


def test_the_pool_is_told(tmp_path: Path) -> None:
    config = configured(tmp_path, one=COMMAND, two={"worker": "a:B", "queue": "sqlite:///b.db"})
    with Queue.open(config) as queue, pytest.raises(QueueError, match="pool=: one, two"):
        queue.submit(1)
    with Queue.open(config, pool="three") as queue, pytest.raises(QueueError, match="no pool 't"):
        queue.submit(1)
    with Queue.open(config, pool="two") as queue:
        assert queue.jobs() == []
        assert queue.counts()["waiting"] == 0
        assert not (tmp_path / "state").exists()
        assert queue.submit(1) == 1
    assert (tmp_path / "state" / "b.db").exists()


def test_a_command_line_is_for_the_only_pool_that_runs_them(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = {"worker": "a:B", "queue": "sqlite:///b.db"}
    config = str(configured(tmp_path, one=COMMAND, two=other))
    assert main(["submit", "-c", config, "--", "true"]) == 0
    assert main(["submit", "-c", config, "--json", "1"]) == USAGE
    assert "say which pool with --pool: one, two" in capfd.readouterr().err
    configured(tmp_path, one=COMMAND, two=other, three=COMMAND)
    assert main(["submit", "-c", config, "--", "true"]) == USAGE
    assert "say which pool with --pool: one, three" in capfd.readouterr().err


def test_the_socket_of_a_worker_s_daemon_is_not_that_of_another_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = (str(configured(tmp_path / name, jobs=COMMAND)) for name in ("own", "other"))
    monkeypatch.setenv("GRACED_SOCKET", "/run/own/control.sock")
    assert control_of(Where(other)) == "/run/own/control.sock"
    monkeypatch.setenv("GRACED_CONFIG", own)
    for where in (Where(), Where(own), Where(f"{tmp_path}/other/../own/config.yaml")):
        assert control_of(where) == "/run/own/control.sock"
    assert control_of(Where(other)) == f"{tmp_path}/other/run/control.sock"
    assert control_of(Where(other, socket="/s")) == "/s"
    with pytest.raises(QueueError, match="no daemon answers at /run/own"):
        Queue.open(own).submit(1)
    with Queue.open(other) as queue:
        assert queue.submit(1) == 1


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("sqlite:///jobs.db", "in which folder"),
        ("mongodb://host/jobs", "names no queue engine"),
        ("/none/config.yaml", "/none/config.yaml"),
    ],
)
def test_a_source_that_leads_nowhere_is_told(source: str, why: str) -> None:
    with pytest.raises(QueueError, match=why):
        Queue.open(source).submit(1)


def test_root_does_not_write_what_the_daemon_could_not_read(tmp_path: Path, as_root: None) -> None:
    config = configured(tmp_path, jobs=COMMAND)
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, 65534, 65534)
    with Queue.open(config) as queue, pytest.raises(QueueError, match=f"{state} is user"):
        queue.submit(1)
    assert list(state.iterdir()) == []


# Results


def test_a_wait_returns_the_result_or_says_why_there_is_none(
    worker: WorkerEnd, queue: Queue, threads: ThreadPoolExecutor
) -> None:
    good, bad = queue.submit("good"), queue.submit("bad")
    told = [threads.submit(queue.wait, number, 60) for number in (good, bad)]
    settle(worker, take(worker), Done('{"size": 3}'))
    settle(worker, take(worker), Discarded(evidence("the file is empty", line=7)))
    assert told[0].result() == {"size": 3}
    with pytest.raises(JobDead, match=f"job {bad} is dead after 1 attempt: the file") as dead:
        told[1].result()
    assert dead.value.evidence == {"reason": "the file is empty", "line": 7}
    assert dead.value.job.id == bad
    copy = pickle.loads(pickle.dumps(dead.value))
    assert (str(copy), copy.job) == (str(dead.value), dead.value.job)
    [attempt] = queue.job(bad).tries
    assert attempt["evidence"]["reason"] == "the file is empty"
    assert queue.wait(good, timeout=0) == {"size": 3}
    assert [job.id for job in queue.jobs("dead")] == [bad]
    assert queue.counts()["done"] == 1
    queue.retry(bad)
    assert queue.job(bad).state == "waiting"


# A keeper that goes away


def test_it_goes_on_with_the_next_keeper(harness: KeeperHarness, queue: Queue) -> None:
    first = queue.submit(1, delay=3600)
    harness.restart()
    assert queue.submit(2, delay=3600) == first + 1
    harness.restart()
    assert len(queue.jobs()) == 2
    harness.restart()
    with pytest.raises(NoSuchJob):  # it was not asked before: no answer was lost
        queue.drop(first + 2)


def test_a_wait_outlasts_keepers(
    harness: KeeperHarness, worker: WorkerEnd, queue: Queue
) -> None:
    number = queue.submit(1)

    def wait() -> None:
        assert queue.wait(number, DEADLINE) == "done"

    # Not in a thread: keepers are forked here, and would have the locks that it holds just then.
    pid = in_a_process(wait)
    for _ in range(3):
        harness.restart()
    settle(worker, take(worker), Done('"done"'))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


class Deaf:
    """What listens in a keeper's place, reads one question of each client, and hangs up."""

    def __init__(self, path: str) -> None:
        self.listener = wire.listen(path)
        self.listener.setblocking(True)

    def hear(self) -> int:
        """Return the kind of what the next client asks."""
        connection, _ = self.listener.accept()
        with connection:
            return connection.recv(1 << 16)[4]


def test_only_what_may_be_repeated_is_asked_of_the_next_keeper(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    harness = KeeperHarness(tmp_path, Policy())
    deaf = Deaf(harness.socket)
    queue = Queue(DaemonPlace(str(tmp_path), "jobs", Manner(patience=DEADLINE)))
    submit = threads.submit(queue.submit, 1)
    assert deaf.hear() == Kind.SUBMIT
    with pytest.raises(AnswerLost, match="not known whether it was done"):
        submit.result(DEADLINE)
    submits = threads.submit(queue.submit_many, iter([1, 2]))
    assert deaf.hear() == Kind.STREAM
    assert deaf.hear() == Kind.STREAM
    look = threads.submit(queue.counts)
    while deaf.hear() != Kind.COUNTS:
        pass
    deaf.listener.close()
    with harness.start(), queue:
        assert list(submits.result(DEADLINE)) == [1, 2]
        assert look.result(DEADLINE)["dead"] == 0


@pytest.mark.parametrize("where", ["keeper", "postgresql", "redis"])
def test_a_queue_that_is_closed_wakes_who_waits(
    where: str, request: pytest.FixtureRequest, threads: ThreadPoolExecutor
) -> None:
    if where == "keeper":
        queue = Queue.open(f"sqlite:///{request.getfixturevalue('harness').file}")
    else:
        queue = Queue.open(request.getfixturevalue(f"{where}_server").made())
    number = queue.submit(1)
    told = threads.submit(queue.wait, number)
    until(lambda: len(queue._all) == 2)
    queue.close()
    with pytest.raises(QueueError):
        told.result(DEADLINE)
    with pytest.raises(QueueError, match="closed"):
        queue.submit(1)


# Threads and forks


def test_threads_share_it(queue: Queue, threads: ThreadPoolExecutor) -> None:
    start = threading.Barrier(50)

    def submit(thread: int) -> list[int]:
        start.wait()
        return [queue.submit([thread, n], delay=3600) for n in range(10)]

    numbers = [threads.submit(submit, thread) for thread in range(50)]
    found = {number for several in numbers for number in several.result()}
    assert len(found) == 500
    assert {job.id for job in queue.jobs()} == found


def test_fifty_that_submit_one_unique_key_have_one_job(
    harness: KeeperHarness, threads: ThreadPoolExecutor
) -> None:
    start = threading.Barrier(50)

    def submit(thread: int) -> int:
        with Queue.open(f"sqlite:///{harness.file}") as queue:
            start.wait()
            return queue.submit(thread, unique="one")

    numbers = {one.result() for one in [threads.submit(submit, thread) for thread in range(50)]}
    assert len(numbers) == 1
    with Queue.open(f"sqlite:///{harness.file}") as queue:
        assert [job.id for job in queue.jobs()] == list(numbers)


def test_a_forked_process_has_a_connection_of_its_own(queue: Queue) -> None:
    queue.submit("before")

    def submit() -> None:
        assert len({queue.submit("child", delay=3600) for _ in range(50)}) == 50

    children = [in_a_process(submit) for _ in range(2)]
    own = [queue.submit("parent", delay=3600) for _ in range(50)]
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0]
    assert len({job.id for job in queue.jobs()}) == 151
    assert all(queue.job(number).payload == "parent" for number in own)


def test_a_forked_process_leaves_its_parent_s_session_at_a_server(
    postgresql_server: PostgreSQL,
) -> None:
    with Queue.open(postgresql_server.made()) as queue:
        number = queue.submit("before")

        def look() -> None:
            assert queue.job(number).payload == "before"

        pid = in_a_process(look)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert queue.submit("after") == number + 1


def test_an_application_loads_little() -> None:
    code = "import sys, graced; graced.Queue; print(*sys.modules)"
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.split())
    assert not {"yaml", "json", "sqlite3", "subprocess", "ctypes", "logging", "typing"} & loaded
    ours = {name.split(".")[1] for name in loaded if name.startswith("graced.")}
    assert not ours & {"core", "supervisor", "zygote", "workers", "cli", "config", "control"}
    assert graced.Queue is Queue
