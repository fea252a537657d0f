"""Where the log's bytes go: descriptors that are written to only if they take it at once.

What they don't take is counted, never waited for. What a record says is none of
this file's business.
"""

from __future__ import annotations

import os
import select
import stat
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

PIPE_BUF = select.PIPE_BUF
ROTATION_CHECK_S = 1.0  # seconds between two looks whether the file was rotated


class Sink:
    """A descriptor that is written to only if it takes the bytes at once."""

    fd: int | None = None  # also of one that could not be opened
    _childrens: int | None = None

    def __init__(self, fd: int | None) -> None:
        self.fd = fd
        self._childrens = None if fd is None else _opened_again(fd)
        self.lost = 0
        self._rest: list[bytes] = []  # of a record of which a part was taken; at most one
        self._pid = os.getpid()

    def keep(self) -> frozenset[int]:
        """Return the descriptors that a forked child needs to go on writing.

        Asked by the child itself, this makes them its own: what user code does to the open
        file from then on (clear O_NONBLOCK, say) is done to no other process's.
        """
        self._forget_the_parents()
        fd = self.fd if self._childrens is None else self._childrens
        return frozenset() if fd is None else frozenset({fd})

    def is_behind(self, fd: int) -> bool:
        """Return whether what is written to `fd` arrives here."""
        return self.fd is not None and _same_file(fd, self.fd)

    def write(self, record: bytes, report: Callable[[int], bytes]) -> None:
        """Write a whole record or count it as lost; `report` words the count."""
        self._forget_the_parents()
        if not self._finish_the_last():
            self.lost += 1
            return
        lost = self.lost
        if lost and self._begin(report(lost)):
            self.lost -= lost
        if self.lost or self._rest or not self._begin(record):
            self.lost += 1

    def flush(self) -> bool:
        """Write what is left of a record that was taken in part; True if nothing is left."""
        self._forget_the_parents()
        return self._finish_the_last()

    def settle(self) -> None:
        """Wait, for a moment at most, until what this process wrote last is safe from its end."""

    def _forget_the_parents(self) -> None:
        """After a fork the rest of a half written record is the parent's business.

        And so is its open file. Where that can't be opened once more, as another user's can't,
        all children share one that their parent has opened for them.
        """
        if self._pid == os.getpid():
            return
        self._pid, self.lost, self._rest = os.getpid(), 0, []
        if self._childrens is not None:
            self.fd, self._childrens = self._childrens, None
        own = None if self.fd is None else _opened_again(self.fd)
        if own is not None and self.fd is not None:
            os.dup2(own, self.fd, inheritable=False)
            os.close(own)

    def _finish_the_last(self) -> bool:
        try:
            rest = self._rest.pop()  # atomic: a second thread must not write it again
        except IndexError:
            return True
        taken = self._try(rest)
        if taken < len(rest):
            self._rest.append(rest[taken:])
        return taken == len(rest)

    def _begin(self, record: bytes) -> bool:
        """Return whether the record was taken, if only in part."""
        taken = self._try(record)
        if 0 < taken < len(record):
            self._rest.append(record[taken:])
        return taken > 0

    def _try(self, data: bytes) -> int:
        """Return how many bytes were taken; a broken descriptor takes none."""
        if self.fd is None:
            return 0
        try:
            return self._put(self.fd, data)
        except OSError:  # EAGAIN, EPIPE, EBADF, ENOSPC, EIO: counted as lost by the caller
            return 0

    def _put(self, fd: int, data: bytes) -> int:
        return os.write(fd, data)

    def close(self) -> None:
        for fd in (self.fd, self._childrens):
            if fd is not None:
                os.close(fd)
        self.fd = self._childrens = None

    def __del__(self) -> None:  # as files do
        self.close()


class BlockingSink(Sink):
    """A pipe or terminal that could not be opened again: it blocks unless asked first."""

    def _put(self, fd: int, data: bytes) -> int:
        try:
            return os.pwritev(fd, [data], -1, os.RWF_NOWAIT)
        except BlockingIOError:
            return 0
        except OSError:  # a terminal, or a kernel before 6.5: the room may be gone by then
            return self._put_what_fits(fd, data)

    def _put_what_fits(self, fd: int, data: bytes) -> int:
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        taken = 0
        while taken < len(data) and _writable(poll):
            taken += os.write(fd, data[taken : taken + PIPE_BUF])
        return taken


def _writable(poll: select.poll) -> bool:
    return any(events == select.POLLOUT for _, events in poll.poll(0))


class SocketSink(Sink):
    """A stream to the journal, or to another program that gave us a socket as standard error."""

    def __init__(self, fd: int) -> None:
        import socket

        self._socket: socket.socket = socket.socket(fileno=fd)
        self._flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        super().__init__(fd)

    def _put(self, fd: int, data: bytes) -> int:
        return self._socket.send(data, self._flags)

    def close(self) -> None:
        self.fd = None
        self._socket.close()


class FileSink(Sink):
    """A file by name, opened again when it has been rotated."""

    def __init__(self, path: str, fd: int | None = None) -> None:
        """Open for appending, or take a descriptor that is."""
        self.path = path
        self._look_at = 0.0
        super().__init__(_open_file(path) if fd is None else _high(fd))

    def write(self, record: bytes, report: Callable[[int], bytes]) -> None:
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + ROTATION_CHECK_S
            if self._rotated():
                self.reopen()
        super().write(record, report)

    def reopen(self) -> bool:
        """Open the file by its name again, under the same descriptor; False if it can't be."""
        try:
            new = _open_file(self.path)
        except OSError:  # the old one goes on: better a line in a rotated file than none
            return False
        if self.fd is None:
            self.fd = new
            return True
        for fd in (1, 2):  # a daemon's standard streams go to its log file too
            if _same_file(fd, self.fd):
                os.dup2(new, fd)
        os.dup2(new, self.fd, inheritable=False)
        os.close(new)
        return True

    def _rotated(self) -> bool:
        if self.fd is None:
            return True
        try:
            return not os.path.samestat(os.stat(self.path), os.fstat(self.fd))
        except OSError:
            return True


def _same_file(one: int, other: int) -> bool:
    try:
        return os.path.samestat(os.fstat(one), os.fstat(other))
    except OSError:  # a standard stream may be closed
        return False


def _open_file(path: str) -> int:
    """Open a file for appending, or make it."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return _high(os.open(path, flags))
    except FileNotFoundError:
        return _high(os.open(path, flags | os.O_CREAT, 0o640))


def _high(fd: int) -> int:
    """Move a descriptor out of the way of the standard streams, should those be closed."""
    if fd > 2:
        return fd
    import fcntl

    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


def sink_of(fd: int) -> Sink:
    """Return a sink for an inherited descriptor, with a descriptor of its own.

    O_NONBLOCK belongs to the open file, which others share: a pipe or a terminal is
    therefore opened a second time. Asking poll(2) first is not enough where
    several processes write, since the room may be gone by the time of the write.
    """
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):
            return SocketSink(_copy(fd))
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            return _second(fd)
        return Sink(_copy(fd))
    except OSError:  # standard error is closed
        return Sink(None)


def _second(fd: int) -> Sink:
    own = _opened_again(fd)
    return BlockingSink(_copy(fd)) if own is None else Sink(own)


def _opened_again(fd: int) -> int | None:
    """Return an open file of our own, where one shares O_NONBLOCK; None if it can't be had."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            return _high(os.open(f"/proc/self/fd/{fd}", flags))
    except OSError:  # of another user, or no /proc
        pass
    return None


def _copy(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
