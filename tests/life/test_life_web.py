"""The page, the metrics and the probes: who serves them has no rights, and can harm nobody."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from daemon_harness import SOON, Daemon
from ports import free_port
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from graced.monitoring.web_process import MAX_CONNECTIONS

JOBS = """
from graced import JobWorker

class Jobs(JobWorker):
    def handle(self, job):
        raise ValueError("no such customer")
"""


class Browser:
    """Asks at one address, each time on a connection of its own."""

    def __init__(self, port: int) -> None:
        self.port = port

    def __call__(self, path: str, **headers: str) -> tuple[int, str]:
        status, text, _ = self.ask("GET", path, headers)
        return status, text

    def ask(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None = None
    ) -> tuple[int, str, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SOON)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), answer.msg
        finally:
            connection.close()

    def json(self, path: str) -> Any:
        status, text = self(path)
        assert status == 200, text
        return json.loads(text)


@pytest.fixture
def served(daemon: Daemon, port: int) -> Browser:
    """A daemon whose jobs fail, and what it serves."""
    daemon.module("failing", JOBS)
    pool = {"worker": "failing:Jobs", "path": [str(daemon.home)]}
    daemon.configure({"jobs": pool}, web={"listen": f"tcp://127.0.0.1:{port}"}).start().ready()
    return Browser(port)


def web_pid(daemon: Daemon) -> int:
    def found() -> int:
        pids = [pid for pid in daemon.left() if name(pid) == "graced-web"]
        return pids[0] if pids else 0

    return daemon.until(found)


def name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def test_all_that_is_served(daemon: Daemon, served: Browser) -> None:
    assert daemon.run("submit", "--max-attempts", "1", "--json", "[1]").returncode == 0
    daemon.until(lambda: served.json("/status.json")["pools"]["jobs"]["queue"]["dead"] == 1)
    daemon.until(lambda: served.json("/jobs.json")["jobs"])
    [job] = served.json("/jobs.json")["jobs"]
    assert (job["state"], job["payload"]) == ("dead", "[1]")
    assert "no such customer" in job["evidence"]["traceback"]
    daemon.until(lambda: {"start", "queue"} <= {e["what"] for e in told(served)})
    daemon.until(lambda: told(served, told(served)[-1]["at"]) == [])  # the last has come

    assert served("/health")[0] == served("/ready")[0] == 200
    status, text, head = served.ask("GET", "/metrics", {"Accept": "application/openmetrics-text"})
    assert status == 200
    assert head["Content-Type"].startswith("application/openmetrics-text")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    jobs = {s.labels["outcome"]: s.value for s in families["graced_jobs"].samples}
    assert jobs == {"submitted": 1, "done": 0, "failed": 1, "dead": 1}

    status, page, head = served.ask("GET", "/", {})
    assert status == 200
    assert "default-src 'none'" in head["Content-Security-Policy"]
    files = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(files) == 3
    for file in files:  # no request leaves the host
        assert served(f"/{file}")[0] == 200
    assert "://" not in page + served("/page.css")[1]


def test_addresses_of_both_kinds_are_served(daemon: Daemon, port: int) -> None:
    unix = str(daemon.short / "web.sock")
    addresses = [f"tcp://127.0.0.1:{port}", f"unix://{unix}"]
    daemon.configure({"jobs": {"worker": "sample_workers:Idle"}}, web={"listen": addresses})
    daemon.start().ready()
    assert Browser(port)("/health")[0] == 200
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(SOON)
        caller.connect(unix)
        caller.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert b" 200 OK" in caller.recv(1000)


def told(served: Browser, after: str = "") -> list[dict[str, Any]]:
    return list(served.json(f"/history.json?after={after}")["events"])


def test_nothing_else_is_served_and_nothing_can_be_done(daemon: Daemon, served: Browser) -> None:
    for path in ("/page.py", "/../page.css", "//etc/passwd", "/%2e%2e/", "/static/page.css", "*"):
        assert served(path)[0] in (400, 404), path
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
        status, _, head = served.ask(method, "/status.json", {})
        assert (status, head["Allow"]) == (405, "GET, HEAD"), method
    with contextlib.suppress(ConnectionError):  # it need not read all of that
        assert served.ask("POST", "/", {}, b"x" * 10_000_000)[0] in (405, 413)
    for host in ("rebound.example", "bad.cafe"):  # one has only the letters of an address
        assert served("/", Host=host)[0] == 421, host
    assert served("/", Host=f"Localhost:{served.port}")[0] == 200
    pid = web_pid(daemon)
    status = dict(re.findall(r"^(\w+):\s*(.*)$", Path(f"/proc/{pid}/status").read_text(), re.M))
    assert status["CapEff"].strip("0") == ""
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    if os.geteuid() == 0:
        assert status["Uid"].split() == ["65534"] * 4
        assert status["Groups"].strip() in ("", "65534")


def test_it_comes_back_and_the_daemon_does_not_notice(daemon: Daemon, served: Browser) -> None:
    workers = daemon.worker_pids()
    first = web_pid(daemon)
    os.kill(first, signal.SIGKILL)
    daemon.log.wait("web: its process killed by SIGKILL; starting again")
    assert daemon.until(lambda: web_pid(daemon) != first)
    slow = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(60)]
    for each in slow:
        each.sendall(b"GET /status.json HTTP/1.1\r\nX-Slow: ")
    assert served("/ready")[0] == 200
    os.kill(web_pid(daemon), signal.SIGSTOP)
    assert daemon.worker_pids() == workers
    os.kill(web_pid(daemon), signal.SIGCONT)
    for each in slow:
        each.close()
    port = free_port()
    daemon.configure(daemon.settings["pools"], web={"listen": [f"tcp://127.0.0.1:{port}"]})
    assert daemon.run("reload").returncode == 0
    daemon.until(lambda: answers(Browser(port)))
    assert not answers(served)
    assert str(daemon.log).count("web: its process") == 1  # that was no death
    daemon.configure(daemon.settings["pools"])
    assert daemon.run("reload").returncode == 0
    daemon.until(lambda: not any(name(pid) == "graced-web" for pid in daemon.left()))
    assert not answers(Browser(port))
    assert daemon.run("stop").returncode == 0
    daemon.ended(0)


def test_too_many_connections_say_nothing_in_the_log(daemon: Daemon, served: Browser) -> None:
    with contextlib.ExitStack() as open_ones:
        for _ in range(MAX_CONNECTIONS + 10):
            place = ("127.0.0.1", served.port)
            open_ones.enter_context(socket.create_connection(place, timeout=SOON))
        pid = web_pid(daemon)
        daemon.until(lambda: len(os.listdir(f"/proc/{pid}/fd")) >= MAX_CONNECTIONS)
    assert served("/health")[0] == 200
    daemon.demand("stop")
    assert "connection limit" not in str(daemon.log)


def answers(browser: Browser) -> bool:
    try:
        return browser("/ready")[0] == 200
    except OSError:
        return False


def test_a_daemon_that_stands_still_is_no_healthy_one(daemon: Daemon, served: Browser) -> None:
    assert served("/health")[0] == 200
    daemon.send(signal.SIGSTOP)
    try:
        daemon.until(lambda: served("/health")[0] == 503)
    finally:
        daemon.send(signal.SIGCONT)
    daemon.until(lambda: served("/health")[0] == 200)
    daemon.send(signal.SIGKILL)  # whoever serves goes with it
    daemon.until(lambda: not any(name(pid) == "graced-web" for pid in daemon.left()))
