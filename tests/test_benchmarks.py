"""The benchmarks run: figures that nobody can measure again are worth little."""

from __future__ import annotations

import json
import subprocess
import sys

from harness import ROOT


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the benchmarks as `make bench` does."""
    line = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_rows_can_be_chosen_by_name() -> None:
    names = [line.split()[0] for line in bench("--list").stdout.splitlines()]
    assert {"start", "stop", "kill", "reload", "memory", "jobs-4"} <= set(names)
    assert len(names) == len(set(names))
    assert "no such row: strat" in bench("strat").stderr


def test_a_row_has_figures_of_graced_and_of_the_limit() -> None:
    result = bench("--json", "--factor", "0.01", "start", "stop", "kill", "term-all")
    lines = {line["title"]: line for line in json.loads(result.stdout)}
    assert len(lines) == 5, result.stderr
    assert all(line["found"].get("graced", 0) > 0 for line in lines.values()), lines
    started = lines["start → all ready, N = 4"]
    assert started["ratio"] == started["found"]["graced"] / started["found"]["raw"]
    assert result.returncode == (1 if any(x["met"] is False for x in lines.values()) else 0)


def test_the_rows_on_jobs_say_how_soon_one_begins_and_what_it_costs_to_submit() -> None:
    result = bench("--json", "--factor", "0.01", "jobs-latency", "jobs-submit")
    lines = json.loads(result.stdout)
    assert len(lines) == 4, result.stderr
    assert all(line["found"].get("graced", 0) > 0 for line in lines), lines
