"""The Worker class that users subclass, and the way through its methods.

What the methods promise is kept in :mod:`.runtime`.
"""

from __future__ import annotations

from graced.host.scoreboard import Left, Phase, Wants
from graced.workers.context import LoadError, Verdict, exit_status, in_one_line
from graced.workers.runtime import INTERRUPT, Life, WorkerInterrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Mapping, Sequence
    from socket import socket
    from types import TracebackType
    from typing import Any, NoReturn

    from graced.workers.runtime import HasFileno

__all__ = ["Worker", "WorkerInterrupt"]


class _Unborn:
    """Gives a worker that was not born in a daemon, in a test say, a life of its own."""

    def __get__(self, worker: Worker, owner: type[Worker]) -> Life:
        life = worker._life = Life.detached()
        return life


class Worker:
    """What one worker does. Subclass it and name the subclass in ``config.yaml``."""

    _life = _Unborn()  # a worker of a daemon has an attribute of its own
    _asks_for = "step(self)"  # what a subclass has to define, unless it has a run() of its own

    # -- what users override -----------------------------------------------------

    def setup(self) -> None:
        """Prepare, in the new process. The worker is ready when this returns."""

    def step(self) -> None:
        """Do one round. Called again and again; what it raises is logged, and the worker stays."""
        raise NotImplementedError(f"{type(self).__name__} has neither step() nor run()")

    def teardown(self) -> None:
        """Clean up, after a drain and after an interrupt, if setup() had returned."""

    def run(self) -> None:
        """Do round after round until asked to drain.

        Override it for a loop of your own over :attr:`draining`; then there are no
        rounds that graced could time or count.
        """
        while not self._life.over:
            self._turn()

    # -- what users call ---------------------------------------------------------

    @property
    def options(self) -> Mapping[str, Any]:
        """The pool's ``options`` from the configuration."""
        return self._life.family.pool.options

    @property
    def pool(self) -> str:
        """The name of the pool."""
        return self._life.family.pool.name

    @property
    def slot(self) -> int:
        """The number of the worker's place in its pool, from 0."""
        return self._life.order.slot

    @property
    def generation(self) -> int:
        """The number of the configuration and code that it runs, from 1."""
        return self._life.family.generation

    @property
    def draining(self) -> bool:
        """Whether the worker has been asked to finish."""
        return self._life.leaving

    @property
    def sockets(self) -> Sequence[socket]:
        """The sockets that the pool listens on, in the order of its ``listen``.

        They are open before the first worker and after the last one: don't shut them down.
        Accepting from them never blocks. :class:`graced.SocketWorker` does it for you.
        """
        return self._life.sockets()

    @property
    def log(self) -> logging.Logger:
        """A logger of the standard library that writes to the daemon's log."""
        import logging

        return logging.getLogger(self.pool)

    def wait(self, seconds: float | None = None) -> bool:
        """Sleep for `seconds`, or without limit; return True at once when asked to drain.

        Meanwhile the worker is ready, not busy, and the round's clock stands still.
        In ``teardown()`` it returns True at once: use :func:`time.sleep` there.
        """
        return self._life.wait(seconds)

    def wait_for(self, fd: int | HasFileno, seconds: float | None = None) -> bool:
        """Sleep until `fd` is readable: True; False when the time is over or a drain asked for.

        `fd` is a descriptor, or what has a ``fileno()``: a socket, say. End-of-file and
        errors are readable, too. The rules are those of :meth:`wait`; in ``teardown()`` it
        returns False at once. OSError if the descriptor is closed.
        """
        return self._life.is_readable(fd, seconds)

    def critical(self, seconds: float) -> Critical:
        """Return a context in which this process is neither interrupted nor killed.

        That holds for `seconds` at most; an interrupt that came meanwhile is raised
        at the end. May be nested. ValueError where `seconds` are more than the
        configuration's ``max_lease``, 1 h unless set.
        """
        return Critical(self._life, seconds)

    def extend(self, seconds: float) -> None:
        """Let the round in hand take until `seconds` from now."""
        self._life.score.extend(seconds)

    def recycle(self) -> None:
        """Ask to be replaced. Rounds go on until the replacement is ready."""
        self._life.score.want(Wants.RECYCLE)

    # -- for graced's own workers --------------------------------------------------

    def _turn(self) -> None:
        """Do one turn of the default :meth:`run`: by default a round of :meth:`step`."""
        try:
            self._life.round(self.step)
        except BaseException as error:
            if isinstance(error, SystemExit) or self._life.is_interrupt(error):
                raise
            self._tell("step() raised", error)

    def _round(self, call: Callable[..., Any], *args: Any, calm: tuple[type, ...] = ()) -> Any:
        """Run user code as one round, see :meth:`Life.round`."""
        return self._life.round(call, *args, calm=calm)

    def _tell(self, what: str, error: BaseException) -> None:
        """Write a traceback to the log as one record, see :meth:`Life.tell`."""
        self._life.tell(what, error)

    @classmethod
    def _born(cls, life: Life) -> Worker:
        """Make the object; its attributes work in the user's ``__init__``, too."""
        worker = cls.__new__(cls)
        worker._life = life
        life.guarded(worker.__init__)  # type: ignore[misc]  # on purpose, and once
        return worker


