"""What dead workers leave in their process groups: what is waited for, and what is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from daemon_harness import DEADLINE, ROOT, SOON, wait_gone

from graced import clock
from graced.host import process
from graced.log.logger import Log
from graced.supervisor import groups as groups_module
from graced.supervisor.groups import ProcessGroups

NOBODY = 65534


class Lines(Log):
    """A log that keeps what it is told."""

    __slots__ = ("told",)

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def write(self, level: str, message: str, fields: object, args: object = ()) -> None:
        self.told.append(message)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for each in processes:
        with suppress(ProcessLookupError):
            os.kill(each.pid, signal.SIGKILL)
        each.communicate()


def start(started: list[subprocess.Popen[str]], script: str) -> tuple[int, list[int]]:
    """Start a script that leads a group; return its id and the numbers that it prints."""
    command = [sys.executable, "-c", f"import os, signal, sys, time\n{script}"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0)
    started.append(child)
    assert child.stdout is not None
    return child.pid, [int(word) for word in child.stdout.readline().split()]


def turn(groups: ProcessGroups, done: list[str], deadline: float = SOON) -> None:
    """Look when it is due, until something is done."""
    end = time.monotonic() + deadline
    while not done:
        assert time.monotonic() < end, "still waited for"
        due = groups.next_deadline()
        assert due is not None
        time.sleep(max(due - clock.monotonic(), 0))
        groups.tick(clock.monotonic())


def test_a_group_that_is_empty_is_done_at_once() -> None:
    child = subprocess.Popen(["true"], process_group=0)
    child.wait()
    done: list[str] = []
    groups = ProcessGroups(Log())
    groups.when_empty("jobs/0", [child.pid, 0], None, lambda: done.append("done"))
    assert done
    assert groups.closed
    assert groups.next_deadline() is None


def test_a_process_that_still_runs_is_waited_for(started: list[subprocess.Popen[str]]) -> None:
    group, _ = start(started, "print(flush=True); time.sleep(600)")
    done: list[str] = []
    groups = ProcessGroups(Log())
    groups.when_empty("jobs/0", [group], None, lambda: done.append("done"))
    for _ in range(3):
        groups.tick(groups.next_deadline() or 0.0)
    assert not done
    assert not groups.closed
    os.kill(group, signal.SIGKILL)
    started[0].wait(DEADLINE)
    turn(groups, done)
    assert groups.closed


def test_zombies_of_others_are_not_waited_for(started: list[subprocess.Popen[str]]) -> None:
    """The group's last process has ended, but its parent, which has left, does not reap it."""
    group, [stray, zombie] = start(
        started,
        "first = os.fork()\n"
        "if first == 0:\n"
        "    second = os.fork()\n"
        "    if second == 0:\n"
        "        time.sleep(600)\n"
        "    os.setsid()\n"
        "    print(os.getpid(), second, flush=True)\n"
        "    time.sleep(600)\n"
        "time.sleep(600)\n",
    )
    try:
        os.killpg(group, signal.SIGKILL)
        started[0].wait(DEADLINE)
        done: list[str] = []
        groups = ProcessGroups(Log())
        groups.when_empty("jobs/0", [group], None, lambda: done.append("done"))
        turn(groups, done)
        assert process.state(zombie) == "Z"
        assert not process.group_is_empty(group)
    finally:
        os.kill(stray, signal.SIGKILL)
        wait_gone([stray])


@pytest.mark.usefixtures("as_root")
def test_processes_of_others_are_told_and_not_waited_for(
    started: list[subprocess.Popen[str]],
) -> None:
    group, _ = start(started, "print(flush=True); time.sleep(600)")
    asker = (
        "import os, time\n"
        "from graced.supervisor.groups import ProcessGroups\n"
        "from graced import clock\n"
        "from test_groups import Lines\n"
        f"os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "done, log = [], Lines()\n"
        "groups = ProcessGroups(log)\n"
        f"groups.when_empty('jobs/0', [{group}], None, lambda: done.append(1))\n"
        "while not done:\n"
        "    time.sleep(0.01)\n"
        "    groups.tick(clock.monotonic())\n"
        "print('\\n'.join(log.told))\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", asker],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/tests:{ROOT}/tests/supervisor"},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    ).stdout
    assert f"pid {group} (" in said
    assert "another user's" in said
    assert process.state(group) == "S"


def test_the_wait_is_told_and_bounded_in_a_stop(
    started: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that survives SIGKILL, in a system call that does not end: a stop goes on without it."""
    monkeypatch.setattr(groups_module, "WARN_AFTER_S", 0.0)
    monkeypatch.setattr(groups_module, "MAX_STOP_WAIT_S", 0.0)
    group, _ = start(started, "print(flush=True); time.sleep(600)")
    log = Lines()
    groups = ProcessGroups(log)
    groups.when_empty("jobs/0", [group], None, lambda: None)
    groups.tick(groups.next_deadline() or 0.0)
    assert f"pid {group} (" in (groups.words() or "")
    assert any(f"pid {group} (" in line and "jobs/0" in line for line in log.told)
    assert not groups.closed  # while the daemon runs its job must not run again
    groups.stop_waiting()
    groups.tick(clock.monotonic() + 1)
    assert groups.closed
    assert groups.words() is None
    assert "stays taken" in log.told[-1]


def test_a_worker_that_could_not_be_killed_is_waited_for(
    started: list[subprocess.Popen[str]],
) -> None:
    child, _ = start(started, "print(flush=True); time.sleep(600)")
    done: list[str] = []
    groups = ProcessGroups(Log())
    groups.when_empty("jobs/0", [], child, lambda: done.append("done"))
    groups.tick(groups.next_deadline() or 0.0)
    assert not done
    groups.give_up()
    assert groups.closed
    assert not done
    os.kill(child, signal.SIGKILL)
    started[0].wait(DEADLINE)
    turn(groups, done)
