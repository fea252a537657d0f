"""One worker in the foreground, at a terminal: `graced try`. No daemon, no queue, no fork.

It does one round as :mod:`.runtime` has it. Its signals come from the terminal; a debugger may
have it for as long as it likes, so nothing is timed.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time

from graced.exitcodes import FAILED, INTERRUPTED, OK, USAGE
from graced.host import process
from graced.host.scoreboard import ExitKind, Phase, WorkerRecord
from graced.log.console import complain, say
from graced.queue import jsonvalue
from graced.queue.job import Discard, Failed, Job, Raised, Retry
from graced.workers.base import Worker, set_up, tear_down
from graced.workers.context import Ended, ExitReport, SpawnOrder, WorkerContext, alone, exit_status
from graced.workers.importer import load_class
from graced.workers.job_worker import JobWorker, outcome_of
from graced.workers.runtime import NOTHING, Runtime, WorkerInterrupt
from graced.workers.socket_worker import SocketWorker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, NoReturn

    from graced.client.queue import Queue

AGAIN_S = 0.1  # seconds until an interrupt that could not be raised is tried again


class _Foreground(Runtime):
    """A runtime that a person interrupts: each time, not once."""

    _again: threading.Timer | None = None

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        """Raise, even if it has been raised before: a debugger may have taken that for itself."""
        if self.writer.phase > Phase.BUSY:
            return super()._on_interrupt(number, frame)
        self.raised = None
        super()._on_interrupt(number, frame)
        # It was not raised, as in code of graced: where there is a main process, that repeats it.
        self.be_quiet()
        main = threading.get_ident(), signal.SIGINT
        self._again = threading.Timer(AGAIN_S, signal.pthread_kill, main)
        self._again.daemon = True
        self._again.start()
        return None

    def be_quiet(self) -> None:
        """Repeat no interrupt."""
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _open_queue(self, pool: str) -> Queue:
        """Return the daemon's own queue: what is submitted there is no trial."""
        from graced.client.queue import Queue

        return Queue.open(os.environ.get("GRACED_CONFIG"), pool=pool)

    def interrupt(self) -> NoReturn:
        """Raise, and forget that it was asked for: what has taken it goes on as before."""
        self.be_quiet()
        self.asked = NOTHING
        super().interrupt()


class _Terminal:
    """In the place of a queue: shows how far the job is."""

    def tell_progress(self, job: Job, fraction: float | None, text: str) -> None:
        say(text if fraction is None else f"{fraction:.0%} {text}")


def run(context: WorkerContext, payload: str | None) -> int:
    """Set up, do one round, tear down; return the exit status. What goes wrong is said.

    A round is a job with this payload, whose result is printed, both as JSON; ``step()``; one
    connection; the worker's own ``run()``. LoadError if there is no class.
    """
    runtime = _Foreground(context)
    runtime.prepare(None)
    signal.signal(signal.SIGHUP, runtime._on_interrupt)  # the terminal is gone
    faulthandler.register(signal.SIGQUIT, all_threads=True)  # Ctrl-\
    runtime.become(SpawnOrder(worker=1, record=0, slot=0), WorkerRecord.detached())
    runtime.begin()
    process.restore(())
    try:
        cls = load_class(context.pool, runtime.guarded)
    except WorkerInterrupt:
        complain("interrupted")
        return INTERRUPTED
    if payload is not None and not issubclass(cls, JobWorker):
        complain(f"{context.pool.worker} takes no jobs: leave out the payload")
        return USAGE
    worker, report = set_up(runtime, lambda _: cls)
    if worker is None:
        runtime.turn_to_leave()
        return _status(report)
    runtime.writer.ready()
    status = _round(runtime, worker, payload)
    runtime.turn_to_leave()
    runtime.be_quiet()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # out of a teardown() that hangs
    report = tear_down(runtime, worker, ExitReport(ExitKind.DRAINED))
    return status if report.left == ExitKind.DRAINED else status or FAILED


def _status(report: ExitReport) -> int:
    """Return the exit status of a worker that has not been set up; say why if that is not said."""
    if report.left == ExitKind.INTERRUPTED:
        complain("interrupted")
        return INTERRUPTED
    if not report.text.startswith("setup() raised"):  # which is told, with its traceback
        complain(report.text)
    return FAILED


def _round(runtime: Runtime, worker: Worker, payload: str | None) -> int:
    try:
        if type(worker).run is not Worker.run:
            runtime.run_free(worker._as_call(worker.run))
        elif isinstance(worker, JobWorker):
            worker._use(_Terminal())
            job = Job(1, jsonvalue.read(payload or "null"), 1, time.time())
            return _told(worker._round(job))
        elif isinstance(worker, SocketWorker):
            worker._turn()  # which says itself what goes wrong
        else:
            runtime.round(worker._as_call(worker.step))
    except BaseException as error:  # noqa: BLE001  # user code may raise anything
        return _failed(runtime, worker, error)
    return FAILED if runtime.writer.errors_in_row else OK


def _told(result: Any) -> int:
    """Print the result of a job, if it can be kept."""
    outcome = outcome_of(result)
    if isinstance(outcome, Raised):
        complain(jsonvalue.read(outcome.evidence)["reason"])
        return FAILED
    print(outcome.result or "null", flush=True)
    return OK


def _failed(runtime: Runtime, worker: Worker, error: BaseException) -> int:
    """Say what the round has not said itself; return the exit status."""
    if runtime.is_interrupt(error):
        complain("interrupted")
        return INTERRUPTED
    match alone(error):
        case Retry() as said:
            complain(f"the job is to be tried again after {said.after:g} s: {said.reason}")
        case Discard() as said:
            complain(f"the job is discarded: {said.reason}")
        case Failed() as said:
            complain(f"the job {said}")
        case Ended() as said:
            complain(said.text)
            return FAILED if said.code else OK
        case SystemExit() as said if runtime.leaving and exit_status(said) == 0:
            return OK
        case SystemExit():
            complain(runtime.last_words or "run() called sys.exit()")
        case _ if type(worker).run is not Worker.run:
            runtime.tell("run() raised", error)
    return FAILED


def leave(status: int) -> NoReturn:
    """End the process as a worker's ends: whatever threads user code has left behind."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(status)
