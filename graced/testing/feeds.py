"""What a process under test says: its log, its notifications, as lines in the order of arrival.

One thread reads all of it, so what a test waits for is an arrival, never a stretch of time; the
deadlines are only reached by failures.
"""

from __future__ import annotations

import collections
import os
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

DEADLINE = 60.0  # seconds


class Line(NamedTuple):
    """One line or datagram that arrived: when, from which process, and what it said."""

    at: float
    pid: int
    text: str

    @property
    def words(self) -> list[str]:
        return self.text.split()


class Feed:
    """Lines in the order of their arrival, to look through and to wait for.

    What was said is in a pipe or a socket first. A look through the lines gets all that
    was said until then, whether it had been read or not.
    """

    def __init__(
        self,
        name: str,
        changed: threading.Condition,
        over: Callable[[], bool],
        read_all: Callable[[], None],
    ) -> None:
        self.name = name
        self._lines: list[Line] = []
        self._changed = changed
        self._over = over  # no process is left that could still say something
        self._read_all = read_all

    def add(self, line: Line) -> None:
        with self._changed:
            self._lines.append(line)
            self._changed.notify_all()

    @property
    def lines(self) -> list[Line]:
        """All that was said so far."""
        self._read_all()
        with self._changed:
            return list(self._lines)

    def matching(self, pattern: str) -> list[Line]:
        """Return the lines so far in which the regular expression is found."""
        return [line for line in self.lines if re.search(pattern, line.text)]

    def wait(self, pattern: str, count: int = 1, deadline: float = DEADLINE) -> list[Line]:
        """Wait until `count` lines match since the daemon's start, and return them."""
        end = time.monotonic() + deadline
        over = False
        while True:
            lines = self.lines
            found = [line for line in lines if re.search(pattern, line.text)]
            if len(found) >= count:
                return found
            left = end - time.monotonic()
            if over or left <= 0:
                said = "\n".join(line.text for line in lines[-60:])
                which = f"{len(found)} of {count} {pattern!r}"
                raise AssertionError(f"{self.name}: {which} came; it said:\n{said}")
            over = self._over()  # then what was said last is seen at one more look
            if not over:
                self._grow(len(lines), min(left, 0.5))

    def _grow(self, size: int, seconds: float) -> None:
        """Wait until there are more lines than so many."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._lines) > size, seconds)

    def forget(self) -> None:
        """Begin anew, with what is said from now on."""
        self._read_all()
        with self._changed:
            self._lines.clear()

    def collect(self, seconds: float) -> list[Line]:
        """Return all that arrives in the next seconds: for what must not come too often."""
        start, end = len(self.lines), time.monotonic() + seconds
        with self._changed:
            while (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
        return self.lines[start:]

    def __str__(self) -> str:
        return "\n".join(line.text for line in self.lines)

    def __contains__(self, text: str) -> bool:
        return any(text in line.text for line in self.lines)


class Pump(threading.Thread):
    """Reads every source as soon as there is something, until told to end."""

    def __init__(self) -> None:
        super().__init__(daemon=True, name="pump")
        self._poll = select.poll()
        self._sources: dict[int, Callable[[], bool]] = {}
        self._wake_read, self._wake_write = os.pipe()
        self._over = False
        self._asked: collections.deque[threading.Event] = collections.deque()
        self.add(self._wake_read, lambda: bool(os.read(self._wake_read, 1)))

    def add(self, fd: int, read: Callable[[], bool]) -> None:
        """Call `read` whenever fd has something, until it returns False."""
        self._sources[fd] = read
        self._poll.register(fd, select.POLLIN | select.POLLHUP)
        os.write(self._wake_write, b"x")

    def run(self) -> None:
        while not self._over:
            self._read(self._poll.poll())
            asked = [self._asked.popleft() for _ in range(len(self._asked))]
            for _ in range(1000 if asked else 0):  # there may be no end of it
                if not (ready := self._poll.poll(0)):
                    break
                self._read(ready)
            for done in asked:
                done.set()

    def _read(self, ready: list[tuple[int, int]]) -> None:
        for fd, _ in ready:
            if not self._sources[fd]():
                self._poll.unregister(fd)

    def read_all(self) -> None:
        """Return when all has been read that is there to be read now."""
        if not self.is_alive():
            return
        done = threading.Event()
        self._asked.append(done)
        os.write(self._wake_write, b"x")
        while not done.wait(1.0) and self.is_alive():
            pass

    def end(self) -> None:
        self._over = True
        if self.is_alive():
            os.write(self._wake_write, b"x")
            self.join(DEADLINE)
        os.close(self._wake_read)
        os.close(self._wake_write)


class Splitter:
    """Cuts what arrives on a descriptor into lines, and tells when it ends."""

    def __init__(self, fd: int, take: Callable[[str], None], ended: Callable[[], None]) -> None:
        self.fd, self.take, self.ended = fd, take, ended
        self.rest = b""

    def __call__(self) -> bool:
        data = os.read(self.fd, 65536)
        *whole, self.rest = (self.rest + data).split(b"\n")
        for line in whole:
            self.take(line.decode(errors="replace"))
        if not data:
            self.ended()
        return bool(data)


class NotifySocket:
    """What systemd does with NOTIFY_SOCKET: takes datagrams, with the sender's credentials."""

    def __init__(self, address: str, feed: Feed) -> None:
        self.feed = feed
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind(address)

    def __call__(self) -> bool:
        data, extra, _, _ = self.socket.recvmsg(65536, socket.CMSG_SPACE(12))
        pid = 0
        for level, kind, value in extra:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                pid = struct.unpack("iii", value)[0]
        now = time.monotonic()
        for line in data.decode("utf-8").splitlines():  # strict: a bad byte fails the test
            self.feed.add(Line(now, pid, line))
        return True
