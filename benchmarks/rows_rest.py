"""What a pool costs at rest: wake-ups and memory."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from benchmarks.bench import Bench, medians, row
from benchmarks.contenders import Case, Contender
from benchmarks.stage import Stage, pss, switches
from benchmarks.table import Line, Target

SETTLED = 1.0  # seconds that everybody gets to calm down
WATCHED = 5.0


@row("idle", "system calls and context switches a second of 4 idle workers, whole tree")
def idle(bench: Bench) -> list[Line]:
    """Watch idle pools, without strace and with it."""
    woken = bench.in_turn(_switches, 2)
    lines = [Line("idle: context switches a second", "", medians(woken), Target("at most", 0))]
    if shutil.which("strace") is None:
        return [*lines, Line("idle: system calls a second", "", {}, note="needs strace")]
    found = bench.in_turn(calls, 1)
    target = Target("at most", 0)
    return [*lines, Line("idle: system calls a second", "", medians(found), target)]


def _switches(contender: Contender) -> float:
    with Stage(contender, Case()) as stage:
        stage.ready()
        time.sleep(SETTLED)
        before = {pid: switches(pid) for pid in stage.tree()}
        time.sleep(WATCHED)
        return sum(switches(pid) - count for pid, count in before.items()) / WATCHED


def calls(contender: Contender, case: Case | None = None) -> float:
    """Return how many system calls a second all its processes do while they are idle."""
    with Stage(contender, case or Case()) as stage:
        stage.ready()
        time.sleep(SETTLED)
        out = stage.home / "strace"
        pids = [part for pid in stage.tree() for part in ("-p", str(pid))]
        strace = subprocess.Popen(["strace", "-q", "-f", "-ttt", "-o", str(out), *pids])
        began = _attached(out)
        time.sleep(WATCHED)
        ended = time.time()
        strace.send_signal(signal.SIGINT)
        strace.wait()
        return _count(out, began, ended) / WATCHED


def _attached(out: Path) -> float:
    """Wait until strace has interrupted the calls that were under way; return when to begin."""
    while not out.exists() or b"restart" not in out.read_bytes():
        time.sleep(0.05)
        if out.exists() and time.time() - out.stat().st_ctime > 2:
            break  # what pauses is not shown before it is woken
    return time.time() + 0.5


def _count(out: Path, began: float, ended: float) -> int:
    times = [float(line.split()[1]) for line in out.read_text().splitlines()]
    return sum(began <= at < ended for at in times)


def _whole(contender: Contender, case: Case) -> float:
    """Return the memory of all its processes, once they are idle."""
    with Stage(contender, case) as stage:
        stage.ready()
        time.sleep(0.3)
        return sum(pss(pid) for pid in stage.tree())


def _further(contender: Contender) -> float:
    few = _whole(contender, Case(workers=4))
    return (_whole(contender, Case(workers=16)) - few) / 12


@row("memory", "memory (PSS) of each further worker, 4 against 16")
def memory(bench: Bench) -> list[Line]:
    """Weigh one worker."""
    found = bench.in_turn(_further, 5)
    return [Line("PSS of each further worker", "MB", medians(found), Target("times raw", 1.5))]


@row("preload", "memory (PSS) of 1 + 4 over an import of 50 MB")
def preload(bench: Bench) -> list[Line]:
    """Weigh a pool over much that is shared."""
    found = bench.in_turn(lambda who: _whole(who, Case(heavy=True)), 3, bench.everybody[:2])
    title = "PSS of 1 + 4 with a 50 MB import"
    return [Line(title, "MB", medians(found), Target("times raw", 1.2), note=_page())]


def _page() -> str:
    return "" if os.sysconf("SC_PAGE_SIZE") == 4096 else "(pages are not of 4 KiB)"
