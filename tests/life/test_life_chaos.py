"""Everything at once: a worker that writes nonsense wherever it can, and whatever may happen."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from chaos import configure, live, stop
from daemon_harness import ROOT, Daemon

SECONDS = 6.0  # by hand, for as long as you like: PYTHONPATH=tests python tests/life/chaos.py


@pytest.mark.parametrize("seed", [1])
def test_the_main_process_answers_whatever_workers_write(daemon: Daemon, seed: int) -> None:
    configure(daemon, seed).start().ready()
    live(daemon, SECONDS)
    stop(daemon)
    assert not daemon.log.matching("bug in graced")


@pytest.mark.timeout(900)
def test_after_all_that_may_happen_every_job_is_done_and_nothing_is_left() -> None:
    """A long run is for whoever has changed much: python -m benchmarks.chaos."""
    line = [sys.executable, "-m", "benchmarks.chaos", "--seconds", "10", "--seed", "5"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["accepted"] > 10
    assert summary["runs"] >= summary["accepted"] - summary["dead"]
    assert summary["done"]["kill"] >= 1
