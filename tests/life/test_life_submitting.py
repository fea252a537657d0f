"""Applications that submit, as examples/ has them, while the daemon has its troubles."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from daemon_harness import DEADLINE, ROOT, TESTS, Daemon, wait_gone

from graced import Queue

EXAMPLES = str(ROOT / "examples")
REQUESTS = 300
APPS = {"web_flask": "app", "web_django": "application"}


SERVER = """
from importlib import import_module
from sys import argv
from werkzeug.serving import make_server
application = getattr(import_module(argv[1]), argv[2])
server = make_server("127.0.0.1", 0, application, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture(params=APPS)
def url(request: pytest.FixtureRequest, daemon: Daemon) -> Iterator[str]:
    """A web server with an application of the examples, for the daemon that the test starts."""
    line = [sys.executable, "-c", SERVER, request.param, APPS[request.param]]
    env = daemon.environment() | {"GRACED_CONFIG": str(daemon.config)}
    env["PYTHONPATH"] = f"{EXAMPLES}:{ROOT}"
    quiet = subprocess.DEVNULL
    with subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=quiet, text=True) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}/checksums"
        server.terminate()


def asked(url: str, key: str | None = None, **form: str) -> tuple[int, dict[str, Any]]:
    """Return status and answer of a POST, or of a GET without a form."""
    data = urllib.parse.urlencode(form).encode() if form else None
    request = urllib.request.Request(url, data, {"Idempotency-Key": key} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, json.load(refusal)


def test_an_application_answers_at_once_and_tells_later(daemon: Daemon, url: str) -> None:
    checksums = {"worker": "checksums:Checksums", "path": [EXAMPLES]}
    daemon.configure({"checksums": checksums}).start().ready()
    status, answer = asked(url, path="/etc/passwd")
    assert (status, answer) == (202, {"job": 1})
    done: Callable[[], Any] = lambda: asked(f"{url}/1")[1]["state"] == "done"  # noqa: E731
    daemon.until(done)
    size = os.path.getsize("/etc/passwd")
    assert asked(f"{url}/1")[1]["result"]["bytes"] == size
    assert asked(f"{url}/99")[0] == 404
    assert daemon.run("pause", "checksums").returncode == 0
    assert [asked(url, "once", path="/none")[1] for _ in range(3)] == [{"job": 2}] * 3


def test_each_request_has_a_number_or_a_clear_error(daemon: Daemon, url: str) -> None:
    """Meanwhile the daemon is reloaded, and its keeper killed."""
    notes = daemon.home / "notes"
    notes.touch()
    path = [str(TESTS / "life"), str(TESTS)]
    pool = {"worker": "client_workers:Notes", "path": path, "workers": 2}
    daemon.configure({"checksums": {**pool, "options": {"file": str(notes)}}}).start().ready()
    answers: list[tuple[str, int, dict[str, Any]]] = []

    def request(number: int) -> None:
        answers.append((str(number), *asked(url, path=str(number))))

    with ThreadPoolExecutor(8) as clients:
        for number in range(REQUESTS):
            clients.submit(request, number)
        for trouble in (kill_keeper, reload, kill_keeper):
            so_far = len(answers)
            daemon.until(lambda: len(answers) >= min(so_far + 40, REQUESTS))  # noqa: B023
            trouble(daemon)
    assert len(answers) == REQUESTS
    assert {status for _, status, _ in answers} <= {202, 503}
    errors = [answer["error"] for _, status, answer in answers if status == 503]
    assert all("not known whether it was done" in error for error in errors)
    accepted = {path: answer["job"] for path, status, answer in answers if status == 202}
    assert len(set(accepted.values())) == len(accepted) >= REQUESTS - 3 * 8
    daemon.until(lambda: waiting(daemon) == 0)
    done = Counter(notes.read_text().split())
    assert set(done.values()) == {1}
    assert accepted.keys() <= done.keys()


def waiting(daemon: Daemon) -> int:
    with Queue.open(daemon.config, pool="checksums") as queue:
        counts = queue.counts()
        return int(counts["waiting"] + counts["taken"])


def kill_keeper(daemon: Daemon) -> None:
    [keeper] = [pid for pid, name in daemon.left().items() if name == "graced-keeper"]
    os.kill(keeper, signal.SIGKILL)
    wait_gone([keeper])


def reload(daemon: Daemon) -> None:
    assert daemon.run("reload").returncode == 0


def test_a_file_that_is_dropped_is_compressed_once(daemon: Daemon) -> None:
    inbox, dropped = daemon.home / "inbox", daemon.home / "a b.txt"
    inbox.mkdir()
    dropped.write_text("hello\n")
    old = os.stat(__file__).st_mtime
    os.utime(dropped, (old, old))
    watch = {"worker": "inbox:Inbox", "path": [EXAMPLES], "workers": 2}
    watch["options"] = {"folder": str(inbox), "look": 0.05}
    daemon.configure({"inbox": watch, "jobs": {"worker": "graced.workers:Command"}}).start().ready()
    assert daemon.run("pause", "jobs").returncode == 0
    dropped.rename(inbox / "a b.txt")
    daemon.log.wait("a b.txt: job 1$", 2)  # both look, and it is one job
    assert daemon.run("resume", "jobs").returncode == 0
    daemon.until(lambda: [path.name for path in inbox.iterdir()] == ["a b.txt.gz"])
    assert len(daemon.run("jobs", "--json").stdout.splitlines()) == 1
