"""The real program under test: started, watched, signalled, and always cleaned up.

A :class:`Daemon` is `graced run` in a process of its own, between a fake systemd (its notify
socket), a FIFO on which the workers in `sample_workers` report, and a pipe that takes its log. One
thread reads all three, so what a test waits for is an arrival, never a stretch of time; the
deadlines are only reached by failures.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

TESTS = Path(__file__).parent
ROOT = TESTS.parent
DEADLINE = 60.0
SOON = 20.0  # seconds; what comes at once has come by then on any machine, and nothing else has
# The tests' own workers are found, and nobody is killed because the machine had to wait.
USUAL = {"path": [str(TESTS)], "stop_timeout": "30s"}
MARK = "GRACED_TEST"  # in the environment of all that a test starts, to find it again
T = TypeVar("T")


class Line(NamedTuple):
    """One line or datagram that arrived: when, from which process, and what it said."""

    at: float
    pid: int
    text: str

    @property
    def words(self) -> list[str]:
        return self.text.split()


class Feed:
    """Lines in the order of their arrival, to look through and to wait for.

    What was said is in a pipe or a socket first. Whoever looks through the lines gets all that
    was said until he looked, whether it had been read by then or not.
    """

    def __init__(
        self,
        name: str,
        changed: threading.Condition,
        over: Callable[[], bool],
        read_all: Callable[[], None],
    ) -> None:
        self.name = name
        self._lines: list[Line] = []
        self._changed = changed
        self._over = over  # nobody is left who could still say something
        self._read_all = read_all

    def add(self, line: Line) -> None:
        with self._changed:
            self._lines.append(line)
            self._changed.notify_all()

    @property
    def lines(self) -> list[Line]:
        """All that was said so far."""
        self._read_all()
        with self._changed:
            return list(self._lines)

    def matching(self, pattern: str) -> list[Line]:
        """Return the lines so far in which the regular expression is found."""
        return [line for line in self.lines if re.search(pattern, line.text)]

    def wait(self, pattern: str, count: int = 1, deadline: float = DEADLINE) -> list[Line]:
        """Wait until `count` lines match since the daemon's start, and return them."""
        end = time.monotonic() + deadline
        over = False
        while True:
            lines = self.lines
            found = [line for line in lines if re.search(pattern, line.text)]
            if len(found) >= count:
                return found
            left = end - time.monotonic()
            if over or left <= 0:
                said = "\n".join(line.text for line in lines[-60:])
                which = f"{len(found)} of {count} {pattern!r}"
                raise AssertionError(f"{self.name}: {which} came; it said:\n{said}")
            over = self._over()  # then what was said last is seen at one more look
            if not over:
                self._grow(len(lines), min(left, 0.5))

    def _grow(self, size: int, seconds: float) -> None:
        """Wait until there are more lines than so many."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._lines) > size, seconds)

    def forget(self) -> None:
        """Begin anew, with what is said from now on."""
        self._read_all()
        with self._changed:
            self._lines.clear()

    def collect(self, seconds: float) -> list[Line]:
        """Return all that arrives in the next seconds: for what must not come too often."""
        start, end = len(self.lines), time.monotonic() + seconds
        with self._changed:
            while (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
        return self.lines[start:]

    def __str__(self) -> str:
        return "\n".join(line.text for line in self.lines)


class Pump(threading.Thread):
    """Reads every source as soon as there is something, until told to end."""

    def __init__(self) -> None:
        super().__init__(daemon=True, name="pump")
        self._poll = select.poll()
        self._sources: dict[int, Callable[[], bool]] = {}
        self._wake_read, self._wake_write = os.pipe()
        self._over = False
        self._asked: collections.deque[threading.Event] = collections.deque()
        self.add(self._wake_read, lambda: bool(os.read(self._wake_read, 1)))

    def add(self, fd: int, read: Callable[[], bool]) -> None:
        """Call `read` whenever fd has something, until it returns False."""
        self._sources[fd] = read
        self._poll.register(fd, select.POLLIN | select.POLLHUP)
        os.write(self._wake_write, b"x")

    def run(self) -> None:
        while not self._over:
            self._read(self._poll.poll())
            asked = [self._asked.popleft() for _ in range(len(self._asked))]
            for _ in range(1000 if asked else 0):  # there may be no end of it
                if not (ready := self._poll.poll(0)):
                    break
                self._read(ready)
            for done in asked:
                done.set()

    def _read(self, ready: list[tuple[int, int]]) -> None:
        for fd, _ in ready:
            if not self._sources[fd]():
                self._poll.unregister(fd)

    def read_all(self) -> None:
        """Return when all has been read that is there to be read now."""
        if not self.is_alive():
            return
        done = threading.Event()
        self._asked.append(done)
        os.write(self._wake_write, b"x")
        while not done.wait(1.0) and self.is_alive():
            pass

    def end(self) -> None:
        self._over = True
        if self.is_alive():
            os.write(self._wake_write, b"x")
            self.join(DEADLINE)
        os.close(self._wake_read)
        os.close(self._wake_write)


class Splitter:
    """Cuts what arrives on a descriptor into lines, and tells when it ends."""

    def __init__(self, fd: int, take: Callable[[str], None], ended: Callable[[], None]) -> None:
        self.fd, self.take, self.ended = fd, take, ended
        self.rest = b""

    def __call__(self) -> bool:
        data = os.read(self.fd, 65536)
        *whole, self.rest = (self.rest + data).split(b"\n")
        for line in whole:
            self.take(line.decode(errors="replace"))
        if not data:
            self.ended()
        return bool(data)


class NotifySocket:
    """What systemd does with NOTIFY_SOCKET: takes datagrams, with the sender's credentials."""

    def __init__(self, address: str, feed: Feed) -> None:
        self.feed = feed
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind(address)

    def __call__(self) -> bool:
        data, extra, _, _ = self.socket.recvmsg(65536, socket.CMSG_SPACE(12))
        pid = 0
        for level, kind, value in extra:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                pid = struct.unpack("iii", value)[0]
        now = time.monotonic()
        for line in data.decode("utf-8").splitlines():  # strict: a bad byte fails the test
            self.feed.add(Line(now, pid, line))
        return True


