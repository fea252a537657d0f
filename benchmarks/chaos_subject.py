"""What the chaos is done to: a daemon in a folder of its own, its clients, its clock, its disk.

Nothing is decided here and nothing is judged. All processes carry a mark in their environment,
by which they are found, whoever has started them.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[1]
PROGRAMS = Path(__file__).parent / "programs"
MARK = "GRACED_CHAOS"
CLIENT_TIMEOUT = 150.0  # seconds; a client that takes longer hangs
STOP_TIMEOUT = 120.0  # seconds; far beyond the ladder of the pools below
DISK = "48m"
_LIMITS: dict[str, Any] = {
    "drain_timeout": "5s",
    "stop_timeout": "2s",
    "ready_timeout": "30s",
    "backoff": {"first": "100ms", "limit": "1s"},
}
_QUEUE: dict[str, Any] = {
    "max_attempts": 20,
    "retry": {"first": "100ms", "limit": "1s"},
    "keep_done": "1000d",  # by a clock that may be set
    "round_timeout": "8s",
}
POOLS: dict[str, Any] = {
    "jobs": {"worker": "chaos_work:Jobs", "workers": 3, **_LIMITS, **_QUEUE},
    "commands": {"worker": "graced.workers:Command", "workers": 2, **_LIMITS, **_QUEUE},
    "loop": {"worker": "chaos_work:Loop", "workers": 2, "max_rounds": 100, **_LIMITS},
}
QUEUES = ("jobs", "commands")


class Ended(NamedTuple):
    """What became of a client."""

    status: int
    out: str
    err: str


class Client:
    """A graced command under way; its output lies in files, so nothing waits for a reader."""

    def __init__(
        self, words: list[str], environ: dict[str, str], cwd: Path, stdin: str | None
    ) -> None:
        self.words = words
        self.until = time.monotonic() + CLIENT_TIMEOUT
        self._out = tempfile.TemporaryFile("w+", dir=cwd)  # noqa: SIM115  # until close()
        self._err = tempfile.TemporaryFile("w+", dir=cwd)  # noqa: SIM115  # until close()
        with tempfile.TemporaryFile("w+", dir=cwd) as source:
            source.write(stdin or "")
            source.seek(0)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "graced", *words],
                cwd=cwd, env=environ, stdin=source, stdout=self._out, stderr=self._err,
            )  # fmt: skip

    def ended(self) -> Ended | None:
        """Return how it ended; None while it runs."""
        if self.process.poll() is None:
            return None
        return Ended(self.process.returncode, _all_of(self._out), _all_of(self._err))

    def wait(self) -> Ended | None:
        """Wait for its end; None if it hangs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(max(self.until - time.monotonic(), 0.1))
        return self.ended()

    def close(self) -> None:
        """Leave nothing of it behind."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._out.close()
        self._err.close()


def _all_of(file: Any) -> str:
    file.seek(0)
    return str(file.read())


class Subject:
    """The daemon, and the world it lives in; a context manager that leaves nothing behind."""

    def __init__(self, *, disk: bool) -> None:
        """With `disk` its state lies on a small file system; that needs a mount namespace."""
        self.home = Path(tempfile.mkdtemp(prefix="graced-chaos-"))
        self.config = self.home / "config.yaml"
        self.clients_config = self.home / "clients.yaml"  # never broken: finds the daemon
        self.run = self.home / "run"
        self.state = self.home / "state"
        self.records = self.home / "records"
        self.log = self.home / "log"
        self.statuses: list[int] = []  # how each main process has ended
        self.stopped: dict[int, int] = {}  # processes under SIGSTOP, with a pidfd on each
        self.has_disk = disk
        self.mark = uuid.uuid4().hex
        self.process: subprocess.Popen[bytes] | None = None
        for folder in ("code", "locks", "state"):
            (self.home / folder).mkdir()
        self.records.touch()
        self._log = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
        if disk:
            line = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0755", "none", str(self.state)]
            subprocess.run(line, check=True)
        self.clock = self.home / "clock"
        self.clock.write_bytes(bytes(8))
        self.has_clock = self._build_clock()
        self.restore()
        shutil.copyfile(self.config, self.clients_config)

    def _build_clock(self) -> bool:
        if (compiler := shutil.which("cc") or shutil.which("gcc")) is None:
            return False
        line = [compiler, "-O1", "-shared", "-fPIC", "-o", str(self.home / "wallclock.so")]
        done = subprocess.run([*line, str(PROGRAMS / "wallclock.c"), "-ldl"], check=False)
        return done.returncode == 0

    def environment(self) -> dict[str, str]:
        """Return what all processes of the run are given."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("GRACED", "NOTIFY"))}
        shim = {"LD_PRELOAD": str(self.home / "wallclock.so")} if self.has_clock else {}
        return {
            **kept, **shim,
            "PYTHONPATH": str(ROOT),
            "CHAOS_HOME": str(self.home),
            "CHAOS_CLOCK": str(self.clock),
            "SPT_NOENV": "1",  # a process title must not overwrite the mark
            MARK: self.mark,
        }  # fmt: skip

    # -- configuration and code --------------------------------------------------------

    def restore(self, **changes: dict[str, Any]) -> None:
        """Write good code and a good configuration, the latter with changes to pools."""
        for name in ("chaos_work.py", "chaos_command.sh"):
            _replace(self.home / "code" / name, (PROGRAMS / name).read_text())
        pools = {
            name: {**pool, "path": [str(self.home / "code")], **changes.get(name, {})}
            for name, pool in POOLS.items()
        }
        top = {"name": "chaos", "runtime_dir": str(self.run), "state_dir": str(self.state)}
        _replace(self.config, yaml.safe_dump({**top, "pools": pools}, sort_keys=False))

    def add_code(self, code: str) -> None:
        """Put something at the end of the module of workers."""
        file = self.home / "code" / "chaos_work.py"
        _replace(file, f"{file.read_text()}\n\n{code}\n")

    # -- the daemon, and those that ask it ------------------------------------------------

    def client(self, *words: str, stdin: str | None = None) -> Client:
        """Start a graced command."""
        line = [words[0], "-c", str(self.clients_config), *words[1:]]
        return Client(line, self.environment(), self.home, stdin)

    def ask(self, *words: str, stdin: str | None = None) -> Ended | None:
        """Run a graced command to its end; None if it hangs."""
        client = self.client(*words, stdin=stdin)
        try:
            return client.wait()
        finally:
            client.close()

    def start(self) -> None:
        """Start the daemon; it may take its time to be ready."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "graced", "run", "-c", str(self.config)],
            cwd=self.home,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    @property
    def runs(self) -> bool:
        """Whether there is a main process."""
        return self.process is not None and self.process.poll() is None

    def ended(self) -> int | None:
        """Wait for the main process's end; return its status, None if it does not end."""
        assert self.process is not None
        try:
            status = self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            return None
        self.statuses.append(status)
        self.process = None
        return status

    def signal(self, number: int) -> None:
        """Send a signal to the main process."""
        assert self.process is not None
        self.process.send_signal(number)

    # -- processes ------------------------------------------------------------------------

    def processes(self) -> list[tuple[int, str]]:
        """Return all living processes of the run but this one, by number, with their names."""
        needle = f"{MARK}={self.mark}".encode()
        found = []
        for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
            with contextlib.suppress(OSError):
                if needle in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    found.append((pid, Path(f"/proc/{pid}/comm").read_text().strip()))
        return found

    def of_kind(self, kind: str) -> list[int]:
        """Return the processes of the daemon's, and of dead ones, of one kind."""
        return [pid for pid, name in self.processes() if name == f"graced-{kind}"]

    def take_stock(self) -> None:
        """Write down how all stands, for whoever looks for the cause of a fault."""
        with (self.home / "stock").open("w") as file:
            for pid, name in self.processes():
                with contextlib.suppress(OSError):
                    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                    where = Path(f"/proc/{pid}/wchan").read_text()
                    file.write(f"{pid} {name} {state[:4]} {where}\n")
            file.write(f"under SIGSTOP: {sorted(self.stopped)}\n")
            for words in (
                ["status", "--json"],
                ["stacks"],
                *(["jobs", "--pool", p] for p in QUEUES),
            ):
                ended = self.ask(*words)
                file.write(f"{words}: {ended.out + ended.err if ended else 'hangs'}\n")
        shutil.copytree(self.state, self.home / "state-then", ignore=_sockets)

    def pause(self, pid: int) -> None:
        """Stop a process until :meth:`go_on`."""
        with contextlib.suppress(ProcessLookupError):
            self.stopped.setdefault(pid, os.pidfd_open(pid))
            os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let all go on that were stopped."""
        for fd in self.stopped.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGCONT)
            os.close(fd)
        self.stopped.clear()

    # -- clock and disk --------------------------------------------------------------------

    def set_clock(self, seconds: int) -> None:
        """Let the wall clock of all these processes be wrong by so much."""
        with self.clock.open("r+b") as file:
            file.write(struct.pack("q", seconds))

    def fill_disk(self) -> None:
        """Leave no room where the queues are."""
        with (self.state / "filler").open("wb", 0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    def free_disk(self) -> None:
        """Give the room back."""
        (self.state / "filler").unlink(missing_ok=True)

    # -- waiting, and the way out --------------------------------------------------------

    def jobs(self, pool: str) -> list[dict[str, Any]] | None:
        """Return all jobs of a queue, with payload and evidence; None if they cannot be told."""
        ended = self.ask("jobs", "--pool", pool, "--json")
        if ended is None or ended.status != 0:
            return None
        return [json.loads(line) for line in ended.out.splitlines()]

    def __enter__(self) -> Subject:
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on()
        while left := self.processes():
            for pid, _name in left:
                with contextlib.suppress(ProcessLookupError):
                    fd = os.pidfd_open(pid)
                    os.kill(pid, signal.SIGKILL)
                    select.select([fd], [], [], 1)
                    os.close(fd)
            if self.process is not None:
                self.process.poll()
        os.close(self._log)
        if self.has_disk:
            subprocess.run(["umount", "--lazy", str(self.state)], check=False)

    def remove(self) -> None:
        """Remove all that the run has written."""
        shutil.rmtree(self.home)


def _replace(path: Path, text: str) -> None:
    """Write a file of which nobody sees a half."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)


def _sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_socket() or name == "filler"]


def until(true: Callable[[], Any], seconds: float) -> bool:
    """Look again and again whether something is true; return False if it never was."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True
