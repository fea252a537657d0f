"""A worker's life: its signals, its rounds, and what it writes to the scoreboard.

Everything that :class:`graced.worker.Worker` promises is kept here, out of the way of
the names that users see on their own objects. No decisions about other processes.

How an interrupt reaches user code: the handler of SIGINT raises only if the nearest
frame of graced's, going up from where the signal hit, is :meth:`Life.guarded`. Then
user code runs that we have called as such. Anywhere else the wish is kept:
:meth:`Life.wait_for` and the end of a critical section raise by themselves, and the
sender repeats the signal until it is acknowledged. It is acknowledged not where it is
raised but once that has proved to hold: an exception raised in a ``__del__`` is lost.
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import sys
import time
from _thread import allocate_lock, get_ident

from graced.core import settings
from graced.family import Family, Order, Verdict, Voice
from graced.host import process, stacks
from graced.host.log import Log
from graced.host.scoreboard import (
    ACK,
    DEADLINE,
    ERRORS,
    GOOD,
    LEASE_SINCE,
    LEASE_UNTIL,
    LEASED,
    PHASE,
    READY_AT,
    RING_BUSY,
    RING_GOOD,
    ROUND_STARTED,
    ROUNDS,
    STACKS,
    WANTS,
    Ack,
    Phase,
    Wants,
    WorkerRecord,
    fence,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket
    from types import FrameType
    from typing import Any, Final, Literal, NoReturn, Protocol

    Woken = Literal["readable", "draining", "timeout"]

    class Poll(Protocol):
        """What a wait sleeps on."""

        def poll(self, milliseconds: float | None, /) -> list[tuple[int, int]]: ...


SECOND: Final = 1_000_000_000  # ns
NOTHING: Final = 0  # what a worker has been asked for, worse by worse
DRAIN: Final = 1
INTERRUPT: Final = 2
PARENT_DIED: Final = signal.SIGRTMIN  # first the middle process: the adoption; then main
CENTURY: Final = 36525 * 86400.0  # seconds: no length of time that users name is longer
LONGEST_POLL: Final = 20 * 86400.0  # seconds: poll() counts milliseconds in 32 bits
ANSWERED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, PARENT_DIED)

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_now = time.monotonic_ns
_level_lock = allocate_lock()


class WorkerInterrupt(BaseException):
    """Raised in a worker's main thread when it is to leave at once.

    At most once, only in ``setup``, ``step``, ``handle`` and ``wait``. Clean up and let
    it pass; ``teardown()`` runs afterwards. Not an :class:`Exception`, so that
    ``except Exception`` lets it through.
    """


class Life:
    """One worker's life, from its first signal handler to its last words."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.order = Order(worker=0, record=0, slot=0)
        self.record = WorkerRecord.detached()
        self.words = self.record.words
        self.diary = family.voice  # what graced says about us
        self.asked = NOTHING
        self.armed = False  # user code runs that may be interrupted
        self.astray = False  # a process that user code forked: see _forget()
        self.raised: WorkerInterrupt | None = None
        self.phase = Phase.EMPTY
        self.errors_in_row = 0
        self.last_words = ""  # what the last round that went wrong said
        self._max_errors = family.pool.max_errors
        self._round_limit = int((family.pool.round_timeout or 0) * SECOND)
        self._ring_message = b""
        self._answered_busy = 0
        self._answered_good = 0
        self._leases = 0
        self._rss_checked = 0
        self._statm = -1
        self._level = -1
        self._stacks_fd = -1
        self._mask_at_fork: set[int] = set()
        self._windows: stacks.Stacks | None = None
        self._pipe: tuple[int, int] | None = None
        self._poll = select.poll()
        self._sockets: list[socket] | None = None
        self._thread = get_ident()

    @classmethod
    def detached(cls) -> Life:
        """Return a life outside of any daemon, for users' own tests of their workers."""
        family = Family(settings.Pool("detached"), 0, "detached", os.getppid(), -1, Voice.of(Log()))
        return cls(family)

    # -- birth -----------------------------------------------------------------

    def prepare(self, windows: stacks.Stacks | None) -> None:
        """Do all that workers have in common, once for those who are forked next.

        With all signals blocked. What is opened here is opened anew for each
        worker, under the same numbers: see :meth:`own`.
        """
        self._install_handlers()
        self._open_pipe()
        self._previous_hook = sys.unraisablehook
        sys.unraisablehook = self._unraisable
        self._windows = windows
        if windows is not None:
            fd = self._stacks_fd = windows.reserve()
            faulthandler.register(signal.SIGQUIT, file=fd, all_threads=True, chain=True)
            faulthandler.enable(file=fd, all_threads=True)

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
            signal.signal(number, handler)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def own(self) -> None:
        """Open what the worker that is forked next shares with nobody."""
        self._open_own_pipe()
        if self._windows is not None:
            self._windows.open_at(self._stacks_fd, 0)

    def become(self, order: Order, record: WorkerRecord) -> None:
        """Be this worker. What is written before a fork stays shared."""
        self.order = order
        self.record = record
        self.words = record.words
        self.phase = Phase.BORN
        self._rss_checked = _now()  # who is too large from the first may at least live so long
        self._ring_message = order.worker.to_bytes(8, "little")
        self.diary.slot_is(order.slot)
        if self._stacks_fd >= 0:
            stacks.rewind(self._stacks_fd, order.record)

    def begin(self) -> None:
        """Let signals come, in the worker itself."""
        if self.family.title is not None:
            self._set_title(self.family.title)
        os.register_at_fork(
            before=self._before_fork,
            after_in_parent=self._after_fork,
            after_in_child=self._forget,
        )
        process.restore(())

    def _set_title(self, set_title: Callable[[str], None]) -> None:
        pool, generation = self.family.pool.name, self.family.generation
        set_title(f"{self.family.name}: worker {pool}/{self.order.slot} gen {generation}")
        process.set_name("graced-worker")  # the title has changed that, too

    def _open_pipe(self) -> tuple[int, int]:
        pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._use_pipe(pipe)
        return pipe

    def _use_pipe(self, pipe: tuple[int, int]) -> None:
        self._pipe = pipe
        self._poll.register(pipe[0], select.POLLIN)
        self.listen()

    def listen(self) -> None:
        """Let signals wake this life, not another that was lived here meanwhile."""
        if self._pipe is not None:
            signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)

    def _open_own_pipe(self) -> None:
        """Replace the inherited pipe; everything else knows it by its numbers."""
        inherited = self._pipe
        if inherited is not None:
            os.close(inherited[0])
            os.close(inherited[1])
        pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        if pipe != inherited:
            self._poll = select.poll()
            self._use_pipe(pipe)

    def _before_fork(self) -> None:
        """Let no signal for a child come before the child is one."""
        self._mask_at_fork = process.block(*ANSWERED)

    def _after_fork(self) -> None:
        process.restore(self._mask_at_fork)

    def _forget(self) -> None:
        """In a process forked by user code: it is no worker, its signals are its own."""
        self.astray = True
        signal.set_wakeup_fd(-1)
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
            if _is_ours(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        if _is_ours(signal.getsignal(signal.SIGINT)):
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self.record = WorkerRecord.detached()
        self.words = self.record.words
        self._ring_message = b""
        self._pipe, self._level = None, -1
        self._poll = select.poll()
        process.restore(self._mask_at_fork)

    # -- signals -----------------------------------------------------------------

    def _ask(self, what: int) -> None:
        self.asked = max(self.asked, what)
        if self._level >= 0:
            os.eventfd_write(self._level, 1)

    def _on_drain(self, number: int, frame: FrameType | None) -> None:
        self._ask(DRAIN)
        if Phase.BORN <= self.phase <= Phase.SETUP:
            self._interrupt_at(frame)
        else:
            self._acknowledge(Ack.DRAIN)

    def _on_parent_died(self, number: int, frame: FrameType | None) -> None:
        if os.getppid() != self.family.main_pid:  # else it is an echo of the adoption
            self._on_drain(number, frame)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        self._ask(INTERRUPT)
        self._interrupt_at(frame)

    def _on_stacks(self, number: int, frame: FrameType | None) -> None:
        """Say that faulthandler, which comes before us, has printed."""
        if self._stacks_fd >= 0:
            stacks.rewind(self._stacks_fd, self.order.record)
        self.words[STACKS] += 1
        self.ring()

    def _interrupt_at(self, frame: FrameType | None) -> None:
        """Raise where the signal hit, if that is allowed; else leave it for later."""
        if self.raised is not None or self.phase > Phase.BUSY:
            self._acknowledge_interrupt()
        elif self.due() and _is_user_code(frame):
            self.interrupt()

    def due(self) -> bool:
        """Return whether an interrupt is wanted, not yet raised, and allowed here."""
        if self.asked == NOTHING or self.raised is not None or not self.armed:
            return False
        return (self.asked == INTERRUPT or self.phase == Phase.SETUP) and not self._leased()

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
        self._acknowledge(Ack.INTERRUPT if self.asked == INTERRUPT else Ack.DRAIN_IN_SETUP)

    def _acknowledge(self, ack: int) -> None:
        if self.words[ACK] < ack:
            self.words[ACK] = ack
            self.ring()

    def ring(self) -> None:
        """Have the main process look at our record."""
        if not self._ring_message:
            return
        try:
            os.write(self.family.bell, self._ring_message)
        except OSError:  # full: it has enough to look at; broken: it is gone
            pass

    # -- rounds ------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether there are to be no more rounds."""
        return self.asked != NOTHING or self.errors_in_row >= self._max_errors

    def guarded(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call user code, which may be interrupted meanwhile. The one place that does."""
        armed, self.armed = self.armed, True
        try:
            result = call(*args)
        except BaseException as error:
            if self.astray:
                self._end_astray(call, error)
            raise
        finally:
            self.armed = armed
        if self.astray:
            self._end_astray(call, None)
        return result

    def _end_astray(self, call: Callable[..., Any], error: BaseException | None) -> NoReturn:
        """End a child that user code forked and let come back to us, or it would work on."""
        status = 1
        if isinstance(error, SystemExit):
            status = exit_status(error)
        elif error is not None:
            self.diary.exception(f"a process that {_name(call)}() forked raised", error)
        else:
            self.diary.warning(f"a process that {_name(call)}() forked came back; it is ended")
        process.flush()
        os._exit(status)

    def round(self, call: Callable[..., Any], *args: Any, calm: tuple[type, ...] = ()) -> Any:
        """Run user code as one round: timed, counted, interruptible.

        Returns what it returns, raises what it raises. Exceptions in `calm` end a
        round like any other, but are no errors.
        """
        words = self.words
        now = words[ROUND_STARTED] = _now()
        words[DEADLINE] = now + self._round_limit if self._round_limit else 0
        self._turn_busy()
        try:
            result = self.guarded(call, *args)
        except BaseException as error:
            self._end_bad_round(call, error, calm)
            raise
        self._end_good_round()
        return result

    def _turn_busy(self) -> None:
        words = self.words
        words[PHASE] = self.phase = Phase.BUSY
        fence()
        asked = words[RING_BUSY]
        if asked != self._answered_busy:
            self._answered_busy = asked
            self.ring()

    def _turn_ready(self) -> None:
        """DEADLINE stays: read with a PHASE that was still BUSY, 0 would mean `none`."""
        words = self.words
        words[PHASE] = self.phase = Phase.READY
        words[ROUND_STARTED] = 0

    def _end_good_round(self) -> None:
        words = self.words
        words[GOOD] += 1
        self.errors_in_row = 0
        self._end_round()
        fence()
        asked = words[RING_GOOD]
        if asked != self._answered_good:
            self._answered_good = asked
            self.ring()

    def _end_bad_round(
        self, call: Callable[..., Any], error: BaseException, calm: tuple[type, ...]
    ) -> None:
        if isinstance(error, calm):
            self._end_good_round()
            return
        if isinstance(error, SystemExit):
            self.last_words = f"{_name(call)}() called sys.exit({error.code!r})"
        elif not self.is_interrupt(error):
            self.words[ERRORS] += 1
            self.errors_in_row += 1
            self.last_words = f"{_name(call)}() raised {in_one_line(error)}"
        self._end_round()

    def _end_round(self) -> None:
        words = self.words
        self._turn_ready()
        rounds = words[ROUNDS] = words[ROUNDS] + 1
        order = self.order
        if order.max_rounds and rounds >= order.max_rounds:
            self.want(Wants.MAX_ROUNDS)
        if order.max_rss:
            self._check_rss(order.max_rss)

    def is_interrupt(self, error: BaseException) -> bool:
        """Return whether it is the interrupt we were asked for; users may raise their own."""
        return isinstance(error, WorkerInterrupt) and self.raised is not None

    def want(self, why: int) -> None:
        """Ask to be replaced; we go on until told to drain."""
        if self.words[WANTS] == Wants.NOTHING:
            self.words[WANTS] = why
            self.ring()

    def _check_rss(self, limit: int) -> None:
        now = _now()
        if now - self._rss_checked >= SECOND:
            self._rss_checked = now
            if self._rss() >= limit:
                self.want(Wants.MAX_RSS)

    def _rss(self) -> int:
        try:
            if self._statm < 0:
                self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
            return int(os.pread(self._statm, 128, 0).split()[1]) * _PAGE
        except OSError:  # no /proc
            return 0

    def extend(self, seconds: float) -> None:
        """Let the round in hand take until `seconds` from now."""
        length = int(_sane(seconds) * SECOND)
        before, now = self.words[DEADLINE], _now()
        deadline = self.words[DEADLINE] = now + length
        if self.phase == Phase.BUSY and not 0 < before <= deadline:
            self.ring()  # the main process sleeps until a later time, or for ever

    # -- waiting -----------------------------------------------------------------

    def wait(self, seconds: float | None) -> bool:
        """Sleep; True at once when asked to drain, and so in teardown(), whatever led there."""
        seconds = None if seconds is None else _sane(seconds)
        if self.phase > Phase.BUSY:
            return True
        if get_ident() != self._thread:
            return self._wait_elsewhere(seconds)
        return self.wait_for(None, seconds) == "draining"

    def _wait_elsewhere(self, seconds: float | None) -> bool:
        """Sleep in another thread: they share an eventfd that stays readable once we drain."""
        with _level_lock:
            if self._level < 0:
                self._level = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        if self.asked == NOTHING:
            poll = select.poll()
            poll.register(self._level, select.POLLIN)
            end = None if seconds is None else time.monotonic() + seconds
            while not poll.poll(_rest(end)) and (end is None or time.monotonic() < end):
                pass  # longer than one poll() can take
        return self.asked != NOTHING

    def wait_for(self, fd: int | None, seconds: float | None, *, heed_drain: bool = True) -> Woken:
        """Sleep until `fd` is readable, we are asked to drain, or the time is over.

        The worker counts as ready meanwhile and the round's clock stands still. No
        signal is lost between a look and the sleep, and nothing ticks. Raises
        WorkerInterrupt if one is due, that is called from within a round or setup().
        Without `heed_drain` a drain does not end the wait.
        """
        pipe = self._pipe or self._open_pipe()
        if fd is not None:
            self._poll.register(fd, select.POLLIN)
        foreign = signal.set_wakeup_fd(pipe[1], warn_on_full_buffer=False)
        pause = self._pause()
        try:
            return self._sleep(pipe[0], seconds, heed_drain)
        finally:
            self._resume(pause)
            if fd is not None:
                self._poll.unregister(fd)
            if foreign != pipe[1]:
                _give_back_wakeup(foreign)

    def wait_with(self, poll: Poll) -> Woken:
        """Sleep until one of what `poll` has been given is ready, or we are asked to drain.

        As :meth:`wait_for`, for those who wait for the same again and again. `poll` has
        been given :meth:`wakeup`, too.
        """
        pipe = self._pipe or self._open_pipe()
        foreign = signal.set_wakeup_fd(pipe[1], warn_on_full_buffer=False)
        try:
            return self._sleep(pipe[0], None, True, poll)
        finally:
            if foreign != pipe[1]:
                _give_back_wakeup(foreign)

    def wakeup(self) -> int:
        """Return the descriptor that is readable when a signal has come."""
        return (self._pipe or self._open_pipe())[0]

    def sockets(self) -> list[socket]:
        """Return the sockets that the pool listens on."""
        if self._sockets is None:
            from socket import socket

            self._sockets = [socket(fileno=fd) for fd in self.family.listen]
            for each in self._sockets:
                each.setblocking(False)
        return self._sockets

    def _sleep(
        self, pipe: int, seconds: float | None, heed_drain: bool, poll: Poll | None = None
    ) -> Woken:
        poll = poll or self._poll
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            if self.due():
                self.interrupt()
            if heed_drain and self.asked != NOTHING:
                return "draining"
            woken = [fd for fd, _ in poll.poll(_rest(end))]
            if any(fd != pipe for fd in woken):
                return "readable"
            if woken:
                _empty(pipe)
            elif end is not None and time.monotonic() >= end:
                return "timeout"

    def _pause(self) -> tuple[int, int | None] | None:
        """Stop the round's clock; return how long it ran and what was left."""
        if self.phase != Phase.BUSY:
            return None
        words, now = self.words, _now()
        deadline = words[DEADLINE]
        pause = now - words[ROUND_STARTED], deadline - now if deadline else None
        self._turn_ready()
        return pause

    def _resume(self, pause: tuple[int, int | None] | None) -> None:
        if pause is None:
            return
        words, now = self.words, _now()
        ran, left = pause
        words[ROUND_STARTED] = now - ran
        words[DEADLINE] = 0 if left is None else now + left
        self._turn_busy()

    # -- critical sections -------------------------------------------------------

    def _leased(self) -> bool:
        until = self.words[LEASE_UNTIL]
        return until != 0 and _now() < until

    def lease(self, seconds: float) -> None:
        """Begin a section that is neither interrupted nor killed; an inner one may prolong it."""
        length = int(_sane(seconds) * SECOND)  # what is no number has begun nothing
        words, now = self.words, _now()
        self._leases += 1
        if self._leases == 1:
            words[LEASE_SINCE] = now
        words[LEASE_UNTIL] = max(words[LEASE_UNTIL], now + length)

    def end_lease(self) -> None:
        """End a section; the outermost delivers what was asked meanwhile."""
        self._leases -= 1
        if self._leases:
            return
        words = self.words
        since, until = words[LEASE_SINCE], words[LEASE_UNTIL]
        words[LEASED] += min(_now(), until) - since
        words[LEASE_UNTIL] = 0
        words[LEASE_SINCE] = 0
        if self.asked != NOTHING or 0 < words[DEADLINE] < _now():
            self.ring()  # the lease held the ladder, or the kill of a round past its time
        if self.due():
            self.interrupt()

    def put_away(self) -> None:
        """Close what waiting has opened; for lives that don't end with a process."""
        if self._pipe is not None:
            signal.set_wakeup_fd(-1)
            os.close(self._pipe[0])
            os.close(self._pipe[1])
            self._pipe = None

    # -- stations ----------------------------------------------------------------

    def enter(self, phase: int) -> None:
        """Go on to another part of life."""
        self.words[PHASE] = self.phase = phase

    def ready(self) -> None:
        """setup() is over."""
        self.words[READY_AT] = _now()
        self.enter(Phase.READY)
        self.ring()

    def run_free(self, call: Callable[[], Any]) -> None:
        """Call a run() of the user's own: interruptible, without rounds."""
        self.words[ROUND_STARTED] = _now()
        self.words[DEADLINE] = 0
        self._turn_busy()
        self.guarded(call)

    def turn_to_leave(self) -> None:
        """From here on no interrupt is raised, so the sender may stop."""
        self.enter(Phase.TEARDOWN)
        if self.asked == INTERRUPT or self.raised is not None:
            self._acknowledge_interrupt()
        elif self.asked == DRAIN:
            self._acknowledge(Ack.DRAIN)

    def leave(self, verdict: Verdict) -> NoReturn:
        """Say how it ended, and end."""
        if verdict.text:
            self.record.text = verdict.text
        self.record.left = verdict.left
        self.enter(Phase.LEFT)
        process.flush()
        self.diary.settle()
        self.ring()
        if os.getppid() != self.family.main_pid:
            self._end_own_group()
        os._exit(verdict.status)

    def _end_own_group(self) -> None:
        """Nobody else will: the main process is gone."""
        if self.record.child_group:
            process.end_group(self.record.child_group)
        process.end_group(os.getpid())


def _leave_alone(number: int, frame: FrameType | None) -> None:
    """Do nothing: unlike SIG_IGN, a handler is not handed down by execve(2)."""


def _is_ours(handler: object) -> bool:
    return handler is _leave_alone or isinstance(getattr(handler, "__self__", None), Life)


_GUARDED: Final = Life.guarded.__code__
_HERE: Final = os.path.dirname(_GUARDED.co_filename) + os.sep


def _is_user_code(frame: FrameType | None) -> bool:
    """Return whether the nearest frame of ours, going up, is the one that calls user code.

    A `__del__` on the way would swallow the exception: better the next signal.
    """
    if frame is None or frame.f_code.co_filename.startswith(_HERE):
        return False
    while frame is not None and frame.f_code.co_name != "__del__":
        if frame.f_code.co_filename.startswith(_HERE):
            return frame.f_code is _GUARDED
        frame = frame.f_back
    return False


def _name(call: Callable[..., Any]) -> str:
    return getattr(call, "__name__", type(call).__name__)


def in_one_line(error: BaseException) -> str:
    """Return `ValueError: what it says`, whatever its `__str__` does."""
    try:
        said = " ".join(str(error).split())
    except Exception as worse:  # noqa: BLE001  # user code's __str__ may raise anything
        said = f"(its str() raised {type(worse).__name__})"
    name = type(error).__name__
    return f"{name}: {said}" if said else name


def _sane(seconds: float) -> float:
    """Return a length of time that can be reckoned with: from 0 to a century."""
    if seconds != seconds:
        raise ValueError("seconds must be a number, not NaN")
    return min(max(seconds + 0.0, 0.0), CENTURY)  # what is no number raises TypeError


def _rest(end: float | None) -> float | None:
    """Return what poll() should wait for: milliseconds, as many as it can take."""
    if end is None:
        return None
    return min(max(end - time.monotonic(), 0.0), LONGEST_POLL) * 1000


def exit_status(error: SystemExit) -> int:
    """Return what Python would exit with."""
    if error.code is None:
        return 0
    return error.code & 0xFF if isinstance(error.code, int) else 1


def _empty(pipe: int) -> None:
    try:
        while len(os.read(pipe, 4096)) == 4096:
            pass
    except BlockingIOError:
        pass


def _give_back_wakeup(fd: int) -> None:
    """Restore what user code had set, such as an event loop's; it may be closed by now."""
    try:
        signal.set_wakeup_fd(fd, warn_on_full_buffer=False)
    except (ValueError, OSError):
        pass
