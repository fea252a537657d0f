"""One run of one contender: what its workers say, when its processes end, and no trace after.

Workers report through a FIFO, each line with the monotonic time at which it was written, so it
does not matter when we read it. Ends are seen through pidfds that were opened before the signal.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.contenders import Case, Contender, base_environment

DEADLINE = 60.0  # seconds; only failures get here
MARK = "GRACED_BENCHMARK"


class Word(NamedTuple):
    """What a worker said, and when."""

    pid: int
    at: int  # monotonic ns
    text: str


class Trouble(Exception):
    """A contender did not do what was measured."""


class Stage:
    """A contender that runs; a context manager that leaves no process and no file."""

    def __init__(self, contender: Contender, case: Case, **environ: str) -> None:
        self.contender = contender
        self.case = case
        self.words: list[Word] = []
        self.home = Path(tempfile.mkdtemp(prefix="graced-bench-"))
        fifo = self.home / "events"
        os.mkfifo(fifo)
        self._fifo = os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._rest = b""
        self._mark = uuid.uuid4().hex
        self._log = (self.home / "log").open("wb")
        command = contender.command(case, self.home)
        environment = {
            **base_environment(),
            **contender.environment(case),
            "HOME": str(self.home),
            "EVENTS": str(fifo),
            "SPT_NOENV": "1",  # a process title must not overwrite the mark
            MARK: self._mark,
            **environ,
        }
        self.started = time.monotonic_ns()
        self.process = subprocess.Popen(
            command,
            cwd=self.home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The main process."""
        return self.process.pid

    # -- what workers say ----------------------------------------------------------

    def wait(self, text: str, count: int = 1, after: int = 0, deadline: float = DEADLINE) -> int:
        """Wait until so many words have come that were said later than `after`; return when."""
        end = time.monotonic() + deadline
        while len(found := self.said(text, after)) < count:
            if not self._arrives(end - time.monotonic()):
                raise Trouble(self._complaint(f"{len(found)} of {count} said {text!r}"))
        return sorted(word.at for word in found)[count - 1]

    def said(self, text: str, after: int = 0) -> list[Word]:
        """Return the words of this kind so far."""
        self._read()
        return [word for word in self.words if word.text == text and word.at > after]

    def ready(self) -> Stage:
        """Wait until all workers are ready for the first time, and settled."""
        self.wait("ready", self.case.workers)
        if self.contender.name == "graced" and self.case.worker == "work:Idle":
            self.wait("idle", self.case.workers)
        return self

    def _arrives(self, seconds: float) -> bool:
        return bool(seconds > 0 and select.select([self._fifo], [], [], seconds)[0])

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._fifo, 65536):
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in lines:
                    pid, at, text = line.decode().split(" ", 2)
                    self.words.append(Word(int(pid), int(at), text))

    def _complaint(self, what: str) -> str:
        said = (self.home / "log").read_text(errors="replace")[-2000:]
        return f"{self.contender.name}: {what}; its log:\n{said}"

    # -- processes -----------------------------------------------------------------

    def tree(self) -> list[int]:
        """Return all its processes, the main process first."""
        marked = (f"{MARK}={self._mark}".encode(), b"\0")
        found = [pid for pid in all_processes() if pid != self.pid and _has_mark(pid, *marked)]
        return [self.pid, *found]

    def worker_pids(self) -> list[int]:
        """Return the workers that live, by what they said."""
        living = set(self.tree())
        return [pid for pid in dict.fromkeys(w.pid for w in self.said("ready")) if pid in living]

    def send(self, number: int) -> int:
        """Signal the main process; return the time just before."""
        now = time.monotonic_ns()
        os.kill(self.pid, number)
        return now

    def gone_after(self, act: Callable[[], int], pids: Iterable[int] | None = None) -> float:
        """Do something that ends these processes, or all; return the ms until the last is gone."""
        with contextlib.ExitStack() as stack:
            ends = []
            for pid in self.tree() if pids is None else pids:
                with contextlib.suppress(ProcessLookupError):  # who was there for a birth alone
                    ends.append(stack.enter_context(pidfd(pid)))
            began = act()
            return (self._last_end(ends) - began) / 1e6

    def _last_end(self, ends: list[int]) -> int:
        poll = select.poll()
        for end in ends:
            poll.register(end, select.POLLIN)
        left = len(ends)
        while left:
            found = poll.poll(DEADLINE * 1000)
            if not found:
                raise Trouble(self._complaint(f"{left} processes are still there"))
            for end, _ in found:
                poll.unregister(end)
                left -= 1
        return time.monotonic_ns()

    def exit_status(self) -> int:
        """Return how the main process ended."""
        return self.process.wait(DEADLINE)

    # -- the way out ---------------------------------------------------------------

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        while left := [pid for pid in self.tree() if _lives(pid)]:
            for pid in left:
                with contextlib.suppress(ProcessLookupError), pidfd(pid) as end:
                    signal.pidfd_send_signal(end, signal.SIGKILL)
                    select.select([end], [], [], 1)
            self.process.poll()
        self.process.wait(DEADLINE)
        os.close(self._fifo)
        self._log.close()
        shutil.rmtree(self.home, ignore_errors=True)


@contextlib.contextmanager
def pidfd(pid: int) -> Iterator[int]:
    """Open a pidfd for the length of a block."""
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)


def all_processes() -> list[int]:
    """Return the numbers of all processes that we can see."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _has_mark(pid: int, mark: bytes, end: bytes) -> bool:
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes().split(end)
    except OSError:  # gone, or another user's
        return False


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(") ")[2][:1] not in "ZX"


def pss(pid: int) -> float:
    """Return a process's proportional share of memory in MB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def switches(pid: int) -> int:
    """Return how often a process has been scheduled."""
    found = 0
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if "ctxt_switches" in line:
            found += int(line.split()[1])
    return found
