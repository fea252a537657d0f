"""Who is said to have died for want of memory: whoever did, and nobody else.

The kernel's counter is a file of the test's here, put over the real one in a mount
namespace, and its kill a SIGKILL.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from daemon_harness import ROOT, Daemon, children, comm, wait_gone

from graced.host import oom

COVER = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
HUNGRY = r"killed by SIGKILL \(out of memory\)"


@pytest.fixture
def counter(tmp_path: Path, as_root: None) -> Path:
    """A file that counts, for a daemon that is started with :func:`under`."""
    file = tmp_path / "counter"
    file.write_text("oom_kill 0\n")
    if oom.find() is None:
        pytest.skip("no control group counts kills here")
    tried = subprocess.run([*under(file), "true"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip(f"no mount namespace can be had here: {tried.stderr.decode()}")
    return file


def under(counter: Path) -> tuple[str, ...]:
    real = oom.find()
    assert real is not None
    return ("unshare", "--mount", "sh", "-c", COVER, "sh", str(counter), real)


def child(daemon: Daemon, name: str) -> int:
    """Wait for the one child of the main process that has this name."""
    named = [pid for pid in children(daemon.pid) if comm(pid) == name]
    return named[0] if named else 0


@pytest.mark.parametrize("name", ["graced-zygote", "graced-keeper"])
def test_the_hunger_of_one_is_not_told_of_the_next(
    daemon: Daemon, counter: Path, name: str
) -> None:
    daemon.pool("graced.workers:Command").start(wrap=under(counter)).ready()
    victim = daemon.until(lambda: child(daemon, name))
    counter.write_text("oom_kill 1\n")
    os.kill(victim, signal.SIGKILL)
    told = daemon.log.wait(HUNGRY)
    assert len(told) == 1
    assert name.removeprefix("graced-") in told[0].text
    os.kill(daemon.worker_pids()[0], signal.SIGKILL)  # not of hunger
    deaths = daemon.until(lambda: daemon.status()["pools"]["jobs"]["last_deaths"])
    assert deaths[0]["reason"] == "killed by SIGKILL"
    daemon.send(signal.SIGTERM)
    daemon.ended(0)
    assert len(daemon.log.matching(HUNGRY)) == 1


def test_whom_a_zygote_takes_along_is_not_told_to_have_been_hungry(
    daemon: Daemon, counter: Path
) -> None:
    code = (
        "import subprocess\nfrom sample_workers import *\n"
        "say('started', subprocess.Popen(['sleep', '600']).pid)\n"
    )
    daemon.module("starts", code)
    daemon.pool("starts:Idle", path=[".", str(ROOT / "tests")], workers=2)
    daemon.start(wrap=under(counter)).ready()
    zygote = daemon.until(lambda: child(daemon, "graced-zygote"))
    started = int(daemon.events.wait("^started")[0].words[1])
    counter.write_text("oom_kill 2\n")  # the other one is nobody's that we know
    os.kill(zygote, signal.SIGKILL)
    daemon.log.wait("its zygote " + HUNGRY)
    wait_gone([started])
    daemon.send(signal.SIGTERM)
    daemon.ended(0)
    assert len(daemon.log.matching(HUNGRY)) == 1
