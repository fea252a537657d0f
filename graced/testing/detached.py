"""A worker in a test: no daemon, no process of its own, no signals; its queue is in memory.

Its rounds are those of :mod:`graced.workers.runtime`, which a worker of a daemon has, too.
"""

from __future__ import annotations

import logging
import signal
import socket
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, TypeVar

from graced import settings
from graced.host.scoreboard import Phase, WorkerRecord
from graced.log.formats import worded
from graced.log.output import LEVELS, Output
from graced.log.sinks import Sink
from graced.log.worker_log import WorkerLog
from graced.queue import jsonvalue
from graced.queue.job import Job, Outcome, Raised
from graced.queue.policy import Policy
from graced.testing.memory_queue import MemoryQueue
from graced.workers.base import Worker
from graced.workers.context import SpawnOrder, WorkerContext
from graced.workers.importer import checked_class
from graced.workers.job_worker import JobWorker, outcome_of
from graced.workers.runtime import DRAIN, INTERRUPT, Runtime
from graced.workers.socket_worker import SocketWorker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from graced.client.queue import Queue
    from graced.log.formats import Fields

W = TypeVar("W", bound=Worker)


def worker(
    cls: type[W],
    options: Mapping[str, Any] | None = None,
    queue: MemoryQueue | Iterable[Any] | None = None,
    *,
    pool: str = "jobs",
    slot: int = 0,
    sockets: Sequence[socket.socket] = (),
    **keys: Any,
) -> DetachedWorker[W]:
    """Return a worker for a ``with`` block: ``setup()`` at its begin, ``teardown()`` at its end.

    Without one each call of ``step()``, ``handle()`` and ``run()`` is a whole life of its own.

    `queue`: a :class:`MemoryQueue`, or payloads of the jobs in it. `sockets`: what a
    SocketWorker listens on, a loopback address of its own by default. Further `keys` are those
    of a pool, as :class:`graced.settings.Pool` has them: ``max_attempts=5``. TypeError if the
    daemon would refuse the class.
    """
    reason = refusal_of(cls)
    if reason is not None:
        raise TypeError(reason)
    name = f"{cls.__module__}:{cls.__qualname__}"
    made = settings.Pool(pool, name, options=dict(options or {}), **keys)
    if not isinstance(queue, MemoryQueue):
        queue = MemoryQueue(queue or (), Policy.of(made))
    return DetachedWorker(cls, made, slot, queue, sockets)


def refusal_of(cls: type) -> str | None:
    """Return why the daemon would refuse a class, None if it would not."""
    from graced.workers.context import LoadError

    try:
        checked_class(cls, cls.__module__, cls.__qualname__)
    except LoadError as error:
        return error.reason
    return None


class DetachedWorker(Generic[W]):
    """One worker, see :func:`worker`; all is done in the thread that asks for it.

    ``worker`` is the object of your class, ``queue`` the queue of its pool; ``queues`` are those
    of other pools that it has asked for, by name.
    """

    worker: W

    def __init__(
        self,
        cls: type[W],
        pool: settings.Pool,
        slot: int,
        queue: MemoryQueue,
        sockets: Sequence[socket.socket] = (),
    ) -> None:
        self.queue = queue
        self.queues: dict[str, MemoryQueue] = {pool.name: queue}
        self._class = cls
        self._pool = pool
        self._slot = slot
        self._given = sockets
        self._runtime: _DetachedRuntime
        self.progress: list[tuple[float | None, str]] = []  # all that jobs have told
        self._handled = 0
        self._begun = False

    # -- its life

    def _life(self) -> AbstractContextManager[object]:
        """Return the life that a call is part of: the block's, else one for the call alone."""
        return nullcontext() if self._begun else self

    def __enter__(self) -> DetachedWorker[W]:
        runtime = self._runtime = _DetachedRuntime(self._context(), self._slot, self.queues)
        try:
            runtime.begin_setup()
            made = self._class._create(runtime)
            assert isinstance(made, self._class)
            self.worker = made
            if isinstance(made, JobWorker):
                made._use(_MemoryEnd(self.queue, self.progress))
            try:
                runtime.guarded(made._as_call(made.setup))
            except BaseException:  # closed, whatever it is; raised on
                made._close()
                raise
            runtime.writer.ready()
            self._begun = True
        except BaseException:  # closed, whatever it is; raised on
            runtime.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._begun = False
        try:
            self._runtime.turn_to_leave()
            try:
                self.worker._as_call(self.worker.teardown)()
            finally:
                self.worker._close()
        finally:
            self._runtime.close()

    def _context(self) -> WorkerContext:
        log = _StandardLog(self._pool.name)
        sockets = [each.dup() for each in self._given]
        if not sockets and issubclass(self._class, SocketWorker):
            sockets = [socket.create_server(("127.0.0.1", 0))]
        listen = tuple(each.detach() for each in sockets)
        return WorkerContext(self._pool, 1, "detached", 0, -1, log, listen=listen)

    # -- rounds

    def step(self) -> None:
        """Do one round of ``step()``; raises what that raises."""
        if issubclass(self._class, (JobWorker, SocketWorker)):
            raise TypeError(f"{self._class.__name__} has no step(); call handle(…) or run()")
        with self._life():
            self._runtime.round(self.worker._as_call(self.worker.step))

    def handle(self, *given: Any) -> Any:
        """Do one job, given its payload or a :class:`Job`; return the result as it would be kept.

        Raises what ``handle()`` raises, Retry and Discard too, and TypeError or ValueError where
        payload or result are no JSON value. The queue has no part in it. Of a SocketWorker:
        serve one connection, given it and its address.
        """
        with self._life():
            return self._do(*given)

    def _do(self, *given: Any) -> Any:
        handle: Callable[..., Any] = self.worker.handle  # type: ignore[attr-defined]
        if not isinstance(self.worker, JobWorker):
            return self._runtime.round(handle, *given)
        (what,) = given
        job = what if isinstance(what, Job) else self._job(what)
        result = self.worker._round(job)
        outcome = outcome_of(result)
        if isinstance(outcome, Raised):
            raise TypeError(jsonvalue.read(outcome.evidence)["reason"])
        return None if outcome.result is None else jsonvalue.read(outcome.result)

    def _job(self, payload: Any) -> Job:
        self._handled += 1
        copy = jsonvalue.read(jsonvalue.written(payload))
        return Job(self._handled, copy, 1, self.queue.now)

    def run(self, rounds: int | None = None) -> int:
        """Do so many rounds; without a number, until no job is left, or a drain is asked for.

        As in the daemon what they raise is in the log, a job that raised is tried again (its
        delay is over at once: the queue's clock is put forward), and after ``max_errors`` in a
        row there are no more. Returns how many rounds there were. A ``run()`` of the worker's own
        is called instead, once.
        """
        with self._life():
            return self._run(rounds)

    def _run(self, rounds: int | None) -> int:
        if type(self.worker).run is not Worker.run:
            self._runtime.run_free(self.worker._as_call(self.worker.run))
            return 1
        done = 0
        while done != rounds and not self._runtime.over and self._turn():
            done += 1
        return done

    def _turn(self) -> bool:
        """Do one round; whether there was something to do."""
        if not isinstance(self.worker, JobWorker):
            self.worker._turn()
            return True
        job = self.queue.take()
        if job is None:
            return False
        try:
            self.worker._do(job)
        finally:
            self.queue.give_back(job.id)  # if nothing has been settled
        return True

    # -- what it is asked

    @property
    def errors(self) -> int:
        """How many rounds have raised."""
        return self._runtime.writer.record.errors

    @property
    def draining(self) -> bool:
        """Whether it has been asked to leave."""
        return self._runtime.leaving

    def drain(self) -> None:
        """Ask it to finish, from any thread: ``draining`` is True and ``wait()`` returns."""
        self._runtime.ask(DRAIN)

    def interrupt(self) -> None:
        """Interrupt it: WorkerInterrupt in its next ``wait()``, or where a critical section ends.

        In a daemon a signal does that, which hits whatever runs; a test has none.
        """
        self._runtime.ask(INTERRUPT)


