"""graced.Queue against the real daemon: from outside, and in its workers."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from daemon_harness import TESTS, Daemon

from graced import JobDead, Queue

PATH = [str(TESTS / "life"), str(TESTS)]
POOLS = {
    "asks": {"worker": "client_workers:Asks", "path": PATH, "workers": 2},
    "echo": {"worker": "client_workers:Echo", "path": PATH},
}


@pytest.fixture
def asks(daemon: Daemon) -> Iterator[Queue]:
    daemon.configure(POOLS, log={"file": str(daemon.home / "log")}).start().ready()
    with Queue.open(daemon.config, pool="asks") as queue:
        yield queue


def asked(queue: Queue, what: str) -> Any:
    return queue.wait(queue.submit(what), 60)


def test_a_worker_has_the_queues_of_its_daemon(daemon: Daemon, asks: Queue) -> None:
    assert asked(asks, "chain") == {"from": "asks"}
    assert asks.job(asked(asks, "own")).id == 3
    first, *others = asked(asks, "forked")
    assert others == [first + 1, first + 2]
    assert asked(asks, "shell") == "[4]\n"
    number = asks.submit("environment")
    env = asks.wait(number, 60)
    assert env["GRACED_CONFIG"] == str(daemon.config)
    assert env["GRACED_SOCKET"] == str(daemon.short / "run" / "control.sock")
    assert (env["GRACED_POOL"], env["GRACED_SLOT"]) == ("asks", env["GRACED_SLOT"])
    assert env["GRACED_SLOT"] in ("0", "1")
    assert said(daemon, "asks", number) == ["looking", "at two lines"]


def said(daemon: Daemon, pool: str, *jobs: int) -> list[str]:
    done = daemon.run("jobs", "log", "--pool", pool, *map(str, jobs))
    assert done.returncode == 0, done.stderr
    return [line.split("]: ")[-1].split(" job=")[0].strip() for line in done.stdout.splitlines()]


def test_the_log_of_jobs_is_that_of_their_pool(daemon: Daemon, asks: Queue) -> None:
    with Queue.open(daemon.config, pool="echo") as echo:
        numbers = [echo.submit(f"say {n} job={n}") for n in range(3)]
        assert asked(asks, "environment")
        for number in numbers:
            echo.wait(number, 60)
    shown = daemon.run("jobs", "log", "--pool", "echo", "1", "3").stdout
    assert [line.rpartition(" job=")[2] for line in shown.splitlines()] == ["1", "3"]
    refused = daemon.run("jobs", "log", "1")
    assert refused.returncode == 2
    assert "say which pool with --pool: asks, echo" in refused.stderr
    missing = daemon.run("jobs", "log", "--pool", "echo", "99")
    assert (missing.returncode, missing.stdout) == (1, "")
    settings = daemon.settings | {"log": {"file": str(daemon.home / "log"), "format": "json"}}
    daemon.write_config(json.dumps(settings))
    assert daemon.run("reload").returncode == 0
    number = asks.submit("environment")
    asks.wait(number, 60)
    [line] = daemon.run("jobs", "log", "--pool", "asks", str(number)).stdout.splitlines()
    assert json.loads(line)["message"] == "looking\nat two lines"


def test_an_interrupt_ends_a_wait_for_a_job(daemon: Daemon, asks: Queue) -> None:
    number = asks.submit("forever")
    daemon.until(lambda: asks.job(number).state == "taken" and asks.counts()["waiting"] == 1)
    daemon.send(signal.SIGINT)
    daemon.ended(0)
    assert asks.job(number).state == "waiting"  # says its file
    assert asks.counts()["waiting"] == 2


def test_an_interrupt_reaches_what_yields_payloads(daemon: Daemon, asks: Queue) -> None:
    number = asks.submit("slowly")
    daemon.until(lambda: asks.job(number).progress)
    daemon.send(signal.SIGINT)
    daemon.ended(0)
    assert asks.counts()["waiting"] == 1


def test_a_cancelled_job_is_dead_for_who_waits(daemon: Daemon, asks: Queue) -> None:
    number = asks.submit("forever")
    daemon.until(lambda: asks.job(number).state == "taken")
    asks.cancel(number)
    with pytest.raises(JobDead) as dead:
        asks.wait(number, 60)
    assert dead.value.evidence["reason"] == "cancelled"
    assert dead.value.job.attempts == 0


def test_who_waits_at_a_terminal_sees_how_far_the_job_is(daemon: Daemon) -> None:
    asks = {**POOLS["asks"], "options": {"gate": daemon.gate()}}
    daemon.configure({"asks": asks}).start().ready()
    ours, theirs = pty.openpty()
    line = daemon.command("submit", "-c", str(daemon.config), "--wait", "--json", '"steps"')
    with subprocess.Popen(
        line, env=daemon.environment() | {"TERM": "xterm"}, stdout=subprocess.PIPE, stderr=theirs
    ) as submit:
        os.close(theirs)
        shown = b""
        while b"page 4" not in shown:
            shown += os.read(ours, 1024)
        daemon.open_gate()
        assert submit.stdout is not None
        assert submit.stdout.read() == b'"ten pages"\n'
        with contextlib.suppress(OSError):  # the terminal's other end is closed
            while more := os.read(ours, 1024):
                shown += more
    os.close(ours)
    assert shown == b"\r\x1b[K[########............]  40% page 4 of 10\r\x1b[K"


@pytest.mark.parametrize("rich", [True, False])
def test_who_submits_many_at_a_terminal_sees_how_many_it_has_read(
    daemon: Daemon, *, rich: bool
) -> None:
    daemon.configure(POOLS)
    if not rich:
        daemon.module("rich", "raise ImportError")
    jobs = daemon.home / "jobs"
    jobs.write_text("1\n" * 5000)
    environ = daemon.environment() | {"TERM": "xterm", "PYTHONPATH": str(daemon.home)}
    ours, theirs = pty.openpty()
    line = daemon.command("submit", "-c", str(daemon.config), "--pool", "echo", "--json", "-")
    with jobs.open() as source, subprocess.Popen(
        line, env=environ, stdin=source, stdout=subprocess.PIPE, stderr=theirs
    ) as submit:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the terminal's other end is closed
            while more := os.read(ours, 1024):
                shown += more
        assert submit.stdout is not None
        assert submit.stdout.read() == b"5000 jobs submitted\n"
    os.close(ours)
    assert b"5,000 jobs" in shown
    assert shown.rstrip().endswith(b"\x1b[2K" if rich else b"\r\x1b[K"), "nothing is left"
    assert (b"\x1b[?25l" in shown) == rich, "rich hides the cursor meanwhile"


def test_it_goes_from_file_to_daemon_to_file(daemon: Daemon) -> None:
    daemon.configure(POOLS)
    with Queue.open(daemon.config, pool="echo") as queue:
        before = queue.submit("before")
        daemon.start().ready()
        assert queue.wait(before, 60) == "before"
        assert queue.wait(queue.submit("with"), 60) == "with"
        assert daemon.run("stop").returncode == 0
        after = queue.submit("after")
        assert [job.state for job in queue.jobs()] == ["done", "done", "waiting"]
        daemon.start().ready(2)
        assert queue.wait(after, 60) == "after"
