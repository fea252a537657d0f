"""The real program and its schedules: one job for each instant, whatever happens to the daemon."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from daemon_harness import Daemon
from postgresql_server import PostgreSQL

WRITER = """
from graced import JobWorker

class Writer(JobWorker):
    def handle(self, job):
        with open(self.options["file"], "a", encoding="utf-8") as file:
            file.write(f"{self.pool} {job.scheduled:.0f} {job.id} {job.payload}\\n")
"""


def configured(daemon: Daemon, **schedules: Any) -> Daemon:
    daemon.module("writer", WRITER)
    keys = {"worker": "writer:Writer", "path": ["."], "options": {"file": str(output(daemon))}}
    return daemon.configure({"jobs": keys, "others": keys}, schedules=schedules)


def output(daemon: Daemon) -> Path:
    return daemon.home / "instants"


def run(daemon: Daemon, pool: str = "jobs") -> list[int]:
    """Return the instants whose jobs were run, in order."""
    if not output(daemon).exists():
        return []
    lines = output(daemon).read_text("utf-8").splitlines()
    return [int(line.split()[1]) for line in lines if line.split()[0] == pool]


def once(daemon: Daemon) -> None:
    """Each instant had one job; a kill may have had that run twice."""
    lines = output(daemon).read_text("utf-8").splitlines()
    instants = sorted(int(instant) for instant, _ in {tuple(line.split()[1:3]) for line in lines})
    assert {b - a for a, b in pairwise(instants)} == {1}, lines


def runs(daemon: Daemon, more: int, pool: str = "jobs") -> None:
    """Wait for further instants."""
    count = len(run(daemon, pool)) + more
    daemon.until(lambda: len(run(daemon, pool)) >= count or None)


def queue(daemon: Daemon) -> dict[str, int]:
    return dict(daemon.status()["pools"]["jobs"]["queue"])


def last(daemon: Daemon) -> int:
    return int(daemon.status()["schedules"]["tick"]["last"])


def test_each_instant_has_one_job_over_reloads_and_kills(daemon: Daemon) -> None:
    tick = {"pool": "jobs", "every": "1s", "missed": "all"}
    configured(daemon, tick=tick).start().ready()
    runs(daemon, 1)
    assert daemon.run("reload").returncode == 0
    runs(daemon, 1)
    for pid in [daemon.pid, *daemon.left()]:  # and the keeper, the zygotes, the workers
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    daemon.ended()
    missed = int(time.time()) + 1
    daemon.until(lambda: time.time() > missed or None)
    daemon.start().ready()
    runs(daemon, 2)
    os.kill(daemon.pid, signal.SIGKILL)  # alone: its keeper and the next one's overlap
    daemon.ended()
    daemon.start().ready()
    runs(daemon, 2)
    assert daemon.run("stop").returncode == 0
    daemon.ended(0)
    once(daemon)
    assert "missed while no daemon was there; submitting" in daemon.said()


def test_a_reload_adds_changes_and_removes_schedules(daemon: Daemon) -> None:
    configured(daemon, a={"pool": "jobs", "every": "1s", "payload": "old"}).start().ready()
    runs(daemon, 1)
    first = run(daemon)[-1]

    def between_instants() -> dict[str, Any] | None:  # at one it is asked for, and not yet kept
        found: dict[str, Any] = json.loads(daemon.demand("schedules", "--json"))["a"]
        return found if found["last"] == found["next"] - 1 else None

    told = daemon.until(between_instants)
    assert told["pool"] == "jobs"
    assert first <= told["last"]
    daemon.until(lambda: told["last"] in run(daemon))
    assert daemon.status()["schedules"].keys() == {"a"}

    configured(
        daemon,
        a={"pool": "jobs", "every": "1s", "payload": "new"},
        b={"pool": "others", "cron": "* * * * *"},
        c={"pool": "others", "every": "1s"},
    )
    assert daemon.run("reload").returncode == 0
    daemon.until(lambda: "new" in output(daemon).read_text("utf-8") or None)
    runs(daemon, 1, "others")
    assert [line.split()[:2] for line in daemon.demand("schedules").splitlines()[1:]] == [
        ["a", "jobs"], ["b", "others"], ["c", "others"],
    ]  # fmt: skip

    configured(daemon, c={"pool": "others", "every": "1s"})
    assert daemon.run("reload").returncode == 0
    daemon.until(lambda: not queue(daemon)["waiting"] + queue(daemon)["taken"])
    before = len(run(daemon))
    runs(daemon, 2, "others")
    assert len(run(daemon)) <= before + 1  # one may have been on its way

    daemon.module("writer", WRITER.replace("(JobWorker)", "(__import__('graced').Worker)"))
    refused = daemon.run("reload")
    assert refused.returncode == 1
    assert "has no step()" in refused.stderr or "takes no jobs" in refused.stderr
    runs(daemon, 1, "others")
    daemon.send(signal.SIGTERM)
    daemon.ended(0)


def test_hosts_that_share_a_queue_have_one_job_for_each_instant(
    daemon: Daemon, tmp_path: Path, postgresql_server: PostgreSQL
) -> None:
    url = postgresql_server.made()
    tick = {"pool": "jobs", "every": "1s", "missed": "all"}
    (tmp_path / "other").mkdir()
    with Daemon(tmp_path / "other") as other:
        for host in (daemon, other):
            host.module("writer", WRITER)
            options = {"file": str(output(daemon))}
            pool = {"worker": "writer:Writer", "path": ["."], "options": options, "queue": url}
            host.configure({"jobs": pool}, schedules={"tick": tick}).start()
        for host in (daemon, other):
            host.ready()
        runs(daemon, 2)
        os.kill(daemon.pid, signal.SIGKILL)
        daemon.ended()
        runs(daemon, 2)
        daemon.start().ready()
        runs(daemon, 2)
        daemon.until(lambda: abs(last(daemon) - last(other)) <= 1)
        for host in (daemon, other):
            assert host.run("stop").returncode == 0
            host.ended(0)
    once(daemon)
