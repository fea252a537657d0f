"""A worker at run time: the signals that it answers, and the user code that it calls meanwhile.

What :class:`graced.workers.base.Worker` promises is kept here, out of the way of the names that
users see on their own objects. What the main process is told of it is in
:mod:`.record`. No decisions about other processes.

How an interrupt reaches user code: the handler of SIGINT raises only if the nearest
frame of graced's, going up from where the signal hit, is :meth:`Runtime.guarded`. Then
user code runs that we have called as such. Anywhere else the wish is kept:
:meth:`Runtime.wait_for` and the end of a critical section raise by themselves, and the
sender repeats the signal until it is acknowledged. It is acknowledged not where it is
raised but once that has proved to hold: an exception raised in a ``__del__`` is lost.
"""

from __future__ import annotations

import _thread
import faulthandler
import os
import select
import signal
import sys
import time
from _thread import get_ident

from graced import settings
from graced.host import process, stackdump
from graced.host.scoreboard import TOLD, Ack, Phase
from graced.host.wakeup import Wakeup, check_open, rest, sleep_on
from graced.log.logger import Log
from graced.log.worker_log import WorkerLog
from graced.text import in_one_line
from graced.workers.context import ExitReport, SpawnOrder, WorkerContext, alone, exit_status
from graced.workers.record import RecordWriter, sane

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from socket import socket
    from types import FrameType
    from typing import Any, Literal, NoReturn, Protocol

    from graced.client.queue import Queue
    from graced.host.scoreboard import WorkerRecord

    Woken = Literal["readable", "draining", "timeout"]
    Handler = Callable[[int, FrameType | None], None]

    class HasFileno(Protocol):
        """A file, a socket."""

        def fileno(self) -> int: ...

    class Poll(Protocol):
        """What a wait sleeps on."""

        def poll(self, milliseconds: float | None, /) -> list[tuple[int, int]]: ...

    def getsignal(number: int, /) -> Any: ...
    def handle(number: int, handler: Handler | int, /) -> Any: ...
else:  # the public ones look for an enum member at each call
    from _signal import getsignal
    from _signal import signal as handle

NOTHING = 0  # what a worker has been asked for, worse by worse
DRAIN = 1
INTERRUPT = 2
PARENT_DIED = signal.SIGRTMIN  # first the middle process: the adoption; then main
ANSWERED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, PARENT_DIED)


class WorkerInterrupt(KeyboardInterrupt):
    """Raised in a worker's main thread when it is to leave at once.

    At most once, only in ``setup``, ``step``, ``handle`` and ``wait``. Clean up and let
    it pass; ``teardown()`` runs afterwards. Not an :class:`Exception`, so that
    ``except Exception`` lets it through; a :class:`KeyboardInterrupt`, since event loops
    let that out of their tasks and callbacks, and libraries clean up for it.
    """


