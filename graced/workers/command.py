"""The worker that needs no code: a job is a command line, run as a subprocess.

Its output goes to the log line by line. What a job is and what becomes of it is said in
:mod:`.job_worker`.
"""

from __future__ import annotations

import os
import select
import signal
import time
from contextlib import contextmanager, suppress

from graced import units
from graced.host import process
from graced.host.scoreboard import CHILD_GROUP
from graced.queue.job import Discard, Failed
from graced.workers.job_worker import JobWorker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from subprocess import Popen
    from typing import Any

    from graced.queue.job import Job

MAX_LINE_BYTES = 8192  # bytes of one line of output; a longer one is logged in pieces
KEPT_OUTPUT_BYTES = 4096  # bytes of output kept with a failure
READ_BYTES = 1 << 16
MAX_READS = 16  # reads in a row, before signals and the end are looked at; a pipe holds one
NOT_FOUND, NOT_EXECUTABLE = 127, 126  # what a shell says of such a command
OPTIONS = ("cwd", "env", "timeout")


class Command(JobWorker):
    """Runs command lines: the payload is ``{"argv": ["convert", "in.png", "out.jpg"]}``.

    No shell is involved; write ``["sh", "-c", "…"]`` for one. Exit status 0 is done, all
    else a failed attempt. The command leads a process group; what is left of it when the
    command has ended is killed. A drain waits for the command; an interrupt ends its
    group, by SIGTERM, and by SIGKILL after half the pool's ``stop_timeout``.

    ``options``: ``env`` (variables, over the pool's), ``cwd``, ``timeout`` (of one command).
    """

    _cwd: str | None = None
    _env: Mapping[str, str] = {}
    _timeout: float | None = None

    def setup(self) -> None:
        """Read the pool's options. ValueError if one is wrong."""
        for name in self.options:
            if name not in OPTIONS:
                raise ValueError(f"options: unknown key {name!r}; there are {', '.join(OPTIONS)}")
        self._cwd = self.options.get("cwd")
        env = self.options.get("env") or {}
        self._env = {str(name): str(value) for name, value in env.items()}
        timeout = self.options.get("timeout")
        self._timeout = None if timeout is None else units.duration(str(timeout))

    def handle(self, job: Job) -> dict[str, int]:
        """Run the command to its end; return how it ended, or raise Failed with the same."""
        argv = _argv(job.payload)
        with self._locked() as lock:
            run = _Run(self, job, self._start(argv, job, lock))
            try:
                run.watch(self._timeout)
            finally:
                run.end(self._graced.context.pool.stop_timeout / 2)
        return run.result()

    def _start(self, argv: list[str], job: Job, lock: int | None) -> Popen[bytes]:
        import subprocess

        words = self._graced.writer.words  # of the memory that the main process sees
        locks = () if lock is None else (lock,)

        def lead_a_group() -> None:
            """In the child: be found, whenever the worker is killed. The order matters.

            Until it has left the worker's group it dies with that.
            """
            words[CHILD_GROUP] = os.getpid()
            os.setpgid(0, 0)
            for fd in locks:
                self._end.name_group(fd, os.getpid())
            process.set_parent_death_signal(signal.SIGKILL)

        about = {"GRACED_JOB_ID": str(job.id), "GRACED_JOB_ATTEMPT": str(job.attempt)}
        try:
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self._cwd,
                env={**os.environ, **self._env, **about},
                pass_fds=locks,
                preexec_fn=lead_a_group,  # noqa: PLW1509  # workers of this class have no threads
            )
        except OSError as error:
            words[CHILD_GROUP] = 0
            raise _no_start(argv[0], self._cwd, error) from None
        except ValueError as error:  # a NUL in an argument
            words[CHILD_GROUP] = 0
            raise Discard(f"a command line that cannot be run: {error}") from None

    @contextmanager
    def _locked(self) -> Iterator[int | None]:
        """Hold the lock that says that the command of this job is at work, whoever has died."""
        if self._graced.context.queue is None:
            yield None
            return
        with self._end.command_lock() as lock:
            yield lock


