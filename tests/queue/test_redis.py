"""What only a Redis does to a queue: it forgets, is full, promises less, is of another version."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest
from keeper_harness import KeeperHarness, settle, take
from redis_server import DEADLINE, Redis, redis

from graced import Queue
from graced.queue.policy import Policy
from graced.queue.protocol import AnswerLost, QueueError, StorageError
from graced.queue.redis import address
from graced.queue.redis.link import STEP, VERSION
from graced.queue.servers.engine import ServerEngine
from graced.queue.terms import Terms

engine = ServerEngine(address)


@pytest.fixture
def queue(tmp_path: Path, redis_server: Redis) -> Iterator[KeeperHarness]:
    with KeeperHarness(tmp_path, Policy(), url=redis_server.made()) as harness:
        yield harness.start()


@pytest.fixture
def full(redis_server: Redis) -> Iterator[None]:
    yield
    redis_server.run("CONFIG", "SET", "maxmemory", "0")


def test_where_its_memory_is_full_no_job_is_accepted_and_those_there_are_settled(
    queue: KeeperHarness, redis_server: Redis, full: None
) -> None:
    client, worker = queue.client(), queue.worker(1)
    [id] = client.submit(["1"])
    job = take(worker)
    redis_server.run("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(QueueError, match="memory is full"):
        client.submit(["2"])
    settle(worker, job)
    assert client.jobs("done", 0, 9)[0]["id"] == id
    redis_server.run("CONFIG", "SET", "maxmemory", "0")
    assert list(client.submit(["3"])) == [id + 1]


def test_a_stream_of_whole_steps_comes_to_its_end(redis_server: Redis) -> None:
    with Queue.open(redis_server.made(), pool="jobs") as queue:
        for count in (STEP, 2 * STEP):
            assert len(queue.submit_many(range(count))) == count
        assert queue.counts()["waiting"] == 3 * STEP


def test_the_last_of_an_accepted_stream_are_found_at_once(redis_server: Redis) -> None:
    link = engine.connect(engine.check_url(redis_server.made()), "jobs", "test")
    with closing(link):
        stream = link.open_stream()
        link.stage(stream, ["1"] * STEP, Terms())
        link.commit_stream(stream, Terms())
        last = [job["id"] for job in link.page("waiting", STEP - 3, 9)]
        assert last == [STEP - 2, STEP - 1, STEP]
        redis_server.run("CONFIG", "RESETSTAT")
        assert link.drop(last[1:]) == {}
        assert "cmdstat_lrem" not in redis_server.run("INFO", "commandstats")  # looks through all
        assert [job["id"] for job in link.page("waiting", STEP - 3, 9)] == last[:1]
        while link.maintain(60.0):
            pass
        assert link.counts()["waiting"] == STEP - 2


def test_a_server_that_forgets_all_is_told_of_the_lease_anew(
    queue: KeeperHarness, redis_server: Redis
) -> None:
    client, worker = queue.client(), queue.worker(1)
    client.submit(["1"])
    lost = take(worker)
    redis_server.run("FLUSHALL")
    settle(worker, lost)  # it changes nothing
    [id] = client.submit(["2"])
    job = take(worker)
    assert (job.id, job.payload) == (id, 2)
    settle(worker, job)
    assert client.counts()["done"] == 1


def test_what_it_does_not_promise_is_told(redis_server: Redis) -> None:
    url = redis_server.made()
    told = engine.status(url, "jobs", "")
    assert told["engine"] == "redis"
    assert [w.split(":")[0] for w in told["warnings"]] == ["appendfsync is everysec"]
    redis_server.run("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    redis_server.run("CONFIG", "SET", "appendfsync", "always")
    try:
        [warning] = engine.status(url, "jobs", "")["warnings"]
        assert "noeviction" in warning
    finally:
        redis_server.run("CONFIG", "SET", "maxmemory-policy", "noeviction")
        redis_server.run("CONFIG", "SET", "appendfsync", "everysec")
    assert told["hosts"] == []


def test_what_a_newer_graced_keeps_is_left_alone(redis_server: Redis) -> None:
    url = redis_server.made()
    schema = url.partition("schema=")[2]
    redis_server.run("HSET", f"{schema}:{{jobs}}:meta", "version", str(VERSION + 1))
    with pytest.raises(StorageError, match="newer graced"):
        engine.connect(engine.check_url(url), "jobs", "test")


def test_init_tells_that_a_server_is_too_old() -> None:
    with (
        redis("--rename-command", "FUNCTION", "") as older,  # which knows no such command
        pytest.raises(StorageError, match=r": the server is older than Redis 7\.0"),
    ):
        engine.init(older.url())


@pytest.mark.parametrize(
    ("setup", "undo", "said"),
    [
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "a replica, and read-only"),
        (("CONFIG", "SET", "requirepass", "x"), None, "NOAUTH|uthenticat"),
    ],
    ids=["replica", "password"],
)
def test_why_it_does_not_serve_is_told(
    redis_server: Redis, setup: tuple[str, ...], undo: tuple[str, ...] | None, said: str
) -> None:
    url = redis_server.made()
    redis_server.run(*setup)
    try:
        with pytest.raises(StorageError, match=said):
            engine.open_offline("", _pool(url)).submit(["1"])
    finally:
        if undo:
            redis_server.run(*undo)
        else:
            redis_server.run("CONFIG", "SET", "requirepass", "", password="x")


def _pool(url: str) -> object:
    from graced.settings import Pool

    return Pool("jobs", queue=url)


def test_it_is_reached_by_its_socket_file(tmp_path: Path, redis_server: Redis) -> None:
    by_file = f"unix://{redis_server.folder}/sock?schema=by_file"
    engine.init(by_file)
    with KeeperHarness(tmp_path, Policy(), url=by_file) as harness:
        harness.start()
        client, worker = harness.client(), harness.worker(1)
        client.submit(["1"])
        settle(worker, take(worker))
        assert client.counts()["done"] == 1


def test_what_the_library_does_not_know_in_a_url_is_told(redis_server: Redis) -> None:
    with pytest.raises(StorageError, match=r"redis://shop:\*\*\*@.*sslcert"):
        engine.status(f"redis://shop:s3cret@127.0.0.1:{redis_server.port}/0?sslcert=x", "jobs", "")


@pytest.mark.parametrize("has_keeper", [True, False])
def test_whoever_submits_to_a_server_that_goes_meanwhile_is_told_at_once_that_nobody_knows(
    tmp_path: Path, redis_server: Redis, has_keeper: bool
) -> None:
    url = redis_server.made()
    with ExitStack() as stack:
        if has_keeper:
            harness = stack.enter_context(KeeperHarness(tmp_path, Policy(lease=3600.0), url=url))
            ask: Callable[[], object] = partial(harness.start().client().submit, ["1"])
        else:
            ask = partial(stack.enter_context(Queue.open(url, pool="jobs")).submit, 1)
        thread = stack.enter_context(ThreadPoolExecutor(1))
        thread.submit(ask).result(DEADLINE)  # it is connected
        stack.callback(redis_server.run, "CLIENT", "UNPAUSE")
        redis_server.run("CLIENT", "PAUSE", "600000", "WRITE")
        asked = thread.submit(ask)
        while redis_server.run("INFO", "clients")["blocked_clients"] == 0:
            assert not asked.done(), "the server has it, and does not answer"
        redis_server.run("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        with pytest.raises(AnswerLost, match="not known whether it was done"):
            asked.result(DEADLINE)
