"""The AsyncJobWorker class that users subclass: many jobs at once, each in a task of its own.

What becomes of a job is said in :mod:`.job_worker`, how the loop hears what the worker is asked in
:mod:`.event_loop`.
"""

from __future__ import annotations

import asyncio
import select
import time
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from enum import Enum

from graced.host.scoreboard import JOB
from graced.queue.job import Job, Outcome, Raised
from graced.queue.progress import checked
from graced.queue.worker_end import evidence
from graced.text import in_one_line
from graced.units import format_duration
from graced.workers.async_worker import Asynchronous
from graced.workers.base import Critical, Worker
from graced.workers.context import alone
from graced.workers.job_worker import CALM, JobWorker, outcome_of, unusable
from graced.workers.record import NS_PER_S, sane

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Any

    from graced.workers.runtime import Runtime

TELL_AFTER_S = 0.05  # seconds in which what many jobs tell of themselves is gathered
LATE_S = 1.0  # seconds that the loop may be late to cancel a job, before it is blocked


class Cut(Enum):
    """Why a job's task was cancelled by us."""

    INTERRUPTED = "interrupted"
    TIMED_OUT = "timed out"
    CANCELLED = "cancelled"


class Hand:
    """A job in hand: its task, and the time that it has. Times are those of the loop."""

    __slots__ = (
        "cut",
        "deadline",
        "job",
        "leased_until",
        "left",
        "started",
        "task",
        "to_be_cut",
        "waits",
    )

    def __init__(self, job: Job, started: int, deadline: float | None) -> None:
        self.job = job
        self.started = started  # monotonic ns
        self.deadline = deadline  # of the job; of its end, once it was cut for being late
        self.waits = 0  # of its tasks that wait
        self.left: float | None = None  # of its time, meanwhile
        self.leased_until = 0.0  # it is in a critical section
        self.to_be_cut: Cut | None = None  # at the end of that
        self.cut: Cut | None = None
        self.task: asyncio.Task[Any] | None = None

    @property
    def to_look(self) -> float | None:
        """When it is to be cut."""
        return self.deadline if self.to_be_cut is None else self.leased_until

    @property
    def to_kill(self) -> float | None:
        """When its time is over, though it was cut, or because that could not be."""
        if self.deadline is None or self.cut is not None:
            return self.deadline
        return max(self.deadline, self.to_look or 0) + LATE_S

    @property
    def about(self) -> str:
        return f"job {self.job.id} (attempt {self.job.attempt})"


_hand: ContextVar[Hand | None] = ContextVar("graced_hand", default=None)


def _job_here() -> int | None:
    """Return the job to which what runs belongs."""
    hand = _hand.get()
    return None if hand is None else hand.job.id


