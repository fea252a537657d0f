"""The real daemon in a test: started in a folder of its own, watched, and always cleaned up.

:class:`DaemonProcess` is `graced run` between a fake systemd, its notify socket, and a pipe that
takes its log. :class:`Daemon` has what users' tests ask of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

from graced.testing.feeds import DEADLINE, Feed, Line, NotifySocket, Pump, Splitter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any, Self, TypeVar

    from graced.client.queue import Queue

    T = TypeVar("T")

SOON = 20.0  # seconds; what comes at once has come by then on any machine, and nothing else has
LOOK_S = 0.05  # seconds between two looks at what does not tell that it has changed
MARK = "GRACED_TEST"  # in the environment of all that a test starts, to find it again


class CommandFailed(AssertionError):
    """A command of graced has failed; `exit_code` and the text say how."""

    def __init__(self, result: subprocess.CompletedProcess[str]) -> None:
        self.exit_code = result.returncode
        said = (result.stderr or result.stdout).strip()
        super().__init__(said or f"exit code {result.returncode}: {result.args}")


class DaemonProcess:
    """`graced run` as a child of the test; a context manager that leaves nothing behind."""

    def __init__(self, config: Path, command: Sequence[str] = ()) -> None:
        self.config = config
        self.mark = uuid.uuid4().hex
        self.short = Path(tempfile.mkdtemp(prefix="graced-", dir="/tmp"))  # socket names are short
        self.short.chmod(0o755)
        self.environ: dict[str, str] = {}
        self.python = sys.executable
        self.process: subprocess.Popen[bytes] | None = None
        self.changed = threading.Condition(threading.RLock())
        self.pump = Pump()
        self.log = self.feed("log")
        self.notices = self.feed("notices")
        self.notify = NotifySocket(str(self.short / "notify"), self.notices)
        (self.short / "notify").chmod(0o777)
        self.pump.add(self.notify.socket.fileno(), self.notify)
        self._command = command
        self._logs = 0  # pipes that may still be written to
        self._log_fds: list[int] = []

    def feed(self, name: str) -> Feed:
        """Return an empty feed, which is over when the daemon is."""
        return Feed(name, self.changed, self.silent, self.pump.read_all)

    # -- running

    def environment(self) -> dict[str, str]:
        """Return what the daemon finds in its environment."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("GRACED", "NOTIFY"))}
        return {
            **kept,
            "NOTIFY_SOCKET": str(self.short / "notify"),
            "SPT_NOENV": "1",  # a process title must not overwrite the mark
            MARK: self.mark,
            **self.environ,
        }

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of one of graced's commands."""
        return [*(self._command or (self.python, "-m", "graced")), *arguments]

    def start(self, *arguments: str, wrap: tuple[str, ...] = ()) -> Self:
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

    def ready(self, times: int = 1, deadline: float = DEADLINE) -> Self:
        """Wait for READY=1; fail at once if the daemon ends instead."""
        try:
            self.notices.wait("^READY=1$", times, deadline)
        except AssertionError as error:
            raise AssertionError(f"not ready; {self.said()}") from error
        return self

    def said(self) -> str:
        """Return what there is to read of it when something has failed."""
        return f"its log:\n{self.log}"

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a graced command to its end, in the daemon's environment."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.short,
            env={**self.environment(), **self.address()},
            stdin=subprocess.DEVNULL,
            text=True,
            capture_output=True,
            timeout=DEADLINE,
            check=False,
            **options,
        )

    def address(self) -> dict[str, str]:
        """Return the variables by which a command finds the daemon."""
        return {"GRACED_CONFIG": str(self.config)}

    def demand(self, *arguments: str) -> str:
        """Run a command; return what it prints. CommandFailed if it does not succeed."""
        result = self.run(*arguments)
        if result.returncode != 0:
            raise CommandFailed(result)
        return result.stdout

    def status(self) -> dict[str, Any]:
        """Return what `graced status --json` prints."""
        return dict(json.loads(self.demand("status", "--json")))

    def until(self, what: Callable[[], T | None], deadline: float = DEADLINE) -> T:
        """Wait until the condition holds, looking again at every arrival and every 50 ms."""
        end = time.monotonic() + deadline
        while not (value := what()):
            assert time.monotonic() < end, f"never true; {self.said()}"
            with self.changed:
                self.changed.wait(LOOK_S)
        return value

    # -- its processes

    @property
    def pid(self) -> int:
        """The number of the main process."""
        assert self.process is not None, "it has not been started"
        return self.process.pid

    def send(self, number: int) -> float:
        """Signal the main process; return the time before."""
        at = time.monotonic()
        os.kill(self.pid, number)
        return at

    def ended(self, code: int | None = None, deadline: float = DEADLINE) -> float:
        """Wait for the main process's end, check its exit code, return the time of the end."""
        assert self.process is not None, "it has not been started"
        if self.process.returncode is None:
            with pidfd(self.pid) as ending:
                came = bool(select.select([ending], [], [], deadline)[0])
        else:
            came = True
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

    # -- the way out

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill all that is left of it, and remove its folder."""
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
        for fd in self._log_fds:
            os.close(fd)
        self._log_fds.clear()
        shutil.rmtree(self.short, ignore_errors=True)

    def _logged(self, text: str) -> None:
        self.log.add(Line(time.monotonic(), 0, text))

    def _log_over(self) -> None:
        with self.changed:
            self._logs -= 1
            self.changed.notify_all()


class Daemon(DaemonProcess):
    """A daemon of a test's own, ready: what the fixture ``daemon`` returns.

    `config` is the path of a configuration, or one as a mapping or as a text of several lines,
    which is written to a folder of the daemon's own: relative paths start there. Sockets and
    queues are in that folder, the log is in ``log``, and it runs as the test's own user, whatever
    the configuration says. `sets` are values over those of the file, as ``--set`` takes them.
    `env` is added to its environment.
    Workers can import what the test can.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | str | os.PathLike[str],
        *sets: str,
        env: Mapping[str, str] | None = None,
        command: Sequence[str] = (),
    ) -> None:
        is_text = isinstance(config, str) and "\n" in config
        is_path = isinstance(config, (str, os.PathLike)) and not is_text
        written = Path(config).absolute() if is_path else None  # type: ignore[arg-type]
        super().__init__(written or Path("config.yaml"), command)
        if written is None:
            self.config = self.short / "config.yaml"
            text = config if isinstance(config, str) else _yaml(config)
            self.config.write_text(text, encoding="utf-8")
        self.environ = dict(env or {})
        self._queues: dict[str, Queue] = {}
        own = ("log.file=null", "user=null", "group=null")
        folders = f"runtime_dir={self.short}/run", f"state_dir={self.short}/state"
        self.sets = [word for value in (*own, *sets, *folders) for word in ("--set", value)]

    @property
    def folder(self) -> Path:
        """A folder that goes with the daemon."""
        return self.short

    def environment(self) -> dict[str, str]:
        """Return what the daemon finds in its environment: there is what the test can import."""
        path = os.pathsep.join(dict.fromkeys(os.path.abspath(p) for p in sys.path))
        return {**super().environment(), "PYTHONPATH": path, **self.environ}

    def address(self) -> dict[str, str]:
        """Return the variables by which a command finds the daemon."""
        return {"GRACED_SOCKET": f"{self.short}/run/control.sock", **super().address()}

    def start(self, *arguments: str, wrap: tuple[str, ...] = ()) -> Self:
        """Start it, again where it was stopped or killed: its queues are still there."""
        return super().start(*self.sets, *arguments, wrap=wrap)

    def queue(self, pool: str | None = None) -> Queue:
        """Return the queue of a pool; of the only one that has a queue without a name."""
        from graced.client.find import DaemonPlace, Manner
        from graced.client.queue import PATIENCE, Queue

        folder = f"{self.short}/run"
        name = pool or self.until(lambda: _only_pool(folder))
        if name not in self._queues:
            self._queues[name] = Queue(DaemonPlace(folder, name, Manner(patience=PATIENCE)))
        return self._queues[name]

    def submit(self, payload: Any, *, pool: str | None = None, **terms: Any) -> int:
        """Submit a job; return its number.

        `pool` is needed where several have a queue. `terms` are those of
        :meth:`graced.Queue.submit`: ``delay``, ``priority``, ``unique``, ``max_attempts``.
        """
        return self.queue(pool).submit(payload, **terms)

    def wait(self, number: int, *, pool: str | None = None, timeout: float = DEADLINE) -> Any:
        """Wait for a job's end; return its result.

        graced.JobDead, with the evidence, if it is dead. TimeoutError after `timeout` seconds.
        """
        return self.queue(pool).wait(number, timeout)

    def reload(self) -> None:
        """Reload, and return when it is over. CommandFailed, with the reason, if it is refused."""
        self.demand("reload")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send the main process a signal."""
        self.send(number)

    def stop(self, *, now: bool = False, deadline: float = DEADLINE) -> int:
        """Drain it, or interrupt it `now`; return its exit code when it is gone."""
        assert self.process is not None, "it has not been started"
        if not has_ended(self.process):
            self.send(signal.SIGINT if now else signal.SIGTERM)
        self.ended(deadline=deadline)
        return self.process.returncode or 0

    def close(self) -> None:
        """Interrupt what still runs, so that workers can clean up; then leave nothing behind."""
        with contextlib.suppress(AssertionError):
            if self.process is not None:
                self.stop(now=True, deadline=SOON)
        for each in self._queues.values():
            each.close()
        super().close()


def _only_pool(folder: str) -> str | None:
    """Return the pool that has a queue, None if none has as yet."""
    from graced.queue.address import pools_with_socket

    pools = pools_with_socket(folder)
    assert len(pools) < 2, f"say which pool: {', '.join(pools)} have a queue"
    return pools[0] if pools else None


def _yaml(config: Any) -> str:
    import yaml

    text: str = yaml.safe_dump(config, sort_keys=False)
    return text


# Processes


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
        except OSError:  # it has just ended, or is another user's
            continue


def comm(pid: int) -> str:
    """Return a process's name, as `ps -o comm` shows it; "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
