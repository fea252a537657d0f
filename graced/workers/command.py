"""The worker that needs no code: a job is a command line, run as a subprocess.

Its output goes to the log line by line. What a job is and what becomes of it is said in
:mod:`.job_worker`.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from errno import ENOENT

from graced import options
from graced.host import process
from graced.queue.job import Discard, Failed, Job
from graced.workers.child import Child, Start, StartError
from graced.workers.context import LoadError
from graced.workers.job_worker import JobWorker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

NOT_FOUND, NOT_EXECUTABLE = 127, 126  # what a shell says of such a command


class Command(JobWorker):
    """Runs command lines: the payload is ``{"argv": ["convert", "in.png", "out.jpg"]}``.

    No shell is involved; write ``["sh", "-c", "…"]`` for one. Exit status 0 is done, all
    else a failed attempt. The command leads a process group; what is left of it when the
    command has ended is killed. A drain waits for the command; an interrupt ends its
    group, by SIGTERM, and by SIGKILL after half the pool's ``stop_timeout``.

    ``options``: ``env`` (variables, over the pool's), ``cwd``, ``timeout`` (of one command).
    """

    _settings = options.CommandOptions()

    def setup(self) -> None:
        """Read the pool's options."""
        try:
            self._settings = options.command(self.options)
        except options.OptionError as error:
            raise LoadError(str(error)) from None

    def handle(self, job: Job) -> dict[str, int]:
        """Run the command to its end; return how it ended, or raise Failed with the same."""
        argv = _argv(job.payload)
        timeout = self._settings.timeout
        in_time = False
        with self._locked() as lock:
            child = self._start(argv, job, lock)
            try:
                in_time = child.watch(None if timeout is None else time.monotonic() + timeout)
            finally:
                exit = self._end_command(child)
        return _result(exit, child.tail, in_time=in_time)

    def _start(self, argv: list[str], job: Job, lock: int | None) -> Child:
        about = {"GRACED_JOB_ID": str(job.id), "GRACED_JOB_ATTEMPT": str(job.attempt)}
        locks = () if lock is None else (lock,)

        def lead(group: int) -> None:
            for fd in locks:
                self._end.name_group(fd, group)

        env = {**os.environ, **self._settings.env, **about}
        start = Start(tuple(argv), self._settings.cwd, env, locks, lead=lead)
        try:
            return Child(self._graced, start, self._graced.log.bind(job=job.id))
        except StartError as error:
            raise _no_start(argv[0], self._settings.cwd, error) from None
        except ValueError as error:  # a NUL in an argument
            raise Discard(f"a command line that cannot be run: {error}") from None

    def _end_command(self, child: Child) -> process.Exit:
        """Have nothing of its group left; one that has not ended may take a while to do so."""
        if not child.has_ended():
            child.signal_group(signal.SIGTERM)
            child.await_end(time.monotonic() + self._graced.context.pool.stop_timeout / 2)
        return child.end()

    @contextmanager
    def _locked(self) -> Iterator[int | None]:
        """Hold the lock that says that the command of this job is at work, whatever has died."""
        if self._graced.context.queue is None:
            yield None
            return
        with self._end.command_lock() as lock:
            yield lock


def _argv(payload: Any) -> list[str]:
    argv = payload.get("argv") if isinstance(payload, dict) else None
    if not isinstance(argv, list) or not argv or not all(isinstance(a, str) for a in argv):
        raise Discard('the payload is no command line; write {"argv": ["command", "argument"]}')
    return argv


def _no_start(command: str, cwd: str | None, error: StartError) -> Failed:
    """Say why a command could not be started, as a shell would."""
    if error.in_folder:
        return Failed(f"options.cwd: {cwd}: {error.strerror}", result={"exit": NOT_EXECUTABLE})
    missing = error.errno == ENOENT or not command  # else each folder of PATH is tried
    why = "command not found" if missing else error.strerror
    status = NOT_FOUND if missing else NOT_EXECUTABLE
    return Failed(f"{command or repr(command)}: {why}", result={"exit": status})


def _result(exit: process.Exit, tail: str, *, in_time: bool) -> dict[str, int]:
    """Return how it ended; Failed if that was not well."""
    exited = exit.code == os.CLD_EXITED
    if exited and exit.status == 0 and in_time:
        return {"exit": 0}
    facts: dict[str, Any] = {"result": {"exit" if exited else "signal": exit.status}}
    how = f"exited with status {exit.status}"
    if not exited:
        how = f"was killed by {process.signal_name(exit.status)}"
    if not in_time:
        how = f"took too long and was ended: {how}"
        facts["timed_out"] = True
    raise Failed(how, **facts, output=tail)

