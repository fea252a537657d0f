"""The Worker class that users subclass, and the way through its methods.

What the methods promise is kept in :mod:`.runtime`.
"""

from __future__ import annotations

import signal
from _thread import get_ident

from graced.host import process
from graced.host.scoreboard import ExitKind, Phase, Wants
from graced.text import in_one_line
from graced.workers.context import Ended, ExitReport, LoadError, exit_status
from graced.workers.runtime import INTERRUPT, PARENT_DIED, Runtime, WorkerInterrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from socket import socket
    from types import TracebackType
    from typing import Any, NoReturn

    from graced.client.queue import Queue
    from graced.workers.runtime import HasFileno

    Nothing = Coroutine[Any, Any, None] | None  # of asynchronous workers they are coroutines

__all__ = ["Worker", "WorkerInterrupt"]


class _Detached:
    """Gives a worker outside of a daemon, in a test say, a runtime of its own."""

    def __get__(self, worker: Worker, owner: type[Worker]) -> Runtime:
        runtime = worker._graced = Runtime.detached()
        return runtime


class Worker:
    """What one worker does. Subclass it and name the subclass in ``config.yaml``."""

    _graced = _Detached()  # a worker of a daemon has an attribute of its own
    _takes_jobs = False
    _is_async = False  # its methods are coroutines
    _async_class = "graced.AsyncWorker"  # the one like it whose methods are
    _is_concurrent = False  # it has several jobs at once
    _asks_for = "step(self)"  # what a subclass has to define, unless it has a run() of its own

    # -- what users override -----------------------------------------------------

    def setup(self) -> Nothing:
        """Prepare, in the new process. The worker is ready when this returns."""

    def step(self) -> Nothing:
        """Do one round. Called again and again; what it raises is logged, and the worker stays."""
        raise NotImplementedError(f"{type(self).__name__} has neither step() nor run()")

    def teardown(self) -> Nothing:
        """Clean up, after a drain and after an interrupt, if setup() had returned."""

    def run(self) -> Nothing:  # type: ignore[return]  # it ends without a word
        """Do round after round until asked to drain.

        Override it for a loop of your own over :attr:`draining`; then there are no
        rounds that graced could time or count.
        """
        while not self._graced.over:
            self._turn()

    # -- what users call ---------------------------------------------------------

    @property
    def options(self) -> Mapping[str, Any]:
        """The pool's ``options`` from the configuration."""
        return self._graced.context.pool.options

    @property
    def pool(self) -> str:
        """The name of the pool."""
        return self._graced.context.pool.name

    @property
    def slot(self) -> int:
        """The number of the worker's place in its pool, from 0."""
        return self._graced.order.slot

    @property
    def generation(self) -> int:
        """The number of the configuration and code that it runs, from 1."""
        return self._graced.context.generation

    @property
    def draining(self) -> bool:
        """Whether the worker has been asked to finish."""
        return self._graced.leaving

    @property
    def sockets(self) -> Sequence[socket]:
        """The sockets that the pool listens on, in the order of its ``listen``.

        They are open before the first worker and after the last one: don't shut them down.
        Accepting from them never blocks. :class:`graced.SocketWorker` does it for you.
        """
        return self._graced.sockets()

    @property
    def log(self) -> logging.Logger:
        """A logger of the standard library that writes to the daemon's log."""
        import logging

        return logging.getLogger(self.pool)

    def queue(self, pool: str | None = None) -> Queue:
        """Return the queue of a pool of the same daemon, of the own one without a name.

        What it can do is said at :class:`graced.Queue`; waiting there ends with an interrupt, not
        with a drain. RuntimeError outside of a daemon.
        """
        return self._graced.queue(pool)

    def wait(self, seconds: float | None = None) -> bool:
        """Sleep for `seconds`, or without limit; return True at once when asked to drain.

        Meanwhile the worker is ready, not busy, and the round's clock stands still.
        In ``teardown()`` it returns True at once: use :func:`time.sleep` there.
        """
        return self._graced.wait(seconds)

    def wait_for(self, fd: int | HasFileno, seconds: float | None = None) -> bool:
        """Sleep until `fd` is readable: True; False when the time is over or a drain asked for.

        `fd` is a descriptor, or what has a ``fileno()``: a socket, say. End-of-file and
        errors are readable, too. The rules are those of :meth:`wait`; in ``teardown()`` it
        returns False at once. OSError if the descriptor is closed.
        """
        return self._graced.is_readable(fd, seconds)

    def critical(self, seconds: float) -> Critical:
        """Return a context in which this process is neither interrupted nor killed.

        That holds for `seconds` at most; an interrupt that came meanwhile is raised
        at the end. May be nested. ValueError where `seconds` are more than the
        configuration's ``max_lease``, 1 h unless set.
        """
        return Critical(self._graced, seconds)

    def extend(self, seconds: float) -> None:
        """Let the round in hand take until `seconds` from now."""
        self._graced.writer.extend(seconds)

    def recycle(self) -> None:
        """Ask to be replaced. Rounds go on until the replacement is ready."""
        self._graced.writer.want(Wants.RECYCLE)

    # -- for graced's own workers --------------------------------------------------

    def _turn(self) -> None:
        """Do one turn of the default :meth:`run`: by default a round of :meth:`step`."""
        try:
            self._graced.round(self._as_call(self.step))
        except BaseException as error:  # user code may raise anything; it is told already
            if isinstance(error, SystemExit) or self._graced.is_interrupt(error):
                raise

    def _as_call(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Return what a method is called by; what is asynchronous needs an event loop."""
        return method

    def _close(self) -> None:
        """Put away what graced has opened for it, after ``teardown()``."""

    @classmethod
    def _create(cls, runtime: Runtime) -> Worker:
        """Make the object; its attributes work in the user's ``__init__``, too."""
        worker = cls.__new__(cls)
        worker._graced = runtime
        runtime.guarded(worker.__init__)  # type: ignore[misc]  # on purpose, and once
        return worker


class Critical:
    """A section under a lease, see :meth:`Worker.critical`."""

    __slots__ = ("_runtime", "_seconds")

    def __init__(self, runtime: Runtime, seconds: float) -> None:
        self._runtime = runtime
        self._seconds = seconds

    def __enter__(self) -> None:
        self._runtime.writer.lease(self._seconds)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._runtime.end_lease()


# The way through the methods

_DRAINED = ExitReport(ExitKind.DRAINED)
_INTERRUPTED = ExitReport(ExitKind.INTERRUPTED)


def live(runtime: Runtime, load: Callable[[Callable[..., Any]], type[Worker]]) -> NoReturn:
    """Load the class, set up, run, tear down, leave the process."""
    worker, report = set_up(runtime, load)
    if worker is not None:
        report = _work(runtime, worker)
        runtime.turn_to_leave()
        report = tear_down(runtime, worker, report)
    else:
        runtime.turn_to_leave()
    runtime.leave(report)


def rehearse(runtime: Runtime) -> None:
    """Run a worker that the main process does not see, in a zygote before its first fork.

    What is called for the first time in a process is looked up, linked and
    specialized, and writes to a hundred pages; better once here than in each child.
    """
    worker, _ = set_up(runtime, lambda call: _Extra)
    if worker is not None:
        runtime.writer.ready()
        for _ in range(16):  # Python counts before it specializes
            worker._turn()
    runtime.wakeup.close()
    # A wait for a signal has the dynamic linker look up what it calls, a large request sorts
    # malloc's free chunks.
    mask = process.block(PARENT_DIED)
    signal.pthread_kill(get_ident(), PARENT_DIED)
    process.wait_for_signal(PARENT_DIED)
    process.restore(mask)
    bytes(100_000)


class _Extra(Worker):
    def step(self) -> None:
        with self.critical(0):
            self.wait(0)


def set_up(
    runtime: Runtime, load: Callable[[Callable[..., Any]], type[Worker]]
) -> tuple[Worker | None, ExitReport]:
    """Make a worker and set it up; None and why, which is told, where that fails."""
    runtime.writer.enter(Phase.SETUP)
    if runtime.over:  # asked to leave before there was anything to interrupt
        return None, _INTERRUPTED
    try:
        worker = load(runtime.guarded)._create(runtime)
        runtime.guarded(worker._as_call(worker.setup))
    except BaseException as error:  # noqa: BLE001  # user code may raise anything
        return None, _setup_failed(runtime, error)
    return worker, _DRAINED


def _setup_failed(runtime: Runtime, error: BaseException) -> ExitReport:
    if runtime.is_interrupt(error):
        runtime.tell_besides("setup()", error)
        return _INTERRUPTED
    if isinstance(error, SystemExit):
        text = f"setup() called sys.exit({error.code!r})"
        if runtime.leaving and exit_status(error) == 0:
            runtime.log.info(f"{text}, asked to leave")
            return _INTERRUPTED
        return ExitReport(ExitKind.DIED, exit_status(error), text)
    if isinstance(error, LoadError):
        if error.__cause__ is not None:  # else the reason says it all
            runtime.tell("the code cannot be imported", error.__cause__)
        return ExitReport(ExitKind.SETUP_FAILED, 1, error.reason)
    runtime.tell("setup() raised", error)
    return ExitReport(ExitKind.SETUP_FAILED, 1, f"setup() raised {in_one_line(error)}")


def _work(runtime: Runtime, worker: Worker) -> ExitReport:
    if not runtime.over:
        runtime.writer.ready()
    try:
        if type(worker).run is Worker.run:
            worker.run()
        elif not runtime.over:
            runtime.run_free(worker._as_call(worker.run))
    except BaseException as error:  # noqa: BLE001  # user code may raise anything
        return _run_failed(runtime, error, own=type(worker).run is not Worker.run)
    return _asked_for(runtime)


def _run_failed(runtime: Runtime, error: BaseException, *, own: bool) -> ExitReport:
    if runtime.is_interrupt(error):
        if own:  # else the round has told it
            runtime.tell_besides("run()", error)
        return _INTERRUPTED
    if isinstance(error, Ended):
        return ExitReport(ExitKind.RETURNED, exit_status(error), error.text)
    if isinstance(error, SystemExit):
        if runtime.leaving and exit_status(error) == 0:  # as handlers of SIGTERM do
            runtime.log.info(f"{runtime.last_words or 'run() called sys.exit()'}, asked to leave")
            return _DRAINED
        text = runtime.last_words or f"run() called sys.exit({error.code!r})"
        return _by_itself(runtime, ExitKind.DIED, exit_status(error), text)
    runtime.tell("run() raised", error)
    return ExitReport(ExitKind.DIED, 1, f"run() raised {in_one_line(error)}")


def _asked_for(runtime: Runtime) -> ExitReport:
    """Return the report on a worker whose run() returned."""
    if runtime.asked == INTERRUPT or runtime.raised is not None:
        return _INTERRUPTED
    if runtime.leaving:
        return _DRAINED
    if runtime.over:
        count = runtime.writer.errors_in_row
        text = f"{count} rounds in a row raised, the last: {runtime.last_error}"
        return ExitReport(ExitKind.MAX_ERRORS, 1, text)
    return _by_itself(runtime, ExitKind.RETURNED, 0, "run() returned")


def _by_itself(runtime: Runtime, left: int, status: int, text: str) -> ExitReport:
    """Return the report on a worker that leaves unasked, as far as it has heard."""
    if runtime.took_sigterm and status == 0:
        text += ", perhaps asked to by its handler of SIGTERM"
        return ExitReport(ExitKind.OWN_HANDLER, 0, text)
    return ExitReport(left, status, text)


def tear_down(runtime: Runtime, worker: Worker, report: ExitReport) -> ExitReport:
    """Tear a worker down; return the report, in which a failure of that is."""
    try:
        worker._as_call(worker.teardown)()
        worker._close()
    except SystemExit as error:
        text = f"teardown() called sys.exit({error.code!r})"
        runtime.log.warning(text)
        return _after_teardown(report, text)
    except BaseException as error:  # noqa: BLE001  # user code may raise anything
        runtime.tell("teardown() raised", error)
        return _after_teardown(report, f"teardown() raised {in_one_line(error)}")
    return report


def _after_teardown(report: ExitReport, text: str) -> ExitReport:
    if report.left in (ExitKind.DRAINED, ExitKind.INTERRUPTED):
        return report.replace(left=ExitKind.TEARDOWN_RAISED, text=text)
    return report
