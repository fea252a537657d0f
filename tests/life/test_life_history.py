"""What the real daemon remembers, over restarts, and what `graced history` makes of it."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

from daemon_harness import Daemon, stat


def history(daemon: Daemon, *options: str) -> list[dict[str, Any]]:
    done = daemon.run("history", "--json", *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_what_happened_is_told_also_without_a_daemon(daemon: Daemon) -> None:
    pools = {
        "jobs": {"worker": "sample_workers:Waits"},
        "other": {"worker": "sample_workers:Idle"},
    }
    daemon.configure(pools).start().ready()
    daemon.events.wait("^waits ")
    [worker] = daemon.worker_pids()
    daemon.until(lambda: stat(worker)[0] == "S")
    os.kill(worker, signal.SIGSEGV)
    daemon.until(lambda: daemon.status()["pools"]["jobs"]["ready"] and len(history(daemon)) == 2)
    assert daemon.run("scale", "other", "2").returncode == 0
    assert daemon.run("reload").returncode == 0
    assert daemon.run("stop").returncode == 0
    daemon.ended(0)

    told = history(daemon)
    assert [e["what"] for e in told] == ["start", "death", "scale", "reload", "stopping", "stop"]
    _, death, scale, reload, _, stop = told
    assert (death["pool"], death["slot"], death["cause"]) == ("jobs", 0, "SIGSEGV")
    assert "in wait" in death["stack"]
    assert (scale["before"], scale["workers"]) == (1, 2)
    assert (reload["result"], reload["generation"]) == ("ok", 2)
    assert stop["code"] == 0
    assert [e["what"] for e in history(daemon, "--pool", "other")] == [
        "start", "scale", "reload", "stopping", "stop",
    ]  # fmt: skip
    daemon.start().ready(2 + 1)  # the reload was one
    assert [e["what"] for e in history(daemon)] == [*(e["what"] for e in told), "start"]
    done = daemon.run("history", "--pool", "nosuch")
    assert (done.returncode, "there is no pool 'nosuch'" in done.stderr) == (2, True)
    assert history(daemon, "--since", "0") == []
    text = daemon.run("history").stdout
    assert "worker jobs/0 (pid" in text
    assert "reloaded: generation 2" in text
    picture = daemon.short / "picture.svg"
    assert daemon.run("history", "--svg", str(picture)).returncode == 0
    assert picture.read_text().startswith("<svg")


def test_a_stop_that_had_to_kill_is_remembered(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Deaf", drain_timeout="10ms", stop_timeout="10ms").start().ready()
    daemon.events.wait("^deaf ")
    assert daemon.run("stop").returncode == 1
    daemon.ended(1)
    assert [e["what"] for e in history(daemon)] == ["start", "stopping", "killed", "stop"]
    assert "killed" in history(daemon)[-1]["reason"]
