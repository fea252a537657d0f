"""The JobWorker class that users subclass: takes jobs from its pool's queue, one after the other.

How a worker lives is in :mod:`.runtime`, how it talks to the queue in
:mod:`graced.queue.worker_end`.
"""

from __future__ import annotations

from graced.host.scoreboard import CUT_OFF, JOB, QUEUE, REACHES
from graced.log.formats import traceback
from graced.queue import jsonvalue, progress
from graced.queue.job import (
    MAX_EVIDENCE,
    MAX_PAYLOAD,
    NOTHING_MORE,
    Discard,
    Discarded,
    Done,
    Failed,
    Postponed,
    Raised,
    Retry,
    is_delay,
)
from graced.queue.protocol import QueueError
from graced.queue.worker_end import WorkerEnd, evidence
from graced.text import in_one_line
from graced.workers.base import Worker
from graced.workers.context import alone
from graced.workers.runtime import INTERRUPT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from graced.queue.address import QueueAddress
    from graced.queue.job import Job, Outcome
    from graced.workers.runtime import Runtime

CALM = (Retry, Discard, Failed)  # what ends a job without being an error
INTERRUPT_CHECK_S = (
    1.0  # seconds between looks whether an interrupt came, while a settle is not confirmed
)


class JobWorker(Worker):
    """What one worker does with jobs. Subclass it and name the subclass in ``config.yaml``."""

    _takes_jobs = True
    _async_class = "graced.AsyncJobWorker"
    _asks_for = "handle(self, job)"
    _cancels = False  # single jobs, when it is told to
    __end: WorkerEnd | None = None
    __job: Job | None = None  # in hand

    def handle(self, job: Job) -> Any:
        """Do one job; return a JSON value, or None. The job is done and the value is kept.

        What it raises is kept too, and the job is tried again later, up to
        ``max_attempts`` times; :class:`Retry` says when, :class:`Discard` says never.
        """
        raise NotImplementedError(f"{type(self).__name__} has no handle()")

    def progress(self, fraction: float | None, text: str = "") -> None:
        """Tell how far the job in hand is, from 0 to 1 or None, and in up to 200 characters.

        `graced jobs` and `graced jobs show` tell it; the last word counts. It may be told as
        often as you like, a call costs some microseconds. Without a job it is without effect.
        ValueError if it is no number.
        """
        told = progress.checked(fraction, text)
        job = self._in_hand()
        if job is not None and self.__end is not None:
            self.__end.tell_progress(job, *told)

    def _in_hand(self) -> Job | None:
        """Return the job that what runs belongs to."""
        return self.__job

    @classmethod
    def _create(cls, runtime: Runtime) -> Worker:
        """Say that the pool needs a queue, and take the lock that says that we live."""
        worker = super()._create(runtime)
        assert isinstance(worker, JobWorker)
        if runtime.context.queue is not None:
            runtime.writer.words[QUEUE] = REACHES
            runtime.writer.ring()
            address = runtime.context.queue
            worker.__end = _end_of(address, runtime.order.worker, cls._cancels)
        return worker

    @property
    def _end(self) -> WorkerEnd:
        if self.__end is None:
            raise RuntimeError("there is no queue outside of a daemon; call handle() with a Job")
        return self.__end

    def _use(self, end: Any) -> None:
        """Take jobs from another end than a daemon's, such as one in memory."""
        self.__end = end

    def _turn(self) -> None:
        """Do one job after the other; when asked to drain, say good-bye to the queue.

        All of them in one turn: a drain may be asked for after any line, and none may be
        the one after which it is not looked whether the last settle has arrived.
        """
        while (job := self._take()) is not None:
            self._do(job)
        self._leave()

    def _take(self) -> Job | None:
        """Return the next job, or None when asked to drain."""
        end, runtime = self._end, self._graced
        while not runtime.over:
            end.ask()
            fd = end.fileno()
            if runtime.wait_for(fd if fd >= 0 else None, end.retry_in()) == "draining":
                break
            job = self._receive()
            if job is not None:
                return job
        return None

    def _receive(self) -> Job | None:
        """Return the job that has come, or None; end this worker if nothing can come.

        What it has in hand is tried again after its death, and counts: nothing is repeated
        for ever, nothing is lost.
        """
        end, writer = self._end, self._graced.writer
        try:
            job = end.receive()
        except QueueError as error:
            self._graced.last_words = str(error)
            raise SystemExit(1) from error
        reach = CUT_OFF if end.is_cut_off else REACHES
        if writer.words[QUEUE] != reach:
            writer.words[QUEUE] = reach
            writer.ring()
        return job

    def _do(self, job: Job) -> None:
        """Handle a job and settle it. An interrupt passes: it settles nothing."""
        log, words = self._graced.log, self._graced.writer.words
        log.set_job(job.id)
        words[JOB] = 1
        try:
            self._end.settle(job, self._outcome(job), more=not self._graced.over)
            words[JOB] = 0
        finally:
            log.set_job(None)

    def _outcome(self, job: Job) -> Outcome:
        """Handle a job in a round; return what has become of it."""
        outcome: Outcome
        try:
            result = self._round(job)
        except BaseException as error:  # user code may raise anything
            if isinstance(error, SystemExit) or self._is_interrupt(error):
                raise
            outcome = self._failure(job, error)
        else:
            outcome = outcome_of(result)
            if isinstance(outcome, Raised):
                self._graced.log.error(f"job {job.id}: {unusable(result)}", job=job.id)
        return outcome

    def _round(self, job: Job) -> Any:
        """Handle a job in a round; return what that returns, raise what it raises."""
        of = f"job {job.id} (attempt {job.attempt}): "
        self.__job = job
        try:
            return self._graced.round(self._as_call(self.handle), job, calm=CALM, of=of)
        finally:
            self.__job = None

    def _is_interrupt(self, error: BaseException) -> bool:
        """Return whether an interrupt ended the job; what it says of itself goes before that."""
        return self._graced.is_interrupt(error) and not isinstance(alone(error), CALM)

    def _failure(self, job: Job, error: BaseException) -> Outcome:
        """Return what an exception makes of a job, and log what is worth it."""
        what = f"job {job.id} (attempt {job.attempt})"
        match alone(error):
            case Discard() as said:
                reason = _reason(said)
                self._graced.log.warning(f"{what} discarded: {reason}", job=job.id)
                return Discarded(evidence(reason, discarded=True))
            case Retry() as said:
                return _postponed(said)
            case Failed() as said:
                self._graced.log.warning(f"{what} {said}", job=job.id)
                return Raised(evidence(str(said), **said.facts))
        return Raised(evidence(in_one_line(error), traceback=_traceback(error)))

    def _leave(self) -> None:
        """See all settles confirmed, until interrupted; give back what is not begun."""
        end, runtime = self._end, self._graced
        end.leave()
        while end.unsettled and runtime.asked != INTERRUPT:
            self._receive()
            if end.unsettled:
                wait, fd = end.retry_in(), end.fileno()
                seconds = INTERRUPT_CHECK_S if wait is None else min(wait, INTERRUPT_CHECK_S)
                runtime.wait_for(fd if fd >= 0 else None, seconds, heed_drain=False)