class AsyncJobWorker(Asynchronous, JobWorker):
    """What one worker does with jobs, up to ``concurrency`` of them at once.

    Subclass it and name the subclass in ``config.yaml``.
    """

    _asks_for = "handle(self, job)"
    _cancels = True
    _is_concurrent = True

    async def handle(self, job: Job) -> Any:
        """Do one job; return a JSON value, or None. The job is done and the value is kept.

        What it raises is kept too, and the job is tried again later, up to
        ``max_attempts`` times; :class:`Retry` says when, :class:`Discard` says never. Where the
        job takes longer than ``round_timeout``, is cancelled, or the worker is interrupted, its
        task is cancelled: :class:`asyncio.CancelledError`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no handle()")

    def _in_hand(self) -> Job | None:
        hand = _hand.get()
        return super()._in_hand() if hand is None else hand.job

    def extend(self, seconds: float) -> None:
        """Let the job in hand take until `seconds` from now."""
        hand = _hand.get()
        if hand is None:
            super().extend(seconds)
        elif hand.cut is None:
            self._jobs.give_time(hand, sane(seconds))

    def progress(self, fraction: float | None, text: str = "") -> None:
        """Tell how far the job in hand is, as :meth:`graced.JobWorker.progress` does."""
        hand = _hand.get()
        if hand is None:
            super().progress(fraction, text)
        else:
            self._jobs.tell_progress(hand.job, *checked(fraction, text))

    def critical(self, seconds: float) -> Critical:
        """Return a context in which this process is neither interrupted nor killed.

        Nor is the job that it is in cancelled. As of any worker, for `seconds` at most.
        """
        hand = _hand.get()
        if hand is None:
            return super().critical(seconds)
        return _CriticalJob(self._graced, seconds, hand, self._jobs)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Let the job's clock stand still while one of its tasks waits, and no other's."""
        hand = _hand.get()
        if hand is None:
            yield
            return
        if hand.deadline is not None and hand.cut is None:
            hand.left, hand.deadline = hand.deadline - time.monotonic(), None
        hand.waits += 1
        try:
            yield
        finally:
            hand.waits -= 1
            if not hand.waits:
                left, hand.left = hand.left, None
                if left is not None and hand.cut is None and hand.deadline is None:
                    self._jobs.give_time(hand, left)

    @classmethod
    def _create(cls, runtime: Runtime) -> Worker:
        worker = super()._create(runtime)
        assert isinstance(worker, AsyncJobWorker)
        worker._jobs = _Jobs(worker)
        return worker

    _jobs: _Jobs

    def _turn(self) -> None:
        """Do jobs until asked to drain; when asked, say good-bye to the queue."""
        jobs = self._jobs
        self._graced.guarded(self._event_loop.caller(jobs.serve, jobs.interrupt))
        if self._graced.raised is not None:
            raise self._graced.raised  # what was in hand is given back when nothing is left of us
        self._leave()