class _DetachedRuntime(Runtime):
    """A runtime without a main process, whose signals are those of the test."""

    def __init__(self, context: WorkerContext, slot: int, queues: dict[str, MemoryQueue]) -> None:
        super().__init__(context)
        self._queues = queues
        self._thread = threading.main_thread().ident or 0  # of wait(): only that hears signals
        self._foreign: int | None = None
        self.become(SpawnOrder(worker=1, record=0, slot=slot), WorkerRecord.detached())

    def begin_setup(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._foreign = signal.set_wakeup_fd(-1)
            self.wakeup.open()
        self.writer.enter(Phase.SETUP)

    def ask(self, what: int) -> None:
        self._ask(what)
        self.wakeup.wake()

    def _interrupt_main_thread(self) -> None:
        self.interrupt()  # whichever it is: a signal would be the test's

    def close(self) -> None:
        for each in self.sockets():
            each.close()
        self.wakeup.close()
        if self._foreign is not None:
            signal.set_wakeup_fd(self._foreign, warn_on_full_buffer=False)

    def _open_queue(self, pool: str) -> Queue:
        return self._queues.setdefault(pool, MemoryQueue())


class _MemoryEnd:
    """A worker's end of a queue in memory, see :class:`graced.queue.worker_end.WorkerEnd`."""

    unsettled = 0
    is_cut_off = False

    def __init__(self, queue: MemoryQueue, told: list[tuple[float | None, str]]) -> None:
        self._queue = queue
        self._told = told

    def fileno(self) -> int:
        return -1

    def ask(self) -> None:
        """Nothing has to be said."""

    def receive(self) -> Job | None:
        return self._queue.take()

    def settle(self, job: Job, outcome: Outcome, *, more: bool) -> None:
        self._queue.settle(job.id, outcome)

    def tell_progress(self, job: Job, fraction: float | None, text: str) -> None:
        self._told.append((fraction, text))
        self._queue.tell_progress(job, fraction, text)

    def retry_in(self) -> float | None:
        return 0 if len(self._queue) else None

    def leave(self) -> None:
        """Nothing has to be said."""

    def close(self) -> None:
        """Nothing is open."""


class _StandardLog(WorkerLog):
    """What graced says of a worker, through standard logging: in the test's report, in caplog."""

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        super().__init__(output=Output("debug", "text", Sink(None)))
        self._logger = logging.getLogger(name)

    def bind(self, **fields: Any) -> _StandardLog:
        return self

    def write(
        self, level: str, message: str, fields: Fields, args: tuple[object, ...] = ()
    ) -> None:
        self._logger.log(LEVELS[level], "%s", worded(message, args))

    def report(
        self,
        name: str,
        message: str,
        error: BaseException,
        by: Callable[[Callable[[], None]], Any] | None = None,
    ) -> None:
        logging.getLogger(name).error(message, exc_info=error)
