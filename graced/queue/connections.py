"""The connections to a keeper: accepted, read from, written to, closed.

Whole frames are handed on as they come; what they mean is the business of
:mod:`.server` and :mod:`.client_requests`. Nothing here blocks.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections import deque

from graced.host import unixsocket
from graced.queue import wire
from graced.queue.wire import Kind, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from graced.log.logger import Log
    from graced.queue.plan import KeeperPlan
    from graced.queue.protocol import Row

UNREAD = 8 << 20  # bytes that a client may leave unread
MOST = 512  # connections of one user that are no worker's
MOST_HELD = 64 << 20  # bytes of theirs that are half a frame, or not yet read
AT_ONCE = 64  # connections accepted before others have their turn
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)


class Connection:
    """One connection: a worker's once it has said HELLO, a client's else."""

    __slots__ = (
        "begun",
        "cancels",
        "confirmed",
        "fd",
        "frames",
        "heard_at",
        "held",
        "later",
        "out",
        "owner",
        "parked",
        "questions",
        "settles",
        "sock",
        "stream",
        "submits_only",
        "submitted",
        "trusted",
        "uid",
        "waits",
    )

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.uid = unixsocket.peer(sock)[1]
        self.trusted = self.uid in (0, os.geteuid())  # it may be a worker
        self.submits_only = False  # of submit_group: it may wait for its own jobs,
        self.submitted: list[Sequence[int]] = []  #   which are these
        self.heard_at = time.monotonic()
        self.held = 0  # bytes that we keep for it
        self.frames = wire.Frames()
        self.out = bytearray()
        self.later: deque[tuple[int, Row]] = deque()  # to be told of jobs, once it has read `out`
        self.owner: str | None = None
        self.begun: dict[int, int] = {}  # jobs that it was told of, and when, monotonic ns
        self.cancels = False  # a worker that cancels single jobs when it is told to
        self.parked: list[tuple[int, bytes]] = []  # frames that wait for the file
        self.settles = 0  # read on this connection,
        self.confirmed = 0  #   and durable
        self.stream: int | None = None
        self.questions = 0  # not answered
        self.waits: set[int] = set()  # for the ends of these jobs


class Connections:
    """All connections. ``handle`` gets each frame, ``left`` each connection that was closed.

    ``read_all`` gets one whose other side has read all that it was sent, after it had not.
    """

    def __init__(
        self,
        listener: socket.socket,
        epoll: select.epoll,
        log: Log,
        handle: Callable[[Connection, int, bytes], None],
        left: Callable[[Connection], None],
        read_all: Callable[[Connection], None],
    ) -> None:
        self._listener = listener
        self._epoll = epoll
        self._log = log
        self._handle = handle
        self._left = left
        self._read_all = read_all
        self._by_fd: dict[int, Connection] = {}
        self._held: dict[int, int] = {}  # bytes by users
        self._deaf = False  # out of descriptors: no connection is accepted
        self.submit_group: int | None = None  # whose members may submit, and no more
        epoll.register(listener.fileno(), select.EPOLLIN)

    def all(self) -> list[Connection]:
        """Return all that are open now."""
        return list(self._by_fd.values())

    def is_here(self, connection: Connection) -> bool:
        """Whether a connection is open."""
        return self._by_fd.get(connection.fd) is connection

    def hear(self, fd: int, event: int) -> bool:
        """Do what epoll says can be done; False if it is none of ours."""
        connection = self._by_fd.get(fd)
        if connection is not None:
            if event & select.EPOLLOUT:
                self._push(connection)
            if event & ~select.EPOLLOUT:
                self.read(connection)
        elif fd == self._listener.fileno():
            self.accept()
        else:
            return False
        return True

    def accept(self) -> None:
        """Accept the connections that wait, at most AT_ONCE."""
        for _ in range(AT_ONCE):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._stop_listening(error)
                return
            sock.setblocking(False)
            connection = Connection(sock)
            room = self._make_room_for(connection.uid)
            self._by_fd[connection.fd] = connection
            self._epoll.register(connection.fd, select.EPOLLIN)
            if not self._may_come(connection):
                self._refuse(connection, "you may not use this queue; be in its submit_group")
            elif not room:
                self._refuse(connection, f"your user has {MOST} connections here; try again later")

    def _may_come(self, connection: Connection) -> bool:
        """Whether it has rights here; without a submit_group the socket's mode has decided that."""
        if self.submit_group is None or connection.trusted:
            return True
        groups = unixsocket.groups(connection.sock)
        connection.submits_only = os.getegid() not in groups
        return not connection.submits_only or self.submit_group in groups

    def _make_room_for(self, uid: int) -> bool:
        """Whether one more of a user's may come in; the one silent for longest has to go."""
        same = [v for v in self._by_fd.values() if v.uid == uid and v.owner is None]
        if len(same) < MOST:
            return True
        silent = [v for v in same if not (v.waits or v.questions)]
        if silent:
            self.close(min(silent, key=lambda v: v.heard_at))
        return bool(silent)

    def _refuse(self, connection: Connection, why: str) -> None:
        self.send(connection, Kind.REFUSED, wire.text(why))
        self.close(connection)

    def _weigh(self, connection: Connection) -> None:
        """Refuse one whose user makes the keeper hold too much; a worker has its own bounds."""
        held = 0 if connection.owner else connection.frames.unfinished + len(connection.out)
        if held == connection.held:
            return
        total = self._held.get(connection.uid, 0) + held - connection.held
        self._held[connection.uid], connection.held = total, held
        if total > MOST_HELD and held:
            connection.out.clear()
            self._refuse(
                connection, f"your user has over {MOST_HELD >> 20} MB of unfinished messages here"
            )

    def _stop_listening(self, error: OSError) -> None:
        if self._by_fd:
            self._deaf = True
            self._epoll.unregister(self._listener.fileno())
            why = f"{error.strerror}; accepting again once one is closed"
            self._log.error(f"queue: cannot accept a connection: {why}")

    def read(self, connection: Connection) -> bool:
        """Read once from a connection; False if there is nothing, or nothing more."""
        data = wire.receive(connection.sock)
        if not data:
            if data is not None:
                self.close(connection)
            return False
        connection.heard_at = time.monotonic()
        self.serve(connection, connection.frames.feed(data))
        if self.is_here(connection):
            self._weigh(connection)
        return True

    def serve(self, connection: Connection, frames: Iterable[tuple[int, bytes]]) -> None:
        """Hand on whole frames; a connection that writes what no frame can be is refused."""
        try:
            for kind, body in frames:
                if not self.is_here(connection):
                    break
                self._handle(connection, kind, body)
        except ProtocolError as error:
            self._refuse(connection, str(error))

    def send(self, connection: Connection, kind: int, body: bytes = b"") -> None:
        """Send a frame, now or as soon as the other side takes it."""
        data = wire.HEADER.pack(len(body), kind) + body
        if connection.out:
            connection.out += data
            if len(connection.out) > UNREAD:
                self.close(connection)
            else:
                self._weigh(connection)
            return
        try:
            sent = connection.sock.send(data, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError:  # gone; its end of file comes too
            return
        if sent < len(data):
            connection.out += data[sent:]
            self._epoll.modify(connection.fd, select.EPOLLIN | select.EPOLLOUT)

    def _push(self, connection: Connection) -> None:
        try:
            sent = connection.sock.send(connection.out, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return
        except OSError:
            self.close(connection)
            return
        del connection.out[:sent]
        if not connection.out:
            self._epoll.modify(connection.fd, select.EPOLLIN)
            self._read_all(connection)

    def close(self, connection: Connection) -> None:
        """Close a connection."""
        if self._by_fd.pop(connection.fd, None) is None:
            return
        self._epoll.unregister(connection.fd)
        connection.sock.close()
        self._held[connection.uid] = self._held.get(connection.uid, 0) - connection.held
        if not self._held[connection.uid]:
            del self._held[connection.uid]
        self._left(connection)
        if self._deaf:
            self._deaf = False
            self._epoll.register(self._listener.fileno(), select.EPOLLIN)

    def listen_at(self, listener: socket.socket) -> None:
        """Accept connections at another socket from now on."""
        before, self._listener = self._listener, listener
        if not self._deaf:
            self._epoll.unregister(before.fileno())
            self._epoll.register(listener.fileno(), select.EPOLLIN)
        before.close()

    def close_listener(self, path: str) -> None:
        """Remove our socket's name, unless another keeper has it by now."""
        try:
            with wire.connect(path) as probe:
                mine = probe.getpeername() == self._listener.getsockname()
            if mine:
                os.unlink(path)
        except OSError:  # gone, or in a folder of another user: a dead name does no harm
            pass


def listen(plan: KeeperPlan) -> socket.socket:
    """Return a socket that listens at the plan's place. Raises OSError."""
    listener = wire.listen(plan.address.socket, _mode(plan))
    open_to(plan)
    return listener


def open_to(plan: KeeperPlan) -> None:
    """Let members of submit_group get to the socket, if there is one; callers are known there.

    The folder may be this user's alone, and has only names in it that others may know.
    """
    os.chmod(plan.address.socket, _mode(plan))
    folder = os.path.dirname(plan.address.socket)
    found = os.stat(folder)
    if plan.policy.submit_group is not None and found.st_uid == os.geteuid():
        os.chmod(folder, found.st_mode & 0o7777 | 0o011)


def _mode(plan: KeeperPlan) -> int:
    return 0o660 if plan.policy.submit_group is None else 0o666
