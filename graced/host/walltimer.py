"""A timer for a moment of the wall clock that is told when that clock is set.

A time-out of a selector counts neither what the clock was set by nor a suspend. Python has
timerfd_create(2) from 3.13 on.
"""

from __future__ import annotations

import errno
import os
import struct
import time

from graced.host import process

_ABSOLUTE = 1
_CANCEL_ON_SET = 2
_ITIMERSPEC = struct.Struct("@4l")  # interval, then when: seconds and nanoseconds each
_LATEST = 2 ** (2 * _ITIMERSPEC.size - 1) - 1  # seconds that a long holds


class WallTimer:
    """Readable once the wall clock has come to a moment, and whenever it was set before that."""

    clock = time.CLOCK_REALTIME
    _flags = _ABSOLUTE | _CANCEL_ON_SET

    def __init__(self) -> None:
        """OSError if there can be none."""
        self._fd: int = process.libc.timerfd_create(self.clock, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd == -1:
            raise process.c_error("timerfd_create")

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._fd

    def set(self, at_ms: int) -> None:
        """Wait for a moment, in milliseconds of its clock; what was set before is forgotten."""
        now_ms = time.clock_gettime_ns(self.clock) // 1_000_000  # long ago is none of libfaketime's
        at_ms = max(at_ms, now_ms, 1)
        seconds, ms = divmod(at_ms if self._flags else max(at_ms - now_ms, 1), 1000)
        when = _ITIMERSPEC.pack(0, 0, min(seconds, _LATEST), ms * 1_000_000)
        while process.libc.timerfd_settime(self._fd, self._flags, when, None) == -1:
            error = process.c_error("timerfd_settime")
            if error.errno != errno.ECANCELED:  # that is: the clock was set just now
                raise error

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)

    def clear(self) -> None:
        """Be readable no longer, until it is set again."""
        try:
            os.read(self._fd, 8)
        except OSError:  # ECANCELED: the clock was set; EAGAIN: nothing has happened
            pass


class BootTimer(WallTimer):
    """The same for the clock that goes on in a suspend: readable at once when that is over."""

    clock = time.CLOCK_BOOTTIME
    _flags = 0  # libfaketime shifts what is absolute as if it were of the wall clock
