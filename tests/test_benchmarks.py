"""The benchmarks run: figures that nobody can measure again are worth little."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

from daemon_harness import ROOT

from benchmarks import mutants


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


def test_mutants_know_what_can_be_changed_and_which_tests_belong_to_it() -> None:
    file = Path("graced/core/backoff.py")
    found = mutants.mutants_of(file)
    source = (ROOT / file).read_bytes()
    assert all(source[m.start : m.end].decode() == m.old != m.new for m in found)
    for mutant in found:
        ast.parse(source[: mutant.start] + mutant.new.encode() + source[mutant.end :])
    assert len({(mutant.start, mutant.new) for mutant in found}) == len(found) > 30
    assert mutants.tests_of(file)[0] == "tests/core/test_backoff.py"


def test_the_fast_tests_kill_a_mutant() -> None:
    file = Path("graced/core/backoff.py")
    [mutant, *_] = [m for m in mutants.mutants_of(file) if m.old == "worker == self.probe"]
    tests = ("tests/core/test_backoff.py",)
    assert mutants.run_tests(None, tests, 120).passed
    assert not mutants.run_tests(mutant, tests, 120).passed
