"""The real program, and what an operator does with single jobs: cancel, pause, show, put first."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from daemon_harness import DEADLINE, Daemon, wait_gone
from test_life_jobs import ended, listed, pool, stream, submitted


def run(daemon: Daemon, *words: str, status: int = 0) -> str:
    done = daemon.run(*words)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def queue(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(daemon, "status", "--json"))["pools"]["jobs"]["queue"]
    return found


def test_a_thousand_jobs_are_cancelled_waiting_in_hand_and_stuck_in_c(daemon: Daemon) -> None:
    """Who does not answer is killed; no attempt counts, and no death; the pool goes on."""
    pool(daemon, "sample_job_workers:AsTold", workers=2, stop_timeout="500ms").start().ready()
    stuck, long = (submitted(daemon, "--json", f'"{what}"') for what in ("stuck", "long"))
    daemon.events.wait(f"begin {stuck} ")
    daemon.events.wait(f"begin {long} ")
    assert stream(daemon, ["1"] * 1000, "--delay", "1h").returncode == 0
    run(daemon, "jobs", "cancel", str(long), str(stuck), str(long))
    assert run(daemon, "jobs", "--pool", "jobs", "cancel", "--all").endswith("jobs cancelled\n")
    dead = ended(daemon, "dead", 1002)
    assert {(job["attempts"], job["evidence"]["reason"]) for job in dead} == {(0, "cancelled")}
    run(daemon, "jobs", "cancel", str(stuck), "--pool", "jobs")  # twice is once
    done = submitted(daemon, "--json", "1")
    assert [job["id"] for job in ended(daemon, "done")] == [done]
    assert "job 1003: is done" in run(daemon, "jobs", "cancel", str(done), status=1)
    [told] = (json.loads(line) for line in run(daemon, "jobs", str(stuck), "--json").splitlines())
    assert [(t["attempt"], t["counts"]) for t in told["tries"]] == [(1, False)]
    found = daemon.status()["pools"]["jobs"]
    assert (found["deaths"], found["backoff"], found["queue"]["waiting"]) == (0, None, 0)
    assert f"job {stuck} is cancelled" in daemon.log
    daemon.send(signal.SIGTERM)
    daemon.ended(0)


def test_a_pause_outlives_reloads_restarts_and_kills(daemon: Daemon, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    pool(daemon, "sample_job_workers:AsTold", options={"gate": str(gate)}).start().ready()
    first = submitted(daemon, "--json", '"gate"')
    daemon.events.wait(f"begin {first} ")
    run(daemon, "pause", "jobs")
    gate.touch()
    assert [job["id"] for job in ended(daemon, "done")] == [first], "what is in hand is finished"
    waiting = [submitted(daemon, "--json", "1")]
    run(daemon, "reload")
    waiting.append(submitted(daemon, "--json", "1"))
    assert queue(daemon)["paused"] is True
    assert "queue: paused; 2 waiting" in run(daemon, "status")
    run(daemon, "stop")
    daemon.ended(0)
    waiting.append(submitted(daemon, "--json", "1"))
    daemon.start().ready(3)  # the reload has said it, too
    for pid in daemon.left():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert daemon.process is not None
    daemon.process.wait(DEADLINE)
    wait_gone(list(daemon.left()))
    daemon.start().ready(4)
    daemon.until(lambda: queue(daemon)["waiting"] == 3)
    assert run(daemon, "health", "--max-oldest", "1h").startswith("healthy")
    assert "a due job has waited" in run(daemon, "health", "--max-oldest", "1ms", status=1)
    run(daemon, "resume", "jobs")
    assert {job["id"] for job in ended(daemon, "done", 4)} == {first, *waiting}
    assert queue(daemon)["paused"] is False


def test_what_is_put_first_only_once_and_shown(daemon: Daemon, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    pool(daemon, "sample_job_workers:AsTold", options={"gate": str(gate)}).start().ready()
    first = submitted(daemon, "--json", '"gate"')
    daemon.events.wait(f"begin {first} ")
    late = submitted(daemon, "--json", '"late"', "--priority", "-100")
    usual = submitted(daemon, "--json", '"usual"')
    once = submitted(daemon, "--unique", "a b", "--priority", "100", "--json", '"once"')
    assert submitted(daemon, "--json", '"twice"', "--unique", "a b") == once
    assert f"job {first}: taken, 40% page {first} of 10" in run(daemon, "jobs", "show", str(first))
    assert listed(daemon, "--state", "taken")[0]["progress"]["fraction"] == 0.4
    gate.touch()
    assert len(ended(daemon, "done", 4)) == 4
    began = [int(line.text.split()[1]) for line in daemon.events.matching("^begin")]
    assert began == [first, once, usual, late]
    assert submitted(daemon, "--json", '"again"', "--unique", "a b") != once
    text = run(daemon, "jobs", str(once), "--pool", "jobs")
    assert f"job {once}: done\n  payload       \"once\"\n  priority      100\n" in text
    assert f"job {once + 90}: no such job" in run(daemon, "jobs", "show", f"{once + 90}", status=1)


@pytest.mark.parametrize(
    "words",
    [
        ("submit", "--priority", "101", "--json", "1"),
        ("submit", "--priority", "1.5", "--json", "1"),
        ("submit", "--unique", "ä" * 101, "--json", "1"),
        ("submit", "--unique", "", "--json", "1"),
        ("submit", "--unique", "k", "--json", "-"),
        ("jobs", "show"),
        ("jobs", "show", "x"),
        ("jobs", "cancel"),
        ("pause",),
    ],
)
def test_what_can_not_be_meant(daemon: Daemon, words: tuple[str, ...]) -> None:
    pool(daemon, "sample_job_workers:AsTold")
    run(daemon, *words, status=2)


def test_a_number_that_can_not_be_printed_is_of_a_job_that_is_submitted(daemon: Daemon) -> None:
    pool(daemon, "sample_job_workers:AsTold").start().ready()
    line = daemon.command("submit", "-c", str(daemon.config), "--json", "1")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            line, env=daemon.environment(), stdout=full, stderr=subprocess.PIPE, check=False
        )
    [job] = ended(daemon, "done")
    said = f"graced: job {job['id']} is submitted\ngraced: No space left on device\n"
    assert (done.returncode, done.stderr.decode()) == (1, said)
