"""Signals of the main process: handlers that do nothing, and a pipe that wakes the loop.

Installed before anything else is imported: to PID 1 a signal without a handler
is lost, and to others it is death. What workers do with theirs is in
:mod:`graced.workers.runtime`.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    Handler = Callable[[int, FrameType | None], None] | signal.Handlers

WATCHED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGQUIT,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGCHLD,
    signal.SIGPIPE,
)
# A terminal sends these to processes that read it or, with `stty tostop`, writes to it from the
# background. What has a handler is told EINTR, and tries again for ever; what ignores them can
# write, and reads an error. See termios(3) and the section on job control in tty_ioctl(4).
OF_TERMINALS = (signal.SIGTTIN, signal.SIGTTOU)
# Sent to all processes they are meant for the main process, which leads its children.
NOT_FOR_CHILDREN = tuple(n for n in WATCHED if n not in (signal.SIGQUIT, signal.SIGCHLD))
PASSED_BY = (*NOT_FOR_CHILDREN, signal.SIGCHLD)  # see pass_by()


def nothing(_number: int, _frame: FrameType | None) -> None:
    """Let the wakeup descriptor do the work, where there is one."""


def pass_by(handler: Handler, *more: int) -> None:
    """In a child that is only told by its channel what to do: heed no signal.

    ``handler`` is :func:`nothing`, or SIG_IGN where the child executes nothing: execve(2)
    hands that down, but no handler. Those of terminals are ignored by all that a worker
    executes, too: else its output would stop it.
    """
    signal.set_wakeup_fd(-1)
    for number in (*NOT_FOR_CHILDREN, *more):
        signal.signal(number, signal.SIG_IGN if number in OF_TERMINALS else handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


class Signals:
    """The signals that came since the last look, each in the order of its arrival."""

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        # A full pipe loses wake-ups, but its reader is awake by then;
        # what must not be lost in a storm is kept by its kind, see take().
        signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        self.had_terminal = has_terminal()
        self.hangup_was_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # by nohup(1)
        for number in WATCHED:
            ignored = self.had_terminal and number in OF_TERMINALS
            signal.signal(number, signal.SIG_IGN if ignored else nothing)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)

    def fileno(self) -> int:
        """Return the descriptor that is readable when a signal came."""
        return self._read_end

    def take(self) -> list[int]:
        """Return the numbers of the signals that came, and forget them."""
        numbers = bytearray()
        while True:
            try:
                data = os.read(self._read_end, 65536)
            except BlockingIOError:
                return list(numbers)
            numbers += data
            if len(data) < 65536:
                return list(numbers)


def has_terminal() -> bool:
    """Whether this process has a controlling terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def leave() -> None:
    """Take no further signal: the interpreter removes all handlers before the process has ended."""
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)


_installed: Signals | None = None


def install() -> Signals:
    """Install the handlers, once for the life of the process."""
    global _installed
    if _installed is None:
        _installed = Signals()
    return _installed
