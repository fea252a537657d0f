"""The channel between the main process and a zygote: whole messages, in order.

A message is a tuple of what marshal knows; both ends are the same program, forked. User code
in a zygote could write here, too, and marshal must not read what is none of ours: so each
message begins with a number that only the two ends know.
"""

from __future__ import annotations

import marshal
import os
import select
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_MESSAGE = 128 * 1024  # bytes; unix(7) allows what fits the send buffer
_MARK = 8  # bytes that all messages of a channel begin with


class ChannelClosed(Exception):
    """The other side is gone."""


class ChannelCorrupted(ChannelClosed):
    """What has come there is no message of the other end."""


class ChannelFull(Exception):
    """The other side does not read."""


class Channel:
    """One end. Closed on exec, inherited by fork."""

    __slots__ = ("_mark", "_socket")

    def __init__(self, end: socket.socket, mark: bytes) -> None:
        end.setblocking(False)
        self._socket = end
        self._mark = mark

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Return two connected ends."""
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mark = os.urandom(_MARK)
        return cls(one, mark), cls(other, mark)

    def fileno(self) -> int:
        """Return the descriptor, for a selector; -1 once closed."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close this end."""
        self._socket.close()

    def send(self, message: tuple[Any, ...]) -> None:
        """Send at once.

        ValueError if longer than MAX_MESSAGE, ChannelFull if the other side
        has not read for long, ChannelClosed if it is gone.
        """
        data = self._mark + marshal.dumps(message)
        if len(data) > MAX_MESSAGE:
            raise ValueError(f"a message of {len(data)} bytes; at most {MAX_MESSAGE} go at once")
        try:
            self._socket.send(data, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            raise ChannelFull("the other side does not read its messages") from None
        except (BrokenPipeError, ConnectionResetError, ConnectionRefusedError):
            raise ChannelClosed("the other side is gone") from None

    def receive(self) -> tuple[Any, ...] | None:
        """Return the next message, None if there is none yet.

        ChannelClosed at the end, ChannelCorrupted if it is none.
        """
        try:
            data = self._data()
        except BlockingIOError:
            return None
        return self._message(data)

    def _data(self) -> bytes:
        try:
            return self._socket.recv(MAX_MESSAGE)
        except ConnectionResetError:  # it left before it had read all; what it has said comes next
            return self._socket.recv(MAX_MESSAGE)

    def _message(self, data: bytes) -> tuple[Any, ...]:
        if not data:
            raise ChannelClosed("the other side is gone")
        if not data.startswith(self._mark):
            raise ChannelCorrupted("what came over it is no message of the other end")
        message: tuple[Any, ...] = marshal.loads(memoryview(data)[_MARK:])
        return message

    def wait(self, *, to_send: bool = False, timeout: float | None = None) -> bool:
        """Block until there is something to receive, or room to send; False on timeout."""
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT if to_send else select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))

    def send_all(self, message: tuple[Any, ...]) -> None:
        """Send, and wait for room as long as it takes. For a zygote, never for the main process."""
        while True:
            try:
                return self.send(message)
            except ChannelFull:
                self.wait(to_send=True)
