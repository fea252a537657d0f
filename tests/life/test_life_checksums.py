"""examples/checksums.py as docs/jobs.md shows it: files there, files to come, and no files."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from daemon_harness import ROOT, Daemon

PAGE = (ROOT / "docs" / "jobs.md").read_text()


@pytest.fixture
def checksums(daemon: Daemon) -> Daemon:
    """The pool of the page, with a short wait for what is missing."""
    [text] = [t for t in re.findall(r"```yaml\n(.*?)```", PAGE, re.S) if "checksums:" in t]
    [(name, pool)] = yaml.safe_load(text)["pools"].items()
    path = [str(ROOT / folder) for folder in pool["path"]]
    return daemon.configure({name: {**pool, "path": path, "options": {"again": 0.1}}})


def submit(daemon: Daemon, path: Path | str, *options: str) -> Any:
    """Submit a file and wait; return the exit status and what was printed."""
    done = daemon.run("submit", "--wait", *options, "--json", json.dumps(str(path)))
    return done.returncode, done.stdout or done.stderr


def test_the_page_s_session_is_as_printed(checksums: Daemon) -> None:
    [(line, printed)] = re.findall(r"^\$ graced (.*checksums.*)\n(.*\n)", PAGE, re.M)
    (checksums.short / "LICENSE").symlink_to(ROOT / "LICENSE")
    checksums.start().ready()
    assert checksums.run(*shlex.split(line)).stdout == printed


def test_a_file_that_comes_later_is_waited_for(checksums: Daemon, tmp_path: Path) -> None:
    late = tmp_path / "late"
    checksums.start().ready()
    words = ("--max-attempts", "1000", "--json", json.dumps(str(late)))
    assert checksums.run("submit", *words).returncode == 0

    def job() -> dict[str, Any]:
        return dict(json.loads(checksums.run("jobs", "--json").stdout))

    checksums.until(lambda: job()["attempts"] >= 2)
    assert job()["evidence"]["reason"].endswith(f"{late} is not there yet")
    (tmp_path / "draft").write_bytes(b"it comes")
    (tmp_path / "draft").rename(late)
    checksums.until(lambda: job()["state"] == "done")
    assert job()["result"] == {"sha256": hashlib.sha256(b"it comes").hexdigest(), "bytes": 8}


def test_a_file_that_never_comes_is_given_up(checksums: Daemon, tmp_path: Path) -> None:
    checksums.start().ready()
    status, said = submit(checksums, tmp_path / "never", "--max-attempts", "2")
    assert status == 1
    assert "is dead after 2 attempts" in said
    assert "never is not there yet" in said


def test_what_is_no_file_is_given_up_at_once(checksums: Daemon, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    checksums.start().ready()
    for path in (tmp_path, tmp_path / "pipe", "/dev/null", "nul\0in a name"):
        status, said = submit(checksums, path)
        assert (status, "is dead after 1 attempt:" in said) == (1, True), said
    done = checksums.run("submit", "--wait", "--json", "7")
    assert "write the path of a file as a JSON text, not 7" in done.stderr