class _CriticalJob(Critical):
    """A section of one job of several."""

    __slots__ = ("_before", "_hand", "_jobs")

    def __init__(self, runtime: Runtime, seconds: float, hand: Hand, jobs: _Jobs) -> None:
        super().__init__(runtime, seconds)
        self._hand = hand
        self._jobs = jobs

    def __enter__(self) -> None:
        super().__enter__()
        hand = self._hand
        self._before, hand.leased_until = (
            hand.leased_until,
            max(hand.leased_until, time.monotonic() + sane(self._seconds)),
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._hand.leased_until = self._before
        super().__exit__(kind, error, where)
        self._jobs.lease_ended(self._hand)


class _Jobs:
    """The jobs that one worker has in hand."""

    def __init__(self, worker: AsyncJobWorker) -> None:
        self._worker = worker
        self._runtime = worker._graced
        pool = self._runtime.context.pool
        self._most = pool.concurrency
        self._round_timeout = pool.round_timeout
        self._stop_timeout = pool.stop_timeout
        self._hands: dict[int, Hand] = {}  # by id, in the order in which they were begun
        self._ended: list[Hand] = []
        self._news: asyncio.Event
        self._door: select.epoll
        self._retry: asyncio.TimerHandle | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._is_telling = False
        self._look_at: float | None = None  # when that rings

    # -- from the first to the last

    async def serve(self) -> None:
        """Do jobs until there are to be no more, and none is in hand."""
        end, runtime, loop = self._worker._end, self._runtime, asyncio.get_running_loop()
        news = self._news = asyncio.Event()
        self._door = select.epoll()  # the socket in it is another one with each keeper
        loop.add_reader(self._door.fileno(), news.set)
        self._worker._event_loop.asked.append(news.set)
        runtime.log.ask_for_job(_job_here)
        try:
            while not runtime.over or self._hands:
                end.want(0 if runtime.over else self._most)
                self._receive()
                self._arm_retry()
                await news.wait()
                news.clear()
                self._settle()
        finally:
            self._worker._event_loop.asked.remove(news.set)
            loop.remove_reader(self._door.fileno())
            self._door.close()
            if self._retry is not None:
                self._retry.cancel()

    def _receive(self) -> None:
        """Begin what has come; where a drain was asked for, others are to have it."""
        worker, end = self._worker, self._worker._end
        while (job := worker._receive()) is not None:
            if self._runtime.over or job.id in self._hands:  # no two runs at once
                end.put_back(job)
            else:
                self._begin(job)
        while end.cancelled:
            id, token = end.cancelled.pop()
            hand = self._hands.get(id)
            if hand is not None and hand.job.token == token:
                self._cut(hand, Cut.CANCELLED)
                self.lease_ended(hand)

    def _arm_retry(self) -> None:
        """Have the queue looked at again: when its socket is readable, or after some time."""
        end = self._worker._end
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if (fd := end.fileno()) >= 0:
            try:
                self._door.register(fd, select.EPOLLIN)
            except FileExistsError:
                pass
        if (seconds := end.retry_in()) is not None:
            self._retry = asyncio.get_running_loop().call_later(seconds, self._news.set)

    # -- one job

    def _begin(self, job: Job) -> None:
        deadline = None
        if self._round_timeout is not None:
            deadline = time.monotonic() + self._round_timeout
        started = self._runtime.writer.begin_beside(_kill_at(deadline))
        self._runtime.writer.words[JOB] = 1
        hand = self._hands[job.id] = Hand(job, started, deadline)
        context = copy_context()
        context.run(_hand.set, hand)
        hand.task = asyncio.get_running_loop().create_task(
            self._handled(hand), name=f"job {job.id}", context=context
        )
        hand.task.add_done_callback(lambda _: self._over(hand))
        if deadline is not None and self._alarm is None:
            self.look_at_deadlines()

    async def _handled(self, hand: Hand) -> Any:
        """Handle a job. What would leave the loop is an error of this job, but for sys.exit()."""
        try:
            return await self._worker.handle(hand.job)
        except SystemExit as error:
            self._runtime.last_words = f"handle() called sys.exit({error.code!r})"
            raise
        except KeyboardInterrupt as error:
            raise RuntimeError("handle() raised KeyboardInterrupt") from error

    def _over(self, hand: Hand) -> None:
        self._ended.append(hand)
        self._news.set()

    def _settle(self) -> None:
        """Settle what has ended."""
        ended, self._ended = self._ended, []
        for hand in ended:
            outcome, error = self._outcome(hand)
            self._count(hand, error)
            if outcome is not None:
                more = not self._runtime.over
                self._worker._end.settle(hand.job, outcome, more=more)
        if not self._hands and self._runtime.raised is None:
            self._runtime.writer.words[JOB] = 0

    def _count(self, hand: Hand, error: BaseException | None) -> None:
        del self._hands[hand.job.id]
        writer = self._runtime.writer
        calm = error is None or (hand.cut is None and isinstance(alone(error), CALM))
        if hand.cut is Cut.INTERRUPTED and error is not None:
            writer.count_cut()
        elif not calm:
            writer.count_error()
        oldest = next(iter(self._hands.values())).started if self._hands else 0
        writer.end_beside(time.monotonic_ns() - hand.started, oldest, good=calm)

    def _outcome(self, hand: Hand) -> tuple[Outcome | None, BaseException | None]:
        """Return what becomes of a job that has ended, and what it has raised.

        No outcome: its worker was interrupted, others are to have it.
        """
        task, job, runtime = hand.task, hand.job, self._runtime
        assert task is not None
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            outcome = outcome_of(task.result())
            if isinstance(outcome, Raised):
                runtime.log.error(f"job {job.id}: {unusable(task.result())}", job=job.id)
            return outcome, None
        if isinstance(alone(error), CALM):
            return self._worker._failure(job, error), error
        if hand.cut is not None:
            return self._was_cut(hand, error), error
        what = f"{hand.about}: handle() raised"
        runtime.last_error = f"handle() raised {in_one_line(error)}"
        self._tell(hand, what, error)
        return self._worker._failure(job, error), error

    def _was_cut(self, hand: Hand, error: BaseException) -> Outcome | None:
        """Return what becomes of a job whose task we have cancelled."""
        assert hand.cut is not None
        if not isinstance(error, asyncio.CancelledError):
            self._tell(hand, f"{hand.about}: handle() raised when it was {hand.cut.value}", error)
        match hand.cut:
            case Cut.INTERRUPTED:
                return None
            case Cut.CANCELLED:
                self._runtime.log.info(f"{hand.about} cancelled", job=hand.job.id)
                return Raised(evidence("cancelled"))
        took = format_duration((time.monotonic_ns() - hand.started) / NS_PER_S)
        why = f"took longer than round_timeout and was cancelled after {took}"
        self._runtime.last_error = f"a job {why}"
        self._runtime.log.error(f"{hand.about} {why}", job=hand.job.id)
        return Raised(evidence(why, timed_out=True))

    def _tell(self, hand: Hand, what: str, error: BaseException) -> None:
        """Tell what a job has raised, as a record of that job."""
        context = copy_context()
        context.run(_hand.set, hand)
        context.run(self._runtime.tell, what, error)

    def tell_progress(self, job: Job, fraction: float | None, text: str) -> None:
        """Tell how far a job is, and in the same go what others tell in a moment."""
        self._worker._end.note_progress(job, fraction, text)
        if not self._is_telling:
            self._is_telling = True
            asyncio.get_running_loop().call_later(TELL_AFTER_S, self._write_progress)

    def _write_progress(self) -> None:
        self._is_telling = False
        self._worker._end.write_progress()

    # -- what ends a job before its time

    def interrupt(self) -> None:
        """Cancel each task, once; their jobs go back."""
        for hand in list(self._hands.values()):
            self._cut(hand, Cut.INTERRUPTED, at_once=True)
        self._news.set()

    def _cut(self, hand: Hand, why: Cut, *, at_once: bool = False) -> None:
        if hand.cut is not None or hand.task is None:
            return
        now = time.monotonic()
        if not at_once and now < hand.leased_until:
            hand.to_be_cut = why
            return
        hand.cut = why
        hand.deadline = now + self._stop_timeout if why is Cut.TIMED_OUT else None
        hand.task.cancel()

    def lease_ended(self, hand: Hand) -> None:
        """Cancel a job's task, if that was held up by a critical section."""
        if hand.to_be_cut is not None:
            self.look_at_deadlines()

    def give_time(self, hand: Hand, seconds: float) -> None:
        """Let a job take so long from now on."""
        hand.deadline = time.monotonic() + seconds
        if self._look_at is None or hand.deadline < self._look_at:
            self.look_at_deadlines()

    def look_at_deadlines(self) -> None:
        """Cancel the jobs that have taken too long, and know when to look again.

        Should that moment pass without our looking, the loop is blocked, and the main process
        kills the worker; so it does where a job goes on after it was cancelled.
        """
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        now = time.monotonic()
        for hand in list(self._hands.values()):
            if hand.to_be_cut is not None:
                self._cut(hand, hand.to_be_cut)
            elif hand.deadline is not None and hand.deadline <= now:
                self._cut(hand, Cut.TIMED_OUT)
        hands = self._hands.values()
        looks = [at for hand in hands if hand.cut is None and (at := hand.to_look) is not None]
        kills = [at for hand in hands if (at := hand.to_kill) is not None]
        self._look_at = min(looks, default=None)
        if self._look_at is not None:
            loop = asyncio.get_running_loop()
            self._alarm = loop.call_later(max(self._look_at - now, 0), self.look_at_deadlines)
        self._runtime.writer.watch_beside(int(min(kills, default=0) * NS_PER_S))


def _kill_at(deadline: float | None) -> int:
    return 0 if deadline is None else int((deadline + LATE_S) * NS_PER_S)