class Runtime:
    """One worker, from its first signal handler to its exit."""

    def __init__(self, context: WorkerContext) -> None:
        self.context = context
        self.order = SpawnOrder(worker=0, record=0, slot=0)
        self.writer = RecordWriter(context)
        self.wakeup = Wakeup()
        self.log = context.log  # what graced says about us
        self.asked = NOTHING
        self.armed = False  # user code runs that may be interrupted
        self.took_sigterm = False  # user code has heard SIGTERM: we may have been asked to leave
        self.forked_by_user = False  # a process that user code forked: see _forget()
        self.raised: WorkerInterrupt | None = None
        self.last_words = ""  # what has had this worker end
        self.last_error = ""  # of the last round that raised
        self._max_errors = context.pool.max_errors
        self._stacks_fd = -1
        self._mask_at_fork: set[int] = set()
        self._windows: stackdump.Stacks | None = None
        self._sockets: list[socket] | None = None
        self._opened: dict[str, Queue] = {}
        self._thread = get_ident()
        self._is_crowded = False  # there are more threads than faulthandler prints
        self._asked_by: dict[int, Handler] = {}  # our handlers of what asks us to leave
        self.on_asked: Callable[[], None] | None = None  # tells an event loop, which raises later
        self.more_stacks: Callable[[], str] | None = None  # those that are no thread's

    @classmethod
    def detached(cls) -> Runtime:
        """Return a runtime outside of any daemon, for users' own tests of their workers."""
        log = WorkerLog.of(Log())
        context = WorkerContext(settings.Pool("detached"), 0, "detached", os.getppid(), -1, log)
        return cls(context)

    # -- fork ------------------------------------------------------------------

    def prepare(self, windows: stackdump.Stacks | None) -> None:
        """Do all that workers have in common, once for those that are forked next.

        With all signals blocked. What is opened here is opened anew for each
        worker, under the same numbers: see :meth:`own`.
        """
        self._install_handlers()
        self.wakeup.open()
        self._previous_hook = sys.unraisablehook
        sys.unraisablehook = self._unraisable
        self._windows = windows
        if windows is not None:
            self._stacks_fd = windows.reserve()
            self._print_stacks(all_threads=True)
        process.enlarge_signal_stack()

    def _install_handlers(self) -> None:
        ours = {
            signal.SIGTERM: self._on_drain,
            signal.SIGINT: self._on_interrupt,
            signal.SIGQUIT: self._on_stacks,
            PARENT_DIED: self._on_parent_died,
            # Not SIG_IGN: that would be handed down to everything the worker executes.
            signal.SIGHUP: _leave_alone,
            signal.SIGUSR1: _leave_alone,
            signal.SIGUSR2: _leave_alone,
        }
        faulthandler.unregister(signal.SIGQUIT)  # the zygote's: else ours is never installed
        for number, handler in ours.items():
            handle(number, handler)
        self._asked_by = {number: ours[number] for number in (signal.SIGTERM, signal.SIGINT)}
        handle(signal.SIGCHLD, int(signal.SIG_DFL))
        handle(signal.SIGPIPE, int(signal.SIG_IGN))

    def _print_stacks(self, *, all_threads: bool) -> None:
        """Have faulthandler print stacks, of all threads or of the one that hears the signal."""
        fd = self._stacks_fd
        faulthandler.register(signal.SIGQUIT, file=fd, all_threads=all_threads, chain=True)
        faulthandler.enable(file=fd, all_threads=all_threads)
        self._is_crowded = not all_threads

    def _count_threads(self) -> None:
        """Have at least the main thread's stack where there are more threads than are printed."""
        crowded = _thread._count() >= stackdump.MAX_THREADS  # besides the main one
        if crowded != self._is_crowded and self._stacks_fd >= 0 and not self.forked_by_user:
            self._print_stacks(all_threads=not crowded)

    def _take_back(self) -> None:
        """Hear again what an event loop has heard; as it closes it leaves no handler."""
        for number, ours in self._asked_by.items():
            heard_by = getsignal(number)
            if number == signal.SIGTERM and heard_by != ours:
                self.took_sigterm = True
            if heard_by in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, ours)

    def own(self) -> None:
        """Open what the worker that is forked next shares with no other process."""
        self.wakeup.open_own()
        if self._windows is not None:
            self._windows.open_at(self._stacks_fd, 0)

    def become(self, order: SpawnOrder, record: WorkerRecord) -> None:
        """Be this worker. What is written before a fork stays shared."""
        self.order = order
        self.writer.become(order, record)
        self.log.set_slot(order.slot)
        if self._stacks_fd >= 0:
            stackdump.rewind(self._stacks_fd, order.record)

    def begin(self) -> None:
        """Be it for others, too: for those who look at processes, and for what it forks."""
        if self.context.title is not None:
            self._set_title(self.context.title)
        os.register_at_fork(
            before=self._before_fork,
            after_in_parent=self._after_fork,
            after_in_child=self._forget,
        )
        os.environ["GRACED_SLOT"] = str(self.order.slot)

    def _set_title(self, set_title: Callable[[str], None]) -> None:
        pool, generation = self.context.pool.name, self.context.generation
        set_title(f"{self.context.name}: worker {pool}/{self.order.slot} gen {generation}")
        process.set_name("worker")  # the title has changed that, too

    def _before_fork(self) -> None:
        """Let no signal for a child come before the child is one."""
        self._mask_at_fork = process.block(*ANSWERED)

    def _after_fork(self) -> None:
        process.restore(self._mask_at_fork)

    def _forget(self) -> None:
        """In a process forked by user code: it is no worker, its signals are its own."""
        self.forked_by_user = True
        self._asked_by = {}
        self.wakeup.forget()
        faulthandler.unregister(signal.SIGQUIT)
        faulthandler.disable()
        for number in (
            signal.SIGTERM,
            signal.SIGHUP,
            signal.SIGQUIT,
            signal.SIGUSR1,
            signal.SIGUSR2,
            PARENT_DIED,
        ):
            if _is_ours(getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        if _is_ours(getsignal(signal.SIGINT)):
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self.writer.detach()
        process.restore(self._mask_at_fork)

    # -- signals -----------------------------------------------------------------

    def _ask(self, what: int) -> None:
        self.asked = max(self.asked, what)
        self.wakeup.raise_level()
        if self.on_asked is not None:
            self.on_asked()

    def _on_drain(self, number: int, frame: FrameType | None) -> None:
        self._ask(DRAIN)
        if Phase.BORN <= self.writer.phase <= Phase.SETUP:
            self._interrupt_at(frame)
        else:
            self.writer.acknowledge(Ack.DRAIN)

    def _on_parent_died(self, number: int, frame: FrameType | None) -> None:
        if os.getppid() != self.context.main_pid:  # else it is an echo of the adoption
            if self.context.listen:
                from graced.host.listeners import let_go  # loaded where they were opened

                let_go(self.context.listen, self.context.alone)
            self._on_drain(number, frame)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        self._ask(INTERRUPT)
        self._interrupt_at(frame)

    def _on_stacks(self, number: int, frame: FrameType | None) -> None:
        """Say that faulthandler, which comes before us, has printed."""
        fd = self._stacks_fd
        if fd >= 0:
            if self._is_crowded:
                faulthandler.dump_traceback(fd, all_threads=True)
            elif _thread._count() >= stackdump.MAX_THREADS:  # since this round began
                os.write(fd, stackdump.written(frame).encode("utf-8", "replace"))
            if self.more_stacks is not None:
                os.write(fd, self.more_stacks().encode("ascii", "backslashreplace"))
            stackdump.rewind(fd, self.order.record)
        self.writer.count_stack()

    def _interrupt_at(self, frame: FrameType | None) -> None:
        """Raise where the signal hit, if that is allowed; else leave it for later."""
        if self.raised is not None or self.writer.phase > Phase.BUSY:
            self._acknowledge_interrupt()
        elif self.due() and _is_user_code(frame) and not _leave_it_to_trio(self._interrupt_if_due):
            self.interrupt()

    def due(self) -> bool:
        """Return whether an interrupt is wanted, not yet raised, and allowed here."""
        if self.asked == NOTHING or self.raised is not None or not self.armed:
            return False
        writer = self.writer
        return (self.asked == INTERRUPT or writer.phase == Phase.SETUP) and not writer.is_leased

    def take_interrupt(self) -> bool:
        """Whether an interrupt is due, which an event loop sees to that it is raised, once."""
        if not self.due():
            return False
        self.raised = WorkerInterrupt()
        self._acknowledge_interrupt()
        return True

    def _interrupt_if_due(self) -> None:
        if self.due():
            self.interrupt()

    def interrupt(self) -> NoReturn:
        """Raise WorkerInterrupt, once."""
        self.raised = WorkerInterrupt()
        raise self.raised

    def _unraisable(self, lost: sys.UnraisableHookArgs, /) -> Any:
        """Notice when the interrupt was lost, in a `__del__` say: the next signal raises again."""
        if lost.exc_value is self.raised and self.raised is not None:
            self.raised = None
        else:
            self._previous_hook(lost)

    def _acknowledge_interrupt(self) -> None:
        ack = Ack.INTERRUPT if self.asked == INTERRUPT else Ack.DRAIN_IN_SETUP
        self.writer.acknowledge(ack)

    # -- rounds ------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether there are to be no more rounds."""
        return self.leaving or self.writer.errors_in_row >= self._max_errors

    @property
    def leaving(self) -> bool:
        """Whether we have been asked to leave, be it by a signal that user code has caught."""
        return self.asked != NOTHING or self.writer.words[TOLD] != NOTHING

    def guarded(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call user code, which may be interrupted meanwhile. The one place that does."""
        armed, self.armed = self.armed, True
        try:
            result = call(*args)
        except BaseException as error:  # user code may raise anything; raised on
            if self.forked_by_user:
                self._end_forked(call, error)
            raise
        finally:
            self.armed = armed
            self._take_back()
            self._count_threads()
        if self.forked_by_user:
            self._end_forked(call, None)
        return result

    def _end_forked(self, call: Callable[..., Any], error: BaseException | None) -> NoReturn:
        """End a child that user code forked and let come back to us, or it would work on."""
        status = 1
        if isinstance(error, SystemExit):
            status = exit_status(error)
        elif error is not None:
            self.tell(f"a process that {_name(call)}() forked raised", error)
        else:
            self.log.warning(f"a process that {_name(call)}() forked came back; it is ended")
        process.flush()
        os._exit(status)

    def round(
        self, call: Callable[..., Any], *args: Any, calm: tuple[type, ...] = (), of: str = ""
    ) -> Any:
        """Run user code as one round: timed, counted, interruptible.

        Returns what it returns; raises what it raises, which it tells of, after the words `of`.
        Exceptions in `calm` end a round like any other, but are no errors.
        """
        writer = self.writer
        writer.begin_round()
        try:
            result = self.guarded(call, *args)
        except BaseException as error:  # as above
            if isinstance(alone(error), calm):
                writer.end_good_round()
            else:
                try:
                    self._tell_of_round(f"{_name(call)}()", error, of)
                finally:
                    writer.end_round()
            raise
        writer.end_good_round()
        return result

    def _tell_of_round(self, what: str, error: BaseException, of: str) -> None:
        """Count and tell what a round raised, while it is timed and may be interrupted.

        Handlers of logging are user code, and may take their time.
        """
        if self.is_interrupt(error):
            self.writer.count_cut()
            self.tell_besides(what, error)
        elif isinstance(error, SystemExit):
            self.writer.count_cut()
            self.last_words = f"{what} called sys.exit({error.code!r})"
        else:
            self.writer.count_error()
            self.last_error = f"{what} raised {in_one_line(error)}"
            self.tell(f"{of}{what} raised", error, self.guarded)

    def is_interrupt(self, error: BaseException) -> bool:
        """Return whether it is, or comes of, the interrupt we were asked for.

        Users may raise their own: those are errors like any other. Where SIGINT is theirs, or
        an event loop's, it raises what it raises for Ctrl-C.
        """
        told = self.writer.words[TOLD] >= INTERRUPT
        kind = KeyboardInterrupt if told else WorkerInterrupt
        return (told or self.raised is not None) and any(
            isinstance(each, kind) for each in _all_in(error)
        )

    def tell_besides(self, who: str, error: BaseException) -> None:
        """Tell what came of an interrupt besides itself."""
        if isinstance(error, SystemExit):
            self.log.info(f"{who} called sys.exit({error.code!r}) when it was interrupted")
        elif not _is_mere_interrupt(error):
            self.tell(f"{who} raised when it was interrupted", error)

    def tell(
        self, what: str, error: BaseException, by: Callable[[Callable[[], None]], Any] | None = None
    ) -> None:
        """Tell of an exception in the log, and in what user code has hung into logging.

        That is called `by`, such as :meth:`guarded`.
        """
        self.log.report(self.context.pool.name, what, error, by)

    # -- waiting -----------------------------------------------------------------

    def wait(self, seconds: float | None) -> bool:
        """Sleep; True at once when asked to drain, and so in teardown(), whatever led there."""
        seconds = None if seconds is None else sane(seconds)
        if self.writer.phase > Phase.BUSY:
            return True
        if get_ident() != self._thread:
            self._sleep_elsewhere(seconds)
            return self.leaving
        return self.wait_for(None, seconds) == "draining"

    def is_readable(self, what: int | HasFileno, seconds: float | None) -> bool:
        """Sleep until `what` is readable; False if the time is over or a drain is asked for."""
        fd = descriptor(what)
        seconds = None if seconds is None else sane(seconds)
        if self.writer.phase > Phase.BUSY:
            return False
        if get_ident() == self._thread:
            return self.wait_for(fd, seconds) == "readable"
        return fd in self._sleep_elsewhere(seconds, fd) and not self.leaving

    def _sleep_elsewhere(self, seconds: float | None, *fds: int) -> list[int]:
        """Sleep in another thread: they share an eventfd that stays readable once we drain."""
        level = self.wakeup.level()
        return [] if self.leaving else sleep_on((level, *fds), seconds)

    def wait_for(self, fd: int | None, seconds: float | None, *, heed_drain: bool = True) -> Woken:
        """Sleep until `fd` is readable, we are asked to drain, or the time is over.

        The worker counts as ready meanwhile and the round's clock stands still. No
        signal is lost between a look and the sleep, and nothing ticks. Raises
        WorkerInterrupt if one is due, that is called from within a round or setup().
        Without `heed_drain` a drain does not end the wait.
        """
        wakeup = self.wakeup
        foreign = wakeup.borrow()
        if fd is not None:
            wakeup.poll.register(fd, select.POLLIN)
        pause = self.writer.pause()
        try:
            return self._sleep(wakeup.poll, seconds, heed_drain)
        finally:
            self.writer.resume(pause)
            if fd is not None:
                wakeup.poll.unregister(fd)
            wakeup.give_back(foreign)

    def wait_with(self, poll: Poll) -> Woken:
        """Sleep until one of what `poll` has been given is ready, or we are asked to drain.

        As :meth:`wait_for`, for loops that wait for the same again and again. `poll` has
        been given :attr:`wakeup`, too.
        """
        foreign = self.wakeup.borrow()
        try:
            return self._sleep(poll, None, True)
        finally:
            self.wakeup.give_back(foreign)

    def sockets(self) -> list[socket]:
        """Return the sockets that the pool listens on."""
        if self._sockets is None:
            from socket import socket

            self._sockets = [socket(fileno=fd) for fd in self.context.listen]
            for each in self._sockets:
                each.setblocking(False)
        return self._sockets

    def sleep_until_ready(self, fd: int, event: int, seconds: float | None) -> bool:
        """Sleep until `fd` can be read or written: True; False once the time is over.

        The round's clock runs on. WorkerInterrupt if one is due.
        """
        if get_ident() != self._thread or self.forked_by_user:
            from graced.queue.client_end import sleep_until_ready

            return sleep_until_ready(fd, event, seconds)
        poll = select.poll()
        poll.register(fd, event)
        poll.register(self.wakeup.fileno(), select.POLLIN)
        foreign = self.wakeup.borrow()
        try:
            return self._sleep(poll, seconds, False) == "readable"
        finally:
            self.wakeup.give_back(foreign)

    def queue(self, name: str | None = None) -> Queue:
        """Return the queue of a pool of our daemon, our own's without a name.

        It is the same each time, until it is closed.
        """
        pool = name or self.context.pool.name
        found = self._opened.get(pool)
        if found is None or found.closed:
            found = self._opened[pool] = self._open_queue(pool)
        return found

    def _open_queue(self, pool: str) -> Queue:
        from graced.client.find import DaemonPlace, Manner
        from graced.client.queue import PATIENCE, Queue
        from graced.queue.client_end import chunks

        _CALLERS.add(chunks.__code__)  # what yields payloads may be interrupted
        if self.context.runtime_dir is None:
            raise RuntimeError("there is no queue outside of a daemon; see graced.Queue.open()")
        manner = Manner(patience=PATIENCE, sleep=self.sleep_until_ready)
        return Queue(DaemonPlace(self.context.runtime_dir, pool, manner))

    def _sleep(self, poll: Poll, seconds: float | None, heed_drain: bool) -> Woken:
        pipe = self.wakeup.fileno()
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            leaving = self.leaving  # looked at first: an interrupt may come between the two looks
            if self.due():
                self.interrupt()
            if heed_drain and leaving:
                return "draining"
            events = poll.poll(rest(end))
            check_open(events)
            woken = [fd for fd, _ in events]
            if any(fd != pipe for fd in woken):
                return "readable"
            if woken:
                self.wakeup.empty()
            elif end is not None and time.monotonic() >= end:
                return "timeout"

    # -- critical sections -------------------------------------------------------

    def end_lease(self) -> None:
        """End a section; the outermost delivers what was asked meanwhile."""
        writer = self.writer
        if not writer.end_lease():
            return
        if self.asked != NOTHING or writer.is_late:
            writer.ring()  # the lease held the ladder, or the kill of a round past its time
        if self.on_asked is not None:
            self.on_asked()
        elif self.due():
            self._interrupt_main_thread()

    def _interrupt_main_thread(self) -> None:
        """Raise WorkerInterrupt there; from another thread by the signal that asks for it."""
        if get_ident() == self._thread or self.forked_by_user:
            self.interrupt()
        signal.pthread_kill(self._thread, signal.SIGINT)

    # -- stations ----------------------------------------------------------------

    def run_free(self, call: Callable[[], Any]) -> None:
        """Call a run() of the user's own: interruptible, without rounds."""
        self.writer.begin_free()
        self.guarded(call)

    def turn_to_leave(self) -> None:
        """From here on no interrupt is raised, so the sender may stop."""
        self.writer.enter(Phase.TEARDOWN)
        self.asked = max(self.asked, self.writer.words[TOLD])
        if self.asked == INTERRUPT or self.raised is not None:
            self._acknowledge_interrupt()
        elif self.asked == DRAIN:
            self.writer.acknowledge(Ack.DRAIN)

    def leave(self, report: ExitReport) -> NoReturn:
        """Say how it ended, and end."""
        self.writer.leave(report)
        process.flush()
        self.log.settle()
        self.writer.ring()
        if os.getppid() != self.context.main_pid:
            self._end_own_group()
        os._exit(report.status)

    def _end_own_group(self) -> None:
        """The main process is gone: no other process would."""
        group = self.writer.record.child_group
        if process.is_group_below(group, os.getpid()):
            process.end_group(group)
        process.end_group(os.getpid())


def _leave_alone(number: int, frame: FrameType | None) -> None:
    """Do nothing: unlike SIG_IGN, a handler is not handed down by execve(2)."""


def _is_ours(handler: object) -> bool:
    return handler is _leave_alone or isinstance(getattr(handler, "__self__", None), Runtime)


_GUARDED = Runtime.guarded.__code__
_CALLERS = {_GUARDED}  # of ours, that call user code
_HERE = os.path.dirname(os.path.dirname(_GUARDED.co_filename)) + os.sep  # all of graced


def _is_user_code(frame: FrameType | None) -> bool:
    """Return whether the nearest frame of ours, going up, is the one that calls user code.

    A `__del__` on the way would swallow the exception: better the next signal. Where no
    frame is ours, user code has switched to another stack, a greenlet's say.
    """
    if frame is None or frame.f_code.co_filename.startswith(_HERE):
        return False
    while frame is not None and frame.f_code.co_name != "__del__":
        if frame.f_code.co_filename.startswith(_HERE):
            return frame.f_code in _CALLERS
        frame = frame.f_back
    return frame is None


def _all_in(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, what a group of them holds, and what led to each.

    Task groups bring an interrupt as a group, a `finally` that raises instead of it as its
    context, an event loop that it hit in its own works as its cause.
    """
    waiting, seen = [error], set[int]()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [led for led in (each.__cause__, each.__context__) if led is not None]
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions


def _is_mere_interrupt(error: BaseException) -> bool:
    """Return whether what an interrupt has become, a group say, tells of nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_mere_interrupt, error.exceptions))
    cause = error.__cause__
    return isinstance(error, KeyboardInterrupt) or (cause is not None and _is_mere_interrupt(cause))


def _leave_it_to_trio(raising: Callable[[], None]) -> bool:
    """Return whether a signal has hit trio's own works; they will call `raising` in a moment.

    Raised there an interrupt would end the loop at once, its tasks halfway; raised from a
    callback it has trio cancel them all.
    """
    trio = sys.modules.get("trio")
    try:
        token = trio.lowlevel.current_trio_token()  # type: ignore[union-attr]
        protected = trio.lowlevel.currently_ki_protected()  # type: ignore[union-attr]
    except (AttributeError, RuntimeError):  # not imported as yet, or it does not run
        return False
    if protected:
        token.run_sync_soon(raising, idempotent=True)
    return bool(protected)


def descriptor(what: int | HasFileno) -> int:
    fileno = getattr(what, "fileno", None)
    fd = what if fileno is None else fileno()
    if not isinstance(fd, int) or isinstance(fd, bool):
        name = type(what).__name__
        raise TypeError(f"a descriptor, or what has a fileno(), can be waited for; not {name}")
    if not 0 <= fd < 1 << 31:
        raise ValueError(f"a descriptor that can be waited for is open; not {fd}")
    return fd


def _name(call: Callable[..., Any]) -> str:
    return getattr(call, "__name__", type(call).__name__)