class NoQueue(Exception):
    """A worker cannot have its place at the queue; `reason` is one line."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _end_of(address: QueueAddress, worker: int, cancels: bool) -> WorkerEnd:
    try:
        return WorkerEnd(address, worker, cancels=cancels)
    except OSError as error:
        where = error.filename or address.file
        raise NoQueue(f"cannot lock a file beside the queue: {where}: {error.strerror}") from error


def outcome_of(result: Any) -> Done | Raised:
    """Return what becomes of a job whose handle() has returned."""
    if result is None:
        return NOTHING_MORE
    try:
        text = jsonvalue.written(result)
    except Exception as error:  # noqa: BLE001  # a dict of the user's own may raise anything
        return Raised(evidence(unusable(result), error=in_one_line(error)))
    size = jsonvalue.size(text)
    if size > MAX_PAYLOAD:
        return Raised(evidence(f"handle() returned {size} bytes of JSON; keep to 1 MiB"))
    return Done(text)


def _postponed(error: Retry) -> Postponed | Raised:
    """Return what a Retry says, unless a subclass has made nonsense of it."""
    reason = _reason(error)
    try:
        told = error.after
        after = None if told is None else float(told)
    except Exception as wrong:  # noqa: BLE001  # a property of a user's class may raise anything
        return Raised(evidence(f"{type(error).__name__} is no Retry: {in_one_line(wrong)}"))
    if after is None:  # it never came to say: then as after any other attempt
        return Raised(evidence(reason))
    if not is_delay(after):
        return Raised(evidence(f"{type(error).__name__}.after is {after!r}: no delay of a job"))
    return Postponed(evidence(reason), after)


def _reason(error: Retry | Discard) -> str:
    """Return what it says for a reason; a subclass may never have called our __init__()."""
    try:
        return str(error.reason) if error.reason else in_one_line(error)
    except Exception:  # noqa: BLE001  # as above
        return in_one_line(error)


def unusable(result: Any) -> str:
    return f"handle() returned what is no JSON value of up to 1 MiB: {type(result).__name__}"


def _traceback(error: BaseException) -> str:
    text = traceback(error)
    return text if len(text) <= MAX_EVIDENCE else f"…{text[-MAX_EVIDENCE:]}"