class Critical:
    """A section under a lease, see :meth:`Worker.critical`."""

    __slots__ = ("_life", "_seconds")

    def __init__(self, life: Life, seconds: float) -> None:
        self._life = life
        self._seconds = seconds

    def __enter__(self) -> None:
        self._life.score.lease(self._seconds)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._life.end_lease()


# The way through the methods

_DRAINED = Verdict(Left.DRAINED)
_INTERRUPTED = Verdict(Left.INTERRUPTED)


def live(life: Life, load: Callable[[Callable[..., Any]], type[Worker]]) -> NoReturn:
    """Load the class, set up, run, tear down, leave the process."""
    worker, verdict = _set_up(life, load)
    if worker is not None:
        verdict = _work(life, worker)
        life.turn_to_leave()
        verdict = _tear_down(life, worker, verdict)
    else:
        life.turn_to_leave()
    life.leave(verdict)


def rehearse(life: Life) -> None:
    """Live a short life that nobody sees, in a zygote before its first fork.

    What is called for the first time in a process is looked up, linked and
    specialized, and writes to a hundred pages; better once here than in each child.
    """
    worker, _ = _set_up(life, lambda call: _Extra)
    if worker is not None:
        life.score.ready()
        for _ in range(4):
            worker._turn()
    life.wakeup.close()


class _Extra(Worker):
    def step(self) -> None:
        with self.critical(0):
            self.wait(0)


def _set_up(
    life: Life, load: Callable[[Callable[..., Any]], type[Worker]]
) -> tuple[Worker | None, Verdict]:
    life.score.enter(Phase.SETUP)
    if life.over:  # asked to leave before there was anything to interrupt
        return None, _INTERRUPTED
    try:
        worker = load(life.guarded)._born(life)
        life.guarded(worker.setup)
    except BaseException as error:  # noqa: BLE001  # user code may raise anything
        return None, _setup_failed(life, error)
    return worker, _DRAINED


def _setup_failed(life: Life, error: BaseException) -> Verdict:
    if life.is_interrupt(error):
        life.tell_besides("setup()", error)
        return _INTERRUPTED
    if isinstance(error, SystemExit):
        text = f"setup() called sys.exit({error.code!r})"
        if life.leaving and exit_status(error) == 0:
            life.diary.info(f"{text}, asked to leave")
            return _INTERRUPTED
        return Verdict(Left.DIED, exit_status(error), text)
    if isinstance(error, LoadError):
        if error.__cause__ is not None:  # else the reason says it all
            life.tell("the code cannot be imported", error.__cause__)
        return Verdict(Left.SETUP_FAILED, 1, error.reason)
    life.tell("setup() raised", error)
    return Verdict(Left.SETUP_FAILED, 1, f"setup() raised {in_one_line(error)}")


def _work(life: Life, worker: Worker) -> Verdict:
    if not life.over:
        life.score.ready()
    try:
        if type(worker).run is Worker.run:
            worker.run()
        elif not life.over:
            life.run_free(worker.run)
    except BaseException as error:  # noqa: BLE001  # user code may raise anything
        return _run_failed(life, error, own=type(worker).run is not Worker.run)
    return _asked_for(life)


def _run_failed(life: Life, error: BaseException, *, own: bool) -> Verdict:
    if life.is_interrupt(error):
        if own:  # else the round has told it
            life.tell_besides("run()", error)
        return _INTERRUPTED
    if isinstance(error, SystemExit):
        if life.leaving and exit_status(error) == 0:  # as handlers of SIGTERM do
            life.diary.info(f"{life.last_words or 'run() called sys.exit()'}, asked to leave")
            return _DRAINED
        text = life.last_words or f"run() called sys.exit({error.code!r})"
        return _by_itself(life, Left.DIED, exit_status(error), text)
    life.tell("run() raised", error)
    return Verdict(Left.DIED, 1, f"run() raised {in_one_line(error)}")


def _asked_for(life: Life) -> Verdict:
    """Return the verdict on a run() that returned."""
    if life.asked == INTERRUPT or life.raised is not None:
        return _INTERRUPTED
    if life.leaving:
        return _DRAINED
    if life.over:
        text = f"{life.score.errors_in_row} rounds in a row raised, the last: {life.last_words}"
        return Verdict(Left.MAX_ERRORS, 1, text)
    return _by_itself(life, Left.RETURNED, 0, "run() returned")


def _by_itself(life: Life, left: int, status: int, text: str) -> Verdict:
    """Return the verdict on one that leaves unasked, as far as we have heard."""
    if life.is_deaf and status == 0:
        return Verdict(Left.OWN_HANDLER, 0, f"{text}, perhaps asked to by its handler of SIGTERM")
    return Verdict(left, status, text)


def _tear_down(life: Life, worker: Worker, verdict: Verdict) -> Verdict:
    try:
        worker.teardown()
    except SystemExit as error:
        text = f"teardown() called sys.exit({error.code!r})"
        life.diary.warning(text)
        return _after_teardown(verdict, text)
    except BaseException as error:  # noqa: BLE001  # user code may raise anything
        life.tell("teardown() raised", error)
        return _after_teardown(verdict, f"teardown() raised {in_one_line(error)}")
    return verdict


def _after_teardown(verdict: Verdict, text: str) -> Verdict:
    if verdict.left in (Left.DRAINED, Left.INTERRUPTED):
        return verdict.replace(left=Left.TEARDOWN_RAISED, text=text)
    return verdict
