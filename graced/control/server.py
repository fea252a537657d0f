"""The control socket: requests and replies as JSON, one object a line.

A request is `{"command": "status", ...arguments}`; a reply has `"ok"`, and `"error"`
where that is false. One request of a client at a time is in hand; its reply may
come much later. Nothing here blocks, decides, or knows a command. The client is in
:mod:`graced.control.client`.

The server is driven by the supervisor's selector: every key's `data` is
called with the events, :meth:`ControlServer.take` returns one request after the other that
came of it, :meth:`ControlServer.next_deadline` says when to call :meth:`ControlServer.expire`.
"""

from __future__ import annotations

import os
import select
import selectors
import socket
import time
from collections import deque

from graced.host import unixsocket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE

MAX_REQUEST = 64 * 1024
SPARE_FILES = 5  # descriptors that no client gets: the daemon's own work goes on
MAX_CLIENTS = 32  # of one user
MAX_ALL = 256  # of all; root and our own user come on top
IDLE = 30.0  # seconds without a request, or without taking any of a reply
PAUSE = 1.0  # seconds without accepting when there are no descriptors left
CHUNK_BYTES = 64 * 1024


class Request:
    """What a client asks for; :meth:`ControlServer.reply` answers it."""

    __slots__ = ("arguments", "client", "command")

    def __init__(self, client: Client, command: str, arguments: dict[str, Any]) -> None:
        self.client = client
        self.command = command
        self.arguments = arguments

    def __repr__(self) -> str:
        return f"Request({self.command!r}, {self.arguments!r}, from pid {self.client.pid})"


class Client:
    """One connection: what it sent, what it has not taken yet, and until when it may be silent."""

    __slots__ = (
        "_input", "_output", "_server", "_socket", "closed", "deadline", "ended", "gid", "may",
        "pid", "request", "uid",
    )  # fmt: skip

    def __init__(self, server: ControlServer, connection: socket.socket, now: float) -> None:
        self._server = server
        self._socket = connection
        self._input = bytearray()
        self._output = bytearray()
        self.pid, self.uid, self.gid = unixsocket.peer(connection)
        self.may: frozenset[str] | None = None  # the commands that it may give; None: all
        self.request: Request | None = None  # in hand
        self.deadline: float | None = now + IDLE  # None while the daemon owes a reply
        self.ended = False  # it sends no more; it may still wait for its reply
        self.closed = False

    def __call__(self, events: int) -> None:
        """Do what the selector says can be done."""
        if events & WRITE:
            self._write()
        if events & READ and not self.closed:
            self._read()
        self._go_on()

    def fileno(self) -> int:
        """Return the connection's descriptor."""
        return self._socket.fileno()

    def answer(self, line: bytes) -> None:
        """Send the reply to the request in hand; more may be waiting behind it."""
        self.request = None
        if self.closed:
            return
        self._output += line
        self._touch()
        self._write()
        self._go_on()

    def refuse(self, why: str) -> None:
        """Say what is wrong, and hang up when that is sent."""
        self._input.clear()
        self.ended = True
        self.answer(encoded({"ok": False, "error": why}))

    @property
    def unsent(self) -> bool:
        """Whether the client has not taken all of a reply."""
        return bool(self._output) and not self.closed

    @property
    def wanted(self) -> int:
        """The events to wait for."""
        wanted = 0 if self.ended else READ
        return wanted | (WRITE if self._output else 0)

    def close(self) -> None:
        """Hang up."""
        if not self.closed:
            self.closed = True
            self._server.forget(self)
            self._socket.close()

    def _read(self) -> None:
        try:
            data = self._socket.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:  # reset
            self.close()
            return
        self.ended = not data
        self._input += data

    def _hung_up(self) -> bool:
        """Return whether the other end is closed, and not only for sending."""
        poll = select.poll()
        poll.register(self._socket, 0)
        return any(events & select.POLLHUP for _, events in poll.poll(0))

    def _write(self) -> None:
        while self._output and not self.closed:
            try:
                sent = self._socket.send(self._output[:CHUNK_BYTES], socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError:  # hung up before the reply: its own business
                self.close()
                return
            del self._output[:sent]
            self._touch()

    def _touch(self) -> None:
        self.deadline = None if self.may is not None else time.monotonic() + IDLE

    def _go_on(self) -> None:
        """Take the next request if none is in hand, and wait for what is to come."""
        while not (self.closed or self.request or self._output) and (line := self._line()):
            self._parse(line)
        if self.closed:
            return
        if self.ended and (not (self.request or self._output) or self._hung_up()):
            self.close()
        elif not self.ended and len(self._input) > MAX_REQUEST:
            self.request = None
            self.refuse(f"a request may have at most {MAX_REQUEST} bytes")
        else:
            self._server.watch(self)

    def _line(self) -> bytes | None:
        """Return the next line; at the end of all input, what stands without a line end too."""
        end = self._input.find(b"\n") + 1
        if end == 0:
            if not self.ended or not self._input:
                return None
            end = len(self._input)
        line = bytes(self._input[:end])
        del self._input[:end]
        return line

    def _parse(self, line: bytes) -> None:
        if len(line) > MAX_REQUEST:
            self.refuse(f"a request may have at most {MAX_REQUEST} bytes")
            return
        if line.isspace():
            return
        try:
            command, arguments = _request(line)
            if self.may is not None and command not in self.may:
                raise ValueError(f"you may not ask for {command!r}")
        except ValueError as error:
            self._output += encoded({"ok": False, "error": str(error)})
            self._write()
            return
        self.request = Request(self, command, arguments)
        self.deadline = None
        self._server.requests.append(self.request)


def _request(line: bytes) -> tuple[str, dict[str, Any]]:
    from json import loads

    try:
        told = loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"a request is a JSON object on one line: {error}") from None
    if not isinstance(told, dict):
        raise ValueError("a request is a JSON object on one line")
    command = told.pop("command", None)
    if not isinstance(command, str):
        raise ValueError('a request needs a "command"')
    return command, told