class Daemon:
    """`graced run` with pools from a test; a context manager that leaves nothing behind."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.mark = uuid.uuid4().hex
        self.short = Path(tempfile.mkdtemp(prefix="graced-", dir="/tmp"))  # socket names are short
        self.short.chmod(0o755)
        self.config = home / "config.yaml"
        self.settings: dict[str, Any] = {}
        self.environ: dict[str, str] = {}
        self.python = sys.executable
        self.process: subprocess.Popen[bytes] | None = None
        self.changed = threading.Condition(threading.RLock())
        self._logs = 0  # pipes that somebody may still write to
        self.pump = Pump()
        self.log = Feed("log", self.changed, self.silent, self.pump.read_all)
        self.events = Feed("events", self.changed, self.silent, self.pump.read_all)
        self.notices = Feed("notices", self.changed, self.silent, self.pump.read_all)
        self._fifo = self.short / "events"
        os.mkfifo(self._fifo)
        self._fifo.chmod(0o666)
        self._fifo_fd = os.open(self._fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self.notify = NotifySocket(str(self.short / "notify"), self.notices)
        (self.short / "notify").chmod(0o777)
        self._log_fds: list[int] = []
        self._gate_fd: int | None = None
        self.pump.add(self._fifo_fd, Splitter(self._fifo_fd, self._event, lambda: None))
        self.pump.add(self.notify.socket.fileno(), self.notify)

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
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("GRACED", "NOTIFY"))}
        return {
            **kept,
            "PYTHONPATH": str(ROOT),
            "NOTIFY_SOCKET": str(self.short / "notify"),
            "EVENTS": str(self._fifo),
            "SPT_NOENV": "1",  # a process title must not overwrite the mark
            MARK: self.mark,
            **self.environ,
        }

    def command(self, *arguments: str) -> list[str]:
        return [self.python, "-m", "graced", *arguments]

    def start(self, *arguments: str, wrap: tuple[str, ...] = ()) -> Daemon:
        """Start `graced run`, or what `wrap` makes of its command line."""
        line = [*wrap, *self.command("run", "-c", str(self.config), *arguments)]
        read, write = os.pipe()
        self._logs += 1
        self.process = subprocess.Popen(
            line,
            cwd=self.short,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=write,
            stderr=write,
            start_new_session=True,
        )
        os.close(write)
        self._log_fds.append(read)
        self.pump.add(read, Splitter(read, self._logged, self._log_over))
        if not self.pump.is_alive():
            self.pump.start()
        return self

    def silent(self) -> bool:
        """Whether all that could still say something are gone: its log is closed, and it ended."""
        return self.process is not None and self._logs == 0 and has_ended(self.process)

    def ready(self, times: int = 1, deadline: float = DEADLINE) -> Daemon:
        """Wait for READY=1; fail at once if the daemon ends instead."""
        try:
            self.notices.wait("^READY=1$", times, deadline)
        except AssertionError as error:
            said = f"its log:\n{self.log}\nand events:\n{self.events}"
            raise AssertionError(f"not ready; {said}") from error
        return self

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a graced command to its end, in the daemon's environment."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.short,
            env={**self.environment(), "GRACED_CONFIG": str(self.config)},
            stdin=subprocess.DEVNULL,
            text=True,
            capture_output=True,
            timeout=DEADLINE,
            check=False,
            **options,
        )

    def status(self) -> dict[str, Any]:
        result = self.run("status", "--json")
        assert result.returncode == 0, result.stderr
        return dict(json.loads(result.stdout))

    def until(self, what: Callable[[], T], deadline: float = DEADLINE) -> T:
        """Wait until the condition holds, looking again at every arrival and every 50 ms."""
        end = time.monotonic() + deadline
        while not (value := what()):
            assert time.monotonic() < end, f"never true; log:\n{self.log}\nevents:\n{self.events}"
            with self.changed:
                self.changed.wait(0.05)
        return value

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

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def send(self, number: signal.Signals) -> float:
        """Signal the main process; return the time before."""
        at = time.monotonic()
        os.kill(self.pid, number)
        return at

    def workers(self, pool: str = "jobs") -> list[dict[str, Any]]:
        return list(self.status()["pools"][pool]["workers"])

    def worker_pids(self, pool: str = "jobs") -> list[int]:
        return [worker["pid"] for worker in self.workers(pool)]

    def ended(self, code: int | None = None, deadline: float = DEADLINE) -> float:
        """Wait for the main process's end, check its exit code, return the time of the end."""
        assert self.process is not None
        with pidfd(self.pid) as ending:
            came = bool(select.select([ending], [], [], deadline)[0])
        at = time.monotonic()
        assert came, f"still running after {deadline} s; log:\n{self.log}"
        actual = self.process.wait(DEADLINE)
        assert code is None or actual == code, f"exit code {actual}, not {code}; log:\n{self.log}"
        return at

    def left(self) -> dict[int, str]:
        """Return the processes this test has started and that still live, with their names."""
        own = {os.getpid()}
        return {pid: name for pid, name in marked(self.mark) if pid not in own}

    def nothing_left(self, deadline: float = SOON) -> float:
        """Wait until every process of this test is gone; return the time of the last one's end."""
        end = time.monotonic() + deadline
        while left := self.left():
            for pid in left:
                with contextlib.suppress(ProcessLookupError), pidfd(pid) as ending:
                    select.select([ending], [], [], max(0.0, end - time.monotonic()))
            assert time.monotonic() < end, f"left behind: {self.left()}; log:\n{self.log}"
        return time.monotonic()

    # The way out

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        while left := self.left():
            for pid in left:
                with contextlib.suppress(ProcessLookupError), pidfd(pid) as ending:
                    os.kill(pid, signal.SIGKILL)
                    select.select([ending], [], [], 1)
            if self.process is not None:
                self.process.poll()
        if self.process is not None:
            self.process.wait(DEADLINE)
        self.pump.end()
        self.notify.socket.close()
        for fd in (self._fifo_fd, *self._log_fds, self._gate_fd):
            if fd is not None:
                os.close(fd)
        shutil.rmtree(self.short, ignore_errors=True)

    def _event(self, text: str) -> None:
        at, pid, words = text.split(" ", 2)
        self.events.add(Line(float(at), int(pid), words))

    def _logged(self, text: str) -> None:
        self.log.add(Line(time.monotonic(), 0, text))

    def _log_over(self) -> None:
        with self.changed:
            self._logs -= 1
            self.changed.notify_all()


@contextlib.contextmanager
def pidfd(pid: int) -> Iterator[int]:
    """Open a pidfd for the length of a block."""
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Return whether a child has ended, and leave it to be reaped."""
    if process.returncode is not None:
        return True
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, process.pid, flags) is not None


def wait_gone(pids: list[int], deadline: float = DEADLINE) -> float:
    """Wait until all these processes are gone; return the time."""
    end = time.monotonic() + deadline
    for pid in pids:
        with contextlib.suppress(ProcessLookupError), pidfd(pid) as ending:
            assert select.select([ending], [], [], max(0.0, end - time.monotonic()))[0], pid
    return time.monotonic()


def marked(mark: str) -> Iterator[tuple[int, str]]:
    """Find the living processes with this mark in their environment."""
    needle = f"{MARK}={mark}".encode()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            environ = Path(f"/proc/{entry}/environ").read_bytes()
            if needle in environ.split(b"\0"):
                yield int(entry), comm(int(entry))
        except OSError:  # it has just ended
            continue


def comm(pid: int) -> str:
    """Return a process's name, as `ps -o comm` shows it; "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


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
