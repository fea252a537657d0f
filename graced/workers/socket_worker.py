"""The SocketWorker class that users subclass: accepts connections, one after the other.

How a worker lives is in :mod:`.runtime`; where the sockets come from, in
:mod:`graced.supervisor.sockets`. All workers of a pool wait for the same sockets. Each waits on
an epoll of its own, where they are registered with EPOLLEXCLUSIVE: the kernel wakes one worker for
a connection, not all. (That holds for processes that sleep in epoll_wait(2) itself; a poll on the
epoll would wake them all again.)
"""

from __future__ import annotations

import errno
import select

from graced.host.scoreboard import ACCEPTS
from graced.workers.base import Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket
    from typing import Any

    from graced.workers.runtime import Runtime

RETRY_S = 1.0  # seconds until the next try, if the host is short of something
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class SocketWorker(Worker):
    """What one worker does with connections. Subclass it, and give the pool a ``listen``."""

    _async_class = ""
    _asks_for = "handle(self, connection, address)"
    __door: _Door | None = None

    def handle(self, connection: socket, address: Any) -> None:
        """Serve one connection: a round, which a drain does not cut. It is closed afterwards.

        `connection` blocks; set a timeout for clients that send nothing. `address` is the
        caller's as :meth:`socket.socket.accept` returns it. What is raised is logged.
        """
        raise NotImplementedError(f"{type(self).__name__} has no handle()")

    def _turn(self) -> None:
        """Wait for a connection and serve it."""
        door = self.__door
        if door is None:
            door = self.__door = _Door(self._graced)
        if self._graced.wait_with(door) == "readable":
            self._answer(door)

    def _answer(self, door: _Door) -> None:
        """Serve the client: even if asked to drain since, for no other worker was woken."""
        try:
            connection, address = door.accept()
        except (BlockingIOError, ConnectionAbortedError):  # another worker was quicker; hung up
            return
        except OSError as error:
            if self._graced.over and error.errno == errno.EINVAL:  # a stop
                return
            if error.errno not in _SHORT:
                raise
            self._graced.log.warning(f"cannot accept: {error.strerror}; trying again in a second")
            self._graced.wait_for(None, RETRY_S)
            return
        try:
            self._graced.round(self.handle, connection, address)
        except BaseException as error:  # user code may raise anything; it is told already
            if isinstance(error, SystemExit) or self._graced.is_interrupt(error):
                raise
        finally:
            connection.close()

    @classmethod
    def _create(cls, runtime: Runtime) -> Worker:
        if not runtime.context.listen:
            pool = runtime.context.pool.name
            raise RuntimeError(
                f"{cls.__name__} has nothing to listen on; write pools.{pool}.listen"
            )
        runtime.writer.words[ACCEPTS] = cls.run is Worker.run
        return super()._create(runtime)


class _Door:
    """The sockets of a worker, and the pipe that a signal wakes it by."""

    def __init__(self, runtime: Runtime) -> None:
        self._epoll = select.epoll()
        self._sockets = {each.fileno(): each for each in runtime.sockets()}
        for fd in self._sockets:
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        self._epoll.register(runtime.wakeup.fileno(), select.EPOLLIN)
        self._knocked: list[int] = []

    def poll(self, milliseconds: float | None) -> list[tuple[int, int]]:
        """Sleep until a client connects, or a signal has come."""
        found = self._epoll.poll(None if milliseconds is None else milliseconds / 1000)
        self._knocked = [fd for fd, _ in found if fd in self._sockets]
        return found

    def accept(self) -> tuple[socket, Any]:
        """Accept one client; the others of the same moment are still there at the next."""
        connection, address = self._sockets[self._knocked[0]].accept()
        connection.setblocking(True)
        return connection, address
