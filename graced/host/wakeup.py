"""What wakes a worker that waits: a pipe that signals write to, for the thread that hears them.

Other threads share an eventfd that stays readable. What a signal means is none of its
business: what sleeps looks by itself, before and after.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from _thread import allocate_lock
from collections.abc import Iterable

MAX_POLL_S = 20 * 86400.0  # seconds: poll() counts milliseconds in 32 bits

_level_lock = allocate_lock()


class Wakeup:
    """The pipe of one process, made where it is needed, and a poll that has it."""

    __slots__ = ("_level", "_pipe", "poll")

    def __init__(self) -> None:
        self.poll = select.poll()
        self._pipe: tuple[int, int] | None = None
        self._level = -1

    def fileno(self) -> int:
        """Return the descriptor that is readable when a signal has come."""
        return (self._pipe or self.open())[0]

    def open(self) -> tuple[int, int]:
        """Make the pipe, and let signals write to it."""
        pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._use(pipe)
        return pipe

    def open_own(self) -> None:
        """Replace the inherited pipe; everything else knows it by its numbers."""
        inherited = self._pipe
        if inherited is not None:
            os.close(inherited[0])
            os.close(inherited[1])
        pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        if pipe != inherited:
            self.poll = select.poll()
            self._use(pipe)

    def _use(self, pipe: tuple[int, int]) -> None:
        self._pipe = pipe
        self.poll.register(pipe[0], select.POLLIN)
        self.listen()

    def listen(self) -> None:
        """Let signals write to this pipe, not to another that was used here meanwhile."""
        if self._pipe is not None:
            signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)

    def borrow(self) -> int:
        """Let signals write to this pipe for a while; return what has to be given back."""
        pipe = self._pipe or self.open()
        return signal.set_wakeup_fd(pipe[1], warn_on_full_buffer=False)

    def give_back(self, foreign: int) -> None:
        """Restore what user code had set, such as an event loop's; it may be closed by now."""
        if self._pipe is None or foreign == self._pipe[1]:
            return
        try:
            signal.set_wakeup_fd(foreign, warn_on_full_buffer=False)
        except (ValueError, OSError):
            pass

    def empty(self) -> None:
        """Read what signals have written."""
        try:
            while len(os.read(self.fileno(), 4096)) == 4096:
                pass
        except BlockingIOError:
            pass

    def wake(self) -> None:
        """Wake the thread that hears signals, as one of them would."""
        if self._pipe is not None:
            os.write(self._pipe[1], b"\0")

    def close(self) -> None:
        """Let signals write nowhere; for a process that goes on without them."""
        if self._pipe is not None:
            signal.set_wakeup_fd(-1)
            os.close(self._pipe[0])
            os.close(self._pipe[1])
            self._pipe = None
        if self._level >= 0:
            os.close(self._level)
            self._level = -1

    def forget(self) -> None:
        """In a forked process: what is here is its parent's."""
        signal.set_wakeup_fd(-1)
        self._pipe, self._level = None, -1
        self.poll = select.poll()

    # -- other threads -----------------------------------------------------------

    def level(self) -> int:
        """Return the descriptor that is readable once :meth:`raise_level` was called.

        Look after this call whether there is still anything to wait for.
        """
        with _level_lock:
            if self._level < 0:
                self._level = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        return self._level

    def raise_level(self) -> None:
        """Wake all other threads, now and from now on."""
        if self._level >= 0:
            os.eventfd_write(self._level, 1)


def sleep_on(fds: Iterable[int], seconds: float | None) -> list[int]:
    """Sleep until a descriptor is readable, or the time is over; in any thread.

    Returns those that are readable. OSError if one is closed.
    """
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    end = None if seconds is None else time.monotonic() + seconds
    while not (found := poll.poll(rest(end))) and (end is None or time.monotonic() < end):
        pass  # longer than one poll() can take
    check_open(found)
    return [fd for fd, _ in found]


def check_open(found: list[tuple[int, int]]) -> None:
    """OSError if a poll has found that a descriptor is closed: it would find that for ever."""
    for fd, event in found:
        if event & select.POLLNVAL:
            raise OSError(errno.EBADF, f"cannot wait for descriptor {fd}: it is closed")


def rest(end: float | None) -> float | None:
    """Return what poll() should wait for: milliseconds, as many as it can take."""
    if end is None:
        return None
    return min(max(end - time.monotonic(), 0.0), MAX_POLL_S) * 1000
