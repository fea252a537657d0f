"""As PID 1 of a container: the same daemon, which also buries the orphans of others."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess

import pytest
from daemon_harness import TESTS, Daemon, children, comm, pidfd, wait_gone

UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


@pytest.fixture
def contained(daemon: Daemon) -> Daemon:
    """A daemon that is PID 1 of a namespace of its own."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    if subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("may not make a PID namespace here")
    return daemon


def start_in_namespace(daemon: Daemon) -> int:
    """Start, and return the main process's PID as seen from outside."""
    daemon.start(wrap=UNSHARE).ready()
    [inner] = [pid for pid in children(daemon.pid) if comm(pid) == "graced"]
    return inner


def test_it_starts_works_and_drains_as_pid_1(contained: Daemon) -> None:
    contained.pool("sample_workers:Rounds", workers=2, options={"seconds": 0.5})
    main = start_in_namespace(contained)
    contained.events.wait("^begin ", 2)
    os.kill(main, signal.SIGTERM)
    contained.ended(0)
    begun, ended = contained.events.matching("^begin "), contained.events.matching("^end ")
    assert len(begun) == len(ended)
    contained.nothing_left()


def test_sigterm_works_from_the_first_moment_on(contained: Daemon) -> None:
    contained.module(
        "slow", "import time\nfrom sample_workers import *\nsay('importing')\ntime.sleep(60)\n"
    )
    contained.pool("slow:Idle", path=[".", str(TESTS)])
    contained.start(wrap=UNSHARE)
    contained.events.wait("^importing")
    [main] = [pid for pid in children(contained.pid) if comm(pid) == "graced"]
    os.kill(main, signal.SIGTERM)
    contained.ended(0)


def test_orphans_of_others_are_buried(contained: Daemon) -> None:
    contained.module(
        "orphans",
        "import subprocess\nfrom sample_workers import Idle, say\n"
        "class Mine(Idle):\n"
        "  def setup(self):\n"
        "    out = subprocess.run(['sh', '-c', 'setsid sleep 0.2 >/dev/null & echo $!'],\n"
        "                         stdout=subprocess.PIPE, text=True).stdout\n"
        "    say('orphan', out.strip())\n"
        "    super().setup()\n",
    )
    contained.pool("orphans:Mine", path=[".", str(TESTS)])
    main = start_in_namespace(contained)
    contained.events.wait("^orphan ")
    contained.until(lambda: {comm(pid)[:6] for pid in children(main)} <= {"graced", ""})
    status = contained.run_inside(main, "status", "--json")
    assert '"deaths": 0' in status or '"deaths":0' in status
    os.kill(main, signal.SIGTERM)
    contained.ended(0)


def test_killed_as_pid_1_nothing_is_left(contained: Daemon) -> None:
    contained.pool(workers=2)
    main = start_in_namespace(contained)
    with pidfd(main):
        os.kill(main, signal.SIGKILL)
        wait_gone([main])
    contained.nothing_left()
