"""The pytest plugin in a project of a user's: found by itself, and the real daemon under it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_harness import DEADLINE, MARK, ROOT

WORKER = """
from graced import Discard, JobWorker


class Thumbs(JobWorker):
    def handle(self, job):
        if job.payload == "bad":
            raise Discard("no picture")
        self.log.info("made a thumb of %s", job.payload)
        return {"size": self.options["size"]}
"""
CONFIG = """
name: shop
user: nobody
log: {file: /nowhere/shop.log}
pools:
  thumbs:
    worker: shop:Thumbs
    path: [.]
    options: {size: 128}
"""
TESTS = """
import os
import signal

import pytest
from graced import JobDead
from shop import Thumbs

from graced.testing import CommandFailed, worker


def test_unit():
    with worker(Thumbs, options={"size": 2}) as detached:
        assert detached.handle("a.png") == {"size": 2}


def test_life(daemon, request):
    running = daemon("config.yaml", "pools.thumbs.options.size=3", "pools.thumbs.workers=2")
    number = running.submit("a.png", max_attempts=1)
    assert running.wait(number) == {"size": 3}
    assert "made a thumb of a.png" in running.log
    with pytest.raises(JobDead, match="no picture"):
        running.wait(running.submit("bad"))
    assert running.status()["pools"]["thumbs"]["ready"] == 2
    running.reload()
    assert running.status()["generation"] == 2
    assert running.stop() == 0
    assert str(running.folder).startswith("/tmp/")


def test_mapping(daemon):
    running = daemon({"pools": {"jobs": {"worker": "shop:Thumbs", "options": {"size": 4}}}})
    number = running.submit("a.png")
    running.kill(signal.SIGKILL)
    running.ended()
    running.start().ready(2)
    assert running.wait(number) == {"size": 4}
    with pytest.raises(CommandFailed, match="no pool"):
        running.demand("scale", "shop", "2")
"""
FAILING = """
def test_fails(daemon):
    running = daemon({"pools": {"jobs": {}}})
    running.log.wait("ready")
    assert running.status() is None


def test_not_ready(daemon):
    daemon({"pools": {"jobs": {"worker": "nothing:Here"}}})
"""


def run(folder: Path, code: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "shop.py").write_text(WORKER)
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "test_shop.py").write_text(code)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options],
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )


def test_a_projects_unit_and_life_tests(tmp_path: Path) -> None:
    done = run(tmp_path, TESTS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_the_page_about_testing(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "testing.md").read_text()
    by_itself, life = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    done = run(tmp_path, by_itself + life)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_a_failure_shows_what_the_daemon_has_said(tmp_path: Path) -> None:
    done = run(tmp_path, FAILING)
    assert done.returncode == 1
    assert re.search(r"-- log of /tmp/graced-\w+/config.yaml --", done.stdout), done.stdout
    assert "ready: 1 worker in 1 pool" in done.stdout
    assert "nothing:Here" in done.stdout
    assert "cannot import" in done.stdout


def test_nothing_of_graced_is_loaded_where_it_is_not_used(tmp_path: Path) -> None:
    code = """
import sys

def test_loaded():
    loaded = {name for name in sys.modules if name.startswith("graced")}
    assert loaded == {"graced", "graced.testing", "graced.testing.plugin"}
"""
    done = run(tmp_path, code)
    assert done.returncode == 0, done.stdout


def test_a_daemons_life_leaves_nothing_behind(tmp_path: Path) -> None:
    from graced.testing import Daemon

    (tmp_path / "shop.py").write_text(WORKER)
    config = {"pools": {"jobs": {"worker": "shop:Thumbs", "path": [str(tmp_path)]}}}
    with Daemon(config, "pools.jobs.workers=3") as running:
        running.start().ready()
        folder, mark = running.folder, running.mark
        assert len(running.left()) >= 6
    assert not folder.exists()
    assert not running.left()
    assert MARK not in running.environ
    assert mark


@pytest.mark.parametrize(
    "config",
    ["missing.yaml", "pools:\n  jobs: {wrokers: 1}\n", {"pools": {"jobs": {"wrokers": 1}}}],
)
def test_a_daemon_that_cannot_start_says_why(config: object) -> None:
    from graced.testing import Daemon

    with Daemon(config) as running:  # type: ignore[arg-type]
        with pytest.raises(AssertionError, match=r"no such file|did you mean 'workers'"):
            running.start().ready()
        running.ended(78)