def encoded(value: Mapping[str, Any]) -> bytes:
    """Return `value` as a line of JSON."""
    from json import dumps

    return dumps(value, default=str).encode("ascii") + b"\n"


class ControlServer:
    """The listening socket and its clients."""

    def __init__(self, path: str) -> None:
        """Listen at `path`, mode 0660: for root, this process's user and its group. OSError."""
        self.path = path
        self.requests: deque[Request] = deque()
        self.clients: set[Client] = set()
        self._selector: selectors.BaseSelector | None = None
        self._paused_until: float | None = None
        self._listener = _listening(path)
        self._identity = _identity(path)

    def listen_again(self) -> bool:
        """Listen anew if the socket is not at its path any more; False if it is. Raises OSError."""
        if _identity(self.path) == self._identity:
            return False
        listener = _listening(self.path)
        self._identity = _identity(self.path)
        before, self._listener = self._listener, listener
        if self._selector is not None and self._paused_until is None:
            self._selector.unregister(before)
            self._selector.register(listener, READ, self.accept)
        before.close()
        return True

    def fileno(self) -> int:
        """Return the listening descriptor."""
        return self._listener.fileno()

    def register(self, selector: selectors.BaseSelector) -> None:
        """Have `selector` watch for clients and their requests from now on."""
        self._selector = selector
        selector.register(self._listener, READ, self.accept)

    def take(self) -> Request | None:
        """Return the request that has come first, or None."""
        return self.requests.popleft() if self.requests else None

    def reply(self, client: Client | Request, reply: Mapping[str, Any]) -> None:
        """Answer the request in hand; a client that hung up meanwhile is no error."""
        client = client.client if isinstance(client, Request) else client
        client.answer(encoded(reply))

    def lend(self, may: frozenset[str]) -> socket.socket:
        """Return the other end of a connection for a child: it may give these commands alone.

        It stays, however silent it is. OSError if there are no descriptors left.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        client = Client(self, ours, time.monotonic())
        client.may, client.deadline = may, None
        self.clients.add(client)
        self.watch(client)
        return theirs

    def accept(self, events: int = READ) -> None:
        """Accept the connections that wait."""
        for _ in range(MAX_CLIENTS):  # the rest in the loop's next turn
            try:
                fd, _address = self._listener._accept()  # type: ignore[attr-defined]  # typeshed has it not
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:  # no descriptors or memory left: the connection has to wait
                self._pause()
                return
            connection = socket.socket(fileno=fd)
            try:
                self._admit(connection)
            except OSError:  # no room to watch it: this one is hung up on, the daemon goes on
                connection.close()

    def _admit(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        client = Client(self, connection, time.monotonic())
        short = connection.fileno() >= _most_files() - SPARE_FILES
        room = not short and self._make_room_for(client)
        self.clients.add(client)
        if room:
            self.watch(client)
        elif short:
            client.refuse("the daemon may open no more files; try again later")
            client.close()
        else:
            client.refuse(f"{MAX_CLIENTS} others are waiting for replies; try again later")
            client.close()

    def _make_room_for(self, client: Client) -> bool:
        """Whether one may come in: no user's many connections keep out another's."""
        same = [other for other in self.clients if other.uid == client.uid]
        if len(same) >= MAX_CLIENTS:
            for other in same:  # one is not silent whose request is there to be read
                if not other.ended:
                    other(READ)
            same = [other for other in same if not other.closed]
        if len(same) >= MAX_CLIENTS:
            return self._drop_the_most_silent(same)
        if client.uid in (0, os.geteuid()):
            return True
        return len(self.clients) < MAX_ALL or self._drop_the_most_silent(self.clients)

    def _drop_the_most_silent(self, clients: Iterable[Client]) -> bool:
        silent = [client for client in clients if client.deadline is not None]
        if silent:
            min(silent, key=lambda client: client.deadline or 0.0).close()
        return bool(silent)

    def _pause(self) -> None:
        self._paused_until = time.monotonic() + PAUSE
        if self._selector is not None:
            self._selector.unregister(self._listener)

    # Called by clients

    def watch(self, client: Client) -> None:
        """Have the selector wait for what the client wants now."""
        if self._selector is None:
            return
        known = _registered(self._selector, client)
        if not client.wanted:
            if known:
                self._selector.unregister(client)
        elif known:
            self._selector.modify(client, client.wanted, client)
        else:
            self._selector.register(client, client.wanted, client)

    def forget(self, client: Client) -> None:
        """Drop a client that hangs up."""
        self.clients.discard(client)
        if self._selector is not None and _registered(self._selector, client):
            self._selector.unregister(client)

    # Time

    def next_deadline(self) -> float | None:
        """Return the monotonic time at which :meth:`expire` has something to do."""
        deadlines = [c.deadline for c in self.clients if c.deadline is not None]
        if self._paused_until is not None:
            deadlines.append(self._paused_until)
        return min(deadlines, default=None)

    def expire(self, now: float) -> None:
        """Drop clients that are silent for too long; accept again after a pause."""
        for client in list(self.clients):
            if client.deadline is not None and client.deadline <= now:
                client.close()
        if self._paused_until is not None and self._paused_until <= now:
            self._paused_until = None
            if self._selector is not None:
                self._selector.register(self._listener, READ, self.accept)

    def descriptors(self) -> Iterable[int]:
        """Return all descriptors, for a child to close."""
        return [self.fileno(), *(client.fileno() for client in self.clients)]

    # The end

    def close(self, bound: float = 0.0) -> None:
        """Stop listening, and hang up once all replies are taken, after `bound` seconds at most."""
        if self._selector is not None:
            for fd in self.descriptors():
                if _registered(self._selector, fd):
                    self._selector.unregister(fd)
            self._selector = None
        if _identity(self.path) == self._identity:
            try:
                os.unlink(self.path)
            except OSError:  # the folder is another user's by now: the next start replaces the file
                pass
        self._listener.close()
        self._drain(time.monotonic() + bound)
        for client in list(self.clients):
            client.close()

    def _drain(self, deadline: float) -> None:
        while unsent := [client for client in self.clients if client.unsent]:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            poll = select.poll()
            for client in unsent:
                poll.register(client, select.POLLOUT)
            poll.poll(left * 1000)
            for client in unsent:
                client(WRITE)


def _most_files() -> int:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft


def _listening(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    try:
        unixsocket.bind(listener, path, 0o660)
    except BaseException:  # closed, whatever it is; raised on
        listener.close()
        raise
    return listener


def _registered(selector: selectors.BaseSelector, thing: Any) -> bool:
    try:
        selector.get_key(thing)
    except (KeyError, ValueError):
        return False
    return True


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return status.st_dev, status.st_ino
