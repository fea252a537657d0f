"""Between the new files and the restart an old daemon goes on, and nothing of it is new."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from daemon_harness import ROOT, Daemon, children, comm, wait_gone

from graced import __version__

NEXT = "9.9.9"
NEW = 'raise ImportError(f"{__name__} of the next version")\n'


@pytest.fixture
def installed(daemon: Daemon, tmp_path: Path) -> Path:
    """A copy of graced, from which the daemon is started."""
    site = tmp_path / "site"
    shutil.copytree(ROOT / "graced", site / "graced")
    daemon.environ["PYTHONPATH"] = str(site)
    return site / "graced"


def upgrade(daemon: Daemon, installed: Path, how: str) -> None:
    """Put the next version in the old one's place; commands are of a version that works."""
    daemon.log.wait("graced's code is in memory")
    if how == "removed":
        shutil.rmtree(installed)
    else:
        for module in installed.rglob("*.py"):
            module.write_text(NEW)
        (installed / "__init__.py").write_text(f'__version__ = "{NEXT}"\n')
    del daemon.environ["PYTHONPATH"]


def kill(daemon: Daemon, name: str) -> None:
    """End all children of the main process that have this name, which a new one has not yet."""
    named = daemon.until(lambda: [pid for pid in children(daemon.pid) if comm(pid) == name])
    for pid in named:
        os.kill(pid, signal.SIGKILL)
    wait_gone(named)


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_whoever_dies_is_replaced_and_reloads_are_of_the_old_version(
    daemon: Daemon, installed: Path, how: str
) -> None:
    pools = {
        "jobs": {"worker": "graced.workers:Command"},
        "idle": {"worker": "sample_workers:Idle"},
    }
    daemon.configure(pools, log={"level": "debug"}).start().ready()
    daemon.log.wait("queue jobs: .* is open")  # by then its keeper has all of its code
    upgrade(daemon, installed, how)
    kill(daemon, "graced-zygote")
    kill(daemon, "graced-keeper")
    kill(daemon, "graced-worker")
    daemon.until(lambda: all(pool["ready"] for pool in daemon.status()["pools"].values()))
    done = daemon.run("submit", "--pool", "jobs", "--wait", "--", "true")
    assert done.returncode == 0, done.stderr
    assert daemon.run("reload").returncode == 0, str(daemon.log)
    done = daemon.run("submit", "--pool", "jobs", "--wait", "--", "sh", "-c", "exit 0")
    assert done.returncode == 0, done.stderr
    status = daemon.status()
    assert (status["version"], status["generation"]) == (__version__, 2)
    daemon.write_config("pools: {jobs: {wrokers: 1}}\n")
    daemon.send(signal.SIGHUP)
    daemon.log.wait("reload refused: .*wrokers")
    daemon.send(signal.SIGTERM)
    daemon.ended(0)
    assert not daemon.log.matching("next version|No module named")
    if how == "replaced":
        daemon.environ["PYTHONPATH"] = str(installed.parent)
        assert NEXT in run_next(daemon)


def run_next(daemon: Daemon) -> str:
    """Return the version that whoever starts now would have."""
    code = "import graced; print(graced.__version__)"
    line = [daemon.python, "-c", code]
    return subprocess.check_output(line, env=daemon.environment(), cwd=daemon.short, text=True)


def test_workers_that_import_for_themselves_are_of_the_old_version(
    daemon: Daemon, installed: Path
) -> None:
    pool = {"worker": "graced.workers:Command", "preload": False}
    daemon.configure({"jobs": pool}, log={"level": "debug"}).start().ready()
    daemon.log.wait("graced's code is in memory", 2)  # its zygote's, too
    upgrade(daemon, installed, "replaced")
    for deaths in (1, 2):  # its zygote has forked before
        kill(daemon, "graced-worker")
        jobs = daemon.until(lambda n=deaths: at_work_again(daemon, n))  # type: ignore[misc]
        assert jobs["deaths"] == deaths, jobs
    daemon.send(signal.SIGTERM)
    daemon.ended(0)


def at_work_again(daemon: Daemon, deaths: int) -> dict[str, Any] | None:
    """Return the pool's status after so many deaths, once a worker is ready."""
    jobs: dict[str, Any] = daemon.status()["pools"]["jobs"]
    return jobs if jobs["ready"] and jobs["deaths"] >= deaths else None


def test_a_new_kind_of_pool_comes_with_a_reload(daemon: Daemon, installed: Path) -> None:
    log = {"level": "debug"}
    daemon.configure({"idle": {"worker": "sample_workers:Idle"}}, log=log).start().ready()
    upgrade(daemon, installed, "replaced")
    sockets = {"worker": "sample_workers:Idle", "listen": [f"unix:{daemon.short}/listen"]}
    jobs = {"worker": "graced.workers:Command"}
    daemon.configure(
        {"idle": {"worker": "sample_workers:Idle"}, "web": sockets, "jobs": jobs}, log=log
    )
    reload = daemon.run("reload")
    assert reload.returncode == 0, reload.stderr
    assert daemon.run("submit", "--pool", "jobs", "--wait", "--", "true").returncode == 0
    daemon.send(signal.SIGTERM)
    daemon.ended(0)