class _Run:
    """One command from its start to its end."""

    def __init__(self, worker: Command, job: Job, popen: Popen[bytes]) -> None:
        assert popen.stdout is not None
        self._runtime = worker._graced
        self._log = worker._graced.log.bind(job=job.id)
        self._popen = popen
        self._pidfd = os.pidfd_open(popen.pid)
        self._output = os.dup(popen.stdout.fileno())
        popen.stdout.close()
        os.set_blocking(self._output, False)
        self._wakeups = self._runtime.wakeup.fileno()
        self._silent = False
        self._line = bytearray()
        self._tail = bytearray()
        self._timed_out = False
        self._poll = select.poll()
        self._poll.register(self._pidfd, select.POLLIN)
        self._poll.register(self._output, select.POLLIN)
        self._poll.register(self._wakeups, select.POLLIN)

    def watch(self, timeout: float | None) -> None:
        """Log what it says until it has ended. WorkerInterrupt passes through here."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            if self._runtime.due():
                self._runtime.interrupt()
            ready = self._hear(_left(end))
            if self._pidfd in ready:
                return
            if end is not None and time.monotonic() >= end:
                self._timed_out = True
                return

    def end(self, patience: float) -> None:
        """Have nothing of its group left, and take its exit status."""
        popen, group = self._popen, self._popen.pid
        try:
            if not self._has_ended():
                with suppress(PermissionError):  # it has become another user's: it is awaited
                    os.killpg(group, signal.SIGTERM)
                self._await_end(patience)
            process.end_group(group)  # before its number is free for others
            popen.wait()
        finally:
            self._runtime.writer.words[CHILD_GROUP] = 0
            self._read()
            self._say(self._line)
            os.close(self._output)
            os.close(self._pidfd)

    def result(self) -> dict[str, int]:
        """Return how it ended; Failed if that was not well."""
        code = self._popen.returncode
        if code == 0 and not self._timed_out:
            return {"exit": 0}
        facts: dict[str, Any] = {"result": {"exit": code} if code >= 0 else {"signal": -code}}
        how = f"exited with status {code}" if code >= 0 else _killed_by(-code)
        if self._timed_out:
            how = f"took too long and was ended: {how}"
            facts["timed_out"] = True
        raise Failed(how, **facts, output=self._tail.decode(errors="backslashreplace"))

    def _has_ended(self) -> bool:
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._popen.pid, flags) is not None

    def _await_end(self, patience: float) -> None:
        end = time.monotonic() + patience
        while time.monotonic() < end and self._pidfd not in self._hear(_left(end)):
            pass

    # -- what it says

    def _hear(self, seconds: float | None) -> set[int]:
        """Wait for output, its end, or a signal to us; the round's clock runs meanwhile."""
        ready = {fd for fd, _ in self._poll.poll(None if seconds is None else seconds * 1000)}
        if self._wakeups in ready:
            _drain(self._wakeups)
        if self._output in ready:
            self._read()
        return ready

    def _read(self) -> None:
        """Log what has been written so far, up to a bound: there may be no end of it."""
        for _ in range(MAX_READS):
            data = None if self._silent else _drain(self._output)
            if data is None:
                return
            if not data:
                self._silent = True
                self._poll.unregister(self._output)
                return
            self._tail += data
            del self._tail[:-KEPT_OUTPUT_BYTES]
            *lines, rest = (self._line + data).split(b"\n")
            for line in lines:
                self._say(line)
            self._line = rest
            while len(self._line) > MAX_LINE_BYTES:
                self._say(self._line[:MAX_LINE_BYTES])
                del self._line[:MAX_LINE_BYTES]

    def _say(self, line: bytearray) -> None:
        for at in range(0, len(line), MAX_LINE_BYTES):
            piece = line[at : at + MAX_LINE_BYTES].rstrip(b"\r")
            self._log.info(piece.decode(errors="backslashreplace"))


def _drain(fd: int) -> bytes | None:
    """Return what can be read at once, b"" at the end, None if there is nothing yet."""
    try:
        return os.read(fd, READ_BYTES)
    except BlockingIOError:
        return None


def _left(end: float | None) -> float | None:
    return None if end is None else max(end - time.monotonic(), 0)


def _argv(payload: Any) -> list[str]:
    argv = payload.get("argv") if isinstance(payload, dict) else None
    if not isinstance(argv, list) or not argv or not all(isinstance(a, str) for a in argv):
        raise Discard('the payload is no command line; write {"argv": ["command", "argument"]}')
    return argv


def _no_start(command: str, cwd: str | None, error: OSError) -> Failed:
    """Say why a command could not be started, as a shell would."""
    if cwd is not None and error.filename == cwd and not _can_be_entered(cwd):
        return Failed(f"options.cwd: {cwd}: {error.strerror}", result={"exit": NOT_EXECUTABLE})
    missing = (
        isinstance(error, FileNotFoundError) or not command
    )  # else each folder of PATH is tried
    why = "command not found" if missing else error.strerror or str(error)
    status = NOT_FOUND if missing else NOT_EXECUTABLE
    return Failed(f"{command or repr(command)}: {why}", result={"exit": status})


def _can_be_entered(folder: str) -> bool:
    """Whether a command that cannot be started and has the same name is to blame instead."""
    return os.path.isdir(folder) and os.access(folder, os.X_OK)


def _killed_by(number: int) -> str:
    return f"was killed by {process.signal_name(number)}"
