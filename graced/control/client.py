"""The client's side of the control socket: asks the daemon and waits for its answers.

It may block, so it is for commands alone. What is said there is told in
:mod:`graced.control.server`, which serves it.
"""

from __future__ import annotations

import os
import select
import socket

from graced import exitcodes
from graced.control.server import CHUNK_BYTES, encoded
from graced.host import unixsocket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class NoDaemonError(exitcodes.ReportedError):
    """No daemon listens there."""

    exit_code = exitcodes.NO_DAEMON

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(f"no daemon answers at {path}; is it started?")


class ControlError(exitcodes.ReportedError):
    """The daemon can't be reached or does not answer; the text says why."""


class WhichDaemon(ControlError):
    """The configuration does not say which daemon is meant."""

    exit_code = exitcodes.CONFIG


class ConnectionLostError(ControlError):
    """The daemon went away before it answered."""


class Connection:
    """A client's connection to the daemon. `timeout` bounds each reply, in seconds."""

    def __init__(self, path: str, timeout: float | None = None) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._rest = b""
        self._watch: int | None = None
        try:
            self._socket.settimeout(timeout)
            unixsocket.connect_to_daemon(self._socket, path)
            self.pid = unixsocket.peer(self._socket)[0]
            self._watch = _pidfd(self.pid)
        except unixsocket.UntrustedSocketError as error:
            self._socket.close()
            raise ControlError(str(error)) from None
        except OSError as error:
            self._socket.close()
            raise _connect_error(path, error) from error

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def call(self, command: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send one request and return its reply. Raises ControlError."""
        try:
            self._socket.sendall(encoded({**(arguments or {}), "command": command}))
        except (BrokenPipeError, ConnectionResetError):  # refused: the reason is there to read
            pass
        except OSError as error:
            raise self._error(error) from error
        return _reply(self._line())

    def wait_gone(self) -> None:
        """Return when the daemon's process is gone, and with it its lock."""
        self._socket.settimeout(None)
        try:
            while self._socket.recv(CHUNK_BYTES):
                pass
        except OSError:  # reset: it hung up
            pass
        if self._watch is not None:
            select.select([self._watch], [], [])

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
        if self._watch is not None:
            os.close(self._watch)
            self._watch = None

    def _line(self) -> bytes:
        data = bytearray(self._rest)
        while (end := data.find(b"\n")) < 0:
            try:
                more = self._socket.recv(CHUNK_BYTES)
            except OSError as error:
                raise self._error(error) from error
            if not more:
                raise ConnectionLostError(
                    f"the daemon (pid {self.pid}) went away before it answered"
                )
            data += more
        self._rest = bytes(data[end + 1 :])
        return bytes(data[:end])

    def _error(self, error: OSError) -> ControlError:
        if isinstance(error, TimeoutError):
            seconds = self._socket.gettimeout()
            return ControlError(f"the daemon (pid {self.pid}) has not answered for {seconds:g} s")
        if isinstance(error, ConnectionError):
            return ConnectionLostError(f"the daemon (pid {self.pid}) went away before it answered")
        return ControlError(f"{self._path}: {error.strerror or error}")


def call(
    path: str,
    command: str,
    arguments: Mapping[str, Any] | None = None,
    timeout: float | None = None,
) -> dict[str, Any]:
    """Ask the daemon at `path` once. Raises NoDaemonError or ControlError."""
    with Connection(path, timeout) as connection:
        return connection.call(command, arguments)


def _connect_error(path: str, error: OSError) -> Exception:
    if isinstance(error, (FileNotFoundError, ConnectionRefusedError, NotADirectoryError)):
        return NoDaemonError(path)
    if isinstance(error, PermissionError):
        return ControlError(
            f"{path}: permission denied; be root, the daemon's user or in its group"
        )
    if isinstance(error, (BlockingIOError, TimeoutError)):
        return ControlError(f"{path}: the daemon is too busy to answer; try again later")
    return ControlError(f"{path}: {error.strerror or error}")


def _pidfd(pid: int) -> int | None:
    """Return a descriptor that tells the end of the process, where it can be seen at all."""
    try:
        return os.pidfd_open(pid) if pid > 0 else None
    except OSError:  # gone already, or the kernel can't
        return None


def _reply(line: bytes) -> dict[str, Any]:
    from json import loads

    try:
        reply = loads(line)
    except ValueError as error:
        raise ControlError(f"the daemon's answer is not JSON: {error}") from None
    if not isinstance(reply, dict):
        raise ControlError("the daemon's answer is not a JSON object")
    return reply
