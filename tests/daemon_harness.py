"""The tests' own daemon: what graced.testing starts, with workers that report what they do.

A :class:`Daemon` is :class:`graced.testing.daemon.DaemonProcess` with pools from a test, and a FIFO
on which the workers in `sample_workers` report.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from graced.testing.daemon import (
    MARK,
    SOON,
    DaemonProcess,
    comm,
    has_ended,
    marked,
    pidfd,
)
from graced.testing.feeds import DEADLINE, Feed, Line, NotifySocket, Pump, Splitter

__all__ = [
    "DEADLINE",
    "MARK",
    "ROOT",
    "SOON",
    "TESTS",
    "Daemon",
    "Feed",
    "Line",
    "NotifySocket",
    "Pump",
    "Splitter",
    "children",
    "comm",
    "has_ended",
    "marked",
    "pidfd",
    "stat",
    "wait_gone",
]

TESTS = Path(__file__).parent
ROOT = TESTS.parent
# The tests' own workers are found, and nobody is killed because the machine had to wait.
USUAL = {"path": [str(TESTS)], "stop_timeout": "30s"}


class Daemon(DaemonProcess):
    """`graced run` with pools from a test; a context manager that leaves nothing behind."""

    def __init__(self, home: Path) -> None:
        super().__init__(home / "config.yaml")
        self.home = home
        self.settings: dict[str, Any] = {}
        self.events = self.feed("events")
        self._fifo = self.short / "events"
        os.mkfifo(self._fifo)
        self._fifo.chmod(0o666)
        self._fifo_fd = os.open(self._fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._gate_fd: int | None = None
        self.pump.add(self._fifo_fd, Splitter(self._fifo_fd, self._event, lambda: None))

    # Before the start

    def configure(self, pools: Mapping[str, Mapping[str, Any]], **top: Any) -> Daemon:
        """Write config.yaml; the pools find the tests' own workers on their path."""
        filled = {name: {**USUAL, **pool} for name, pool in pools.items()}
        self.settings = {
            "name": "graced",
            "runtime_dir": str(self.short / "run"),
            "state_dir": str(self.home / "state"),
            **top,
            "pools": filled,
        }
        return self.write_config(yaml.safe_dump(self.settings, sort_keys=False))

    def pool(self, worker: str = "sample_workers:Idle", **keys: Any) -> Daemon:
        """Configure a single pool named `jobs`."""
        return self.configure({"jobs": {"worker": worker, **keys}})

    def write_config(self, text: str) -> Daemon:
        self.config.write_text(text, encoding="utf-8")
        return self

    def module(self, name: str, code: str) -> Path:
        """Write a module beside config.yaml (`path: [.]` finds it there)."""
        file = self.home / f"{name}.py"
        file.write_text(code, encoding="utf-8")
        return file

    def gate(self) -> str:
        """Make what a worker waits at in its round, until the test opens it; return its path."""
        path = self.short / "gate"
        os.mkfifo(path)
        path.chmod(0o666)
        return str(path)

    def open_gate(self) -> None:
        """Let all pass who wait at the gate, and all who come."""
        self._gate_fd = os.open(self.short / "gate", os.O_RDWR | os.O_CLOEXEC)

    def draining(self, workers: int, pool: str = "jobs") -> None:
        """Wait until so many workers have been told to drain."""

        def told() -> bool:
            states = [worker["state"] for worker in self.workers(pool)]
            return states.count("draining") == workers

        self.until(told)

    # Running

    def environment(self) -> dict[str, str]:
        own = {"PYTHONPATH": str(ROOT), "EVENTS": str(self._fifo)}
        return {**super().environment(), **own, **self.environ}

    def said(self) -> str:
        return f"its log:\n{self.log}\nand events:\n{self.events}"

    def run_inside(self, pid: int, *arguments: str) -> str:
        """Run a graced command in the namespaces of a process; return what it prints."""
        enter = ("nsenter", "--target", str(pid), "--pid", "--mount", "--")
        result = subprocess.run(
            [*enter, *self.command(*arguments, "-c", str(self.config))],
            cwd=self.short,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert result.returncode == 0, result
        return result.stdout

    # Processes

    def workers(self, pool: str = "jobs") -> list[dict[str, Any]]:
        return list(self.status()["pools"][pool]["workers"])

    def worker_pids(self, pool: str = "jobs") -> list[int]:
        return [worker["pid"] for worker in self.workers(pool)]

    # The way out

    def close(self) -> None:
        super().close()
        for fd in (self._fifo_fd, self._gate_fd):
            if fd is not None:
                os.close(fd)

    def _event(self, text: str) -> None:
        at, pid, words = text.split(" ", 2)
        self.events.add(Line(float(at), int(pid), words))


def wait_gone(pids: list[int], deadline: float = DEADLINE) -> float:
    """Wait until all these processes are gone; return the time."""
    end = time.monotonic() + deadline
    for pid in pids:
        with contextlib.suppress(ProcessLookupError), pidfd(pid) as ending:
            assert select.select([ending], [], [], max(0.0, end - time.monotonic()))[0], pid
    return time.monotonic()


def stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on: state, parent, group, …"""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if int(stat(int(entry))[1]) == pid:
                    found.append(int(entry))
    return found
