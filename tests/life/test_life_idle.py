"""An idle daemon does nothing: no system call, no context switch, in any of its processes."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from daemon_harness import Daemon, stat


def switches(pids: list[int]) -> dict[int, int]:
    """Return how often each process was put on a CPU so far."""
    found = {}
    for pid in pids:
        text = Path(f"/proc/{pid}/status").read_text()
        found[pid] = sum(map(int, re.findall(r"ctxt_switches:\s+(\d+)", text)))
    return found


def settle(daemon: Daemon) -> list[int]:
    """Wait until all are there and sleep, and nothing has moved, come or gone for half a second."""

    def now() -> dict[int, int]:
        try:
            return switches(sorted(daemon.left()))
        except FileNotFoundError:  # it left while we looked
            return {}

    def at_rest() -> bool:
        there = daemon.left()
        try:  # who waits for a CPU has not moved either
            sleeping = all(stat(pid)[0] == "S" for pid in there)
        except FileNotFoundError:
            return False
        return sleeping

    def still() -> bool:
        before = now()
        daemon.events.collect(0.5)
        return at_rest() and now() == before

    daemon.until(still)
    return sorted(daemon.left())


def test_no_context_switches(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Silent", workers=4).start().ready()
    pids = settle(daemon)
    assert len(pids) == 6
    before = switches(pids)
    daemon.events.collect(3)
    assert switches(pids) == before


def test_no_system_calls(daemon: Daemon, tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("needs strace")
    daemon.pool("sample_workers:Silent", workers=4).start().ready()
    pids = settle(daemon)
    trace = tmp_path / "trace"
    attach = [word for pid in pids for word in ("-p", str(pid))]
    tracer = subprocess.Popen(
        [strace, "-f", "-o", str(trace), *attach], stderr=subprocess.PIPE, text=True
    )
    assert tracer.stderr is not None
    attached = [tracer.stderr.readline() for _ in pids]
    if not all("attached" in line for line in attached):
        tracer.kill()
        tracer.communicate()
        pytest.skip(f"strace may not attach here: {attached[0]}")
    daemon.events.collect(3)
    tracer.send_signal(signal.SIGINT)
    tracer.communicate(timeout=60)
    lines = trace.read_text().splitlines()
    # What was under way when strace came and went is shown without its end.
    calls = [line for line in lines if not re.search(r"<(unfinished|detached) \.\.\.>", line)]
    calls = [line for line in calls if "resuming interrupted" not in line]
    assert not calls
    assert daemon.status()["ready"]
