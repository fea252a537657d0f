"""Examples of docs/recipes.md and docs/workers.md, with the real libraries, drained in mid-work."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from daemon_harness import DEADLINE, ROOT, TESTS, Daemon
from test_life_jobs import ended, submitted

HERE = str(Path(__file__).parent)
EXAMPLES = str(ROOT / "examples")
PATH = [EXAMPLES, HERE, str(TESTS)]


def gate(daemon: Daemon) -> Path:
    return daemon.home / "gate"


def configured(daemon: Daemon, worker: str, **keys: Any) -> Daemon:
    env = {"GATE": str(gate(daemon)), "PYTHONPATH": ":".join([*PATH, str(ROOT)])}
    return daemon.pool(worker, path=PATH, env=env, **keys)


class Caller(threading.Thread):
    """Asks once for a page, and keeps the answer."""

    def __init__(self, where: int, page: str) -> None:
        super().__init__()
        self.where, self.page = where, page
        self.answer = ""
        self.start()

    def run(self) -> None:
        self.answer = get(self.where, self.page)


def get(where: int, page: str) -> str:
    with closing(http.client.HTTPConnection("127.0.0.1", where, timeout=DEADLINE)) as connection:
        connection.request("GET", page)
        return connection.getresponse().read().decode()


def another_answers(where: int, pid: int) -> bool:
    """Whether it is not this one that answers, which hangs up on whom it has not heard yet."""
    try:
        return get(where, "/other").split()[1] != str(pid)
    except ConnectionError:
        return False


def uvicorn(daemon: Daemon, how: str, where: int, app: str = "app", **keys: Any) -> Daemon:
    listen = f"tcp://127.0.0.1:{where}"
    if how == "worker":
        options: dict[str, Any] = {"app": f"recipe_workers:{app}"}
        return configured(daemon, "web_uvicorn:Web", listen=listen, options=options, **keys)
    argv = [sys.executable, "-m", "uvicorn", f"recipe_workers:{app}", "--fd", 3]
    options = {"argv": argv, "ready": "2s"}
    return configured(daemon, "graced.workers:Program", listen=listen, options=options, **keys)


@pytest.mark.parametrize("how", ["worker", "program"])
def test_uvicorn_is_drained_in_mid_request(
    daemon: Daemon,
    how: str,
    port: int,
) -> None:
    pytest.importorskip("uvicorn")
    uvicorn(daemon, how, port).start().ready()
    daemon.events.wait("started up")
    caller = Caller(port, "/gated")
    [half] = daemon.events.wait("half /gated")
    if how == "worker":
        assert daemon.run("reload").returncode == 0
        daemon.until(lambda: another_answers(port, half.pid))
    daemon.send(signal.SIGTERM)
    daemon.log.wait("draining")
    gate(daemon).touch()
    caller.join(DEADLINE)
    assert caller.answer == f"half {half.pid}"
    daemon.ended(0)
    daemon.events.wait("shut down", 2 if how == "worker" else 1)


def test_an_application_that_does_not_start_up_refuses_a_reload(
    daemon: Daemon,
    port: int,
) -> None:
    pytest.importorskip("uvicorn")
    uvicorn(daemon, "worker", port).start().ready()
    before = get(port, "/")
    uvicorn(daemon, "worker", port, app="broken")
    assert daemon.run("reload").returncode == 1
    daemon.log.wait("this application never starts up")
    assert get(port, "/") == before
    daemon.send(signal.SIGINT)
    daemon.ended(0)


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[str]:
    """A Redis of the test's own on a Unix socket; its path."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        pytest.skip("needs redis-server")
    redis = pytest.importorskip("redis")
    place = str(tmp_path / "redis.sock")
    line = [program, "--port", "0", "--unixsocket", place, "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        while "ready to accept connections" not in (said := server.stdout.readline().lower()):
            assert said, "redis-server has ended"
        with redis.Redis(unix_socket_path=place) as probe:
            probe.ping()
        yield place
        server.terminate()
        server.stdout.close()


def test_a_redis_consumer_is_drained_in_mid_entry(daemon: Daemon, redis_server: str) -> None:
    import redis

    options = {"redis": f"unix://{redis_server}", "stream": "orders", "idle": 0.1}
    configured(daemon, "recipe_workers:Gated", options=options).start().ready()
    with redis.Redis(unix_socket_path=redis_server) as client:
        client.xadd("orders", {"n": "1"})
        daemon.events.wait("begin 1")
        daemon.send(signal.SIGTERM)
        daemon.draining(1)
        client.xadd("orders", {"n": "2"})
        gate(daemon).touch()
        daemon.ended(0)
        assert [line.text for line in daemon.events.lines] == ["begin 1", "end 1"]
        daemon.start().ready(2)
        daemon.events.wait("end 2")
        daemon.send(signal.SIGTERM)
        daemon.ended(0)
        assert client.xpending("orders", "jobs")["pending"] == 0


def test_the_example_of_an_async_job_worker(daemon: Daemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        here, nowhere = server.getsockname()[1], gone.getsockname()[1]
        options = {"again": 0.01}
        configured(daemon, "reach:Reach", concurrency=500, options=options).start().ready()
        numbers = [submitted(daemon, "--json", json.dumps(f"127.0.0.1:{here}")) for _ in range(3)]
        submitted(daemon, "--max-attempts", "2", "--json", json.dumps(f"127.0.0.1:{nowhere}"))
        done = ended(daemon, "done", 3)
        assert [job["id"] for job in done] == numbers
        assert all(job["result"]["ms"] < DEADLINE * 1000 for job in done)
        assert "Connect call failed" in ended(daemon, "dead")[0]["evidence"]["reason"]


def test_the_example_of_a_program(daemon: Daemon, port: int) -> None:
    argv = [sys.executable, f"{EXAMPLES}/greeter.py", "{pool}/{slot}"]
    told = {"argv": argv, "ready": "notify"}
    listen = f"tcp://127.0.0.1:{port}"
    configured(daemon, "graced.workers:Program", listen=listen, options=told, workers=2)
    daemon.start().ready()
    assert get(port, "/x").startswith("hello from jobs/")
    daemon.send(signal.SIGTERM)
    daemon.ended(0)
    assert len(daemon.log.matching("asked to stop")) == 2


@pytest.mark.parametrize("library", ["dramatiq", "procrastinate"])
def test_libraries_with_workers_of_their_own_are_drained_in_mid_work(
    daemon: Daemon, library: str
) -> None:
    pytest.importorskip(library)
    if library == "dramatiq":
        worker, options = "dramatiq_actors:Actors", {"module": "recipe_actors"}
    else:
        worker, options = "recipe_tasks:WithOne", {"app": "recipe_tasks:app"}
    configured(daemon, worker, options=options).start().ready()
    daemon.events.wait("begin")
    daemon.send(signal.SIGTERM)
    daemon.log.wait("draining")
    gate(daemon).touch()
    daemon.ended(0)
    assert [line.text for line in daemon.events.lines] == ["begin", "end"]
    daemon.nothing_left()
