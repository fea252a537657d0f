"""When a program is ready: after some time, when it says so, or when its address accepts.

Also its notices: what it says as to systemd, see sd_notify(3), on a socket of ours.
"""

from __future__ import annotations

import os
import socket
import struct
import time

from graced import options
from graced.host import listeners, process
from graced.host.address import AddressError, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from graced.host.address import Address

    class Readiness(Protocol):
        """Something to wait for, from the start of the program on."""

        def begin(self, pid: int) -> None:
            """The program has been started."""

        def reached(self) -> bool:
            """Whether it is ready; to be asked whenever something has happened."""

        def look_again(self) -> float | None:
            """Return in how many seconds to ask, even if nothing has happened."""


FIRST_LOOK_S = 0.01  # seconds until an address is tried again
LAST_LOOK_S = 0.25  #   each try comes later, up to this
CONNECT_TIMEOUT_S = 0.1
MAX_NOTICE_BYTES = 65536
MAX_NOTICES = 100  # at a time; there may be no end of them
_CREDENTIALS = struct.Struct("iII")  # process, user, group; see unix(7)


class Notices:
    """The socket that a program says its notices to."""

    def __init__(self) -> None:
        self.ready = False
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind("")  # the kernel finds a name that no file has, and nothing is left of
        self.address = f"@{self._socket.getsockname()[1:].decode()}"

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> list[tuple[str, str]]:
        """Return what has been said, as names and values."""
        said = []
        for _ in range(MAX_NOTICES):
            try:
                data, extra, _, _ = self._socket.recvmsg(
                    MAX_NOTICE_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size)
                )
            except BlockingIOError:
                break
            if _is_ours(extra):
                for line in data.decode(errors="backslashreplace").splitlines():
                    name, _, value = line.partition("=")
                    self.ready |= (name, value) == ("READY", "1")
                    said.append((name, value))
        return said

    def close(self) -> None:
        self._socket.close()


def _is_ours(extra: list[tuple[int, int, bytes]]) -> bool:
    """Return whether a notice is of a process of our user, or of root: any may know the address."""
    for level, kind, data in extra:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            return _CREDENTIALS.unpack(data)[1] in (os.geteuid(), 0)
    return False


class Lives:
    """It is ready when it has lived for some time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = 0.0

    def begin(self, pid: int) -> None:
        self._end = time.monotonic() + self._seconds

    def reached(self) -> bool:
        return time.monotonic() >= self._end

    def look_again(self) -> float:
        return max(self._end - time.monotonic(), 0)


class Says:
    """It is ready when it says so."""

    def __init__(self, notices: Notices) -> None:
        self._notices = notices

    def begin(self, pid: int) -> None:
        pass

    def reached(self) -> bool:
        return self._notices.ready

    def look_again(self) -> None:
        pass


class Accepts:
    """It is ready when its address accepts.

    If another process has accepted there before, when it listens there itself.
    """

    def __init__(self, text: str) -> None:
        try:
            self._address = parse(f"unix:{text}" if text.startswith("/") else text)
        except AddressError as error:
            raise options.OptionError("ready", error.what, error.remedy) from None
        self.is_taken = accepts(self._address)
        self._pid = 0
        self._pause = FIRST_LOOK_S
        self._next_try = 0.0

    def begin(self, pid: int) -> None:
        self._pid = pid

    def reached(self) -> bool:
        now = time.monotonic()
        if now < self._next_try:
            return False
        self._next_try = now + self._pause
        self._pause = min(2 * self._pause, LAST_LOOK_S)
        if self.is_taken and not listeners.listen_on(process.family(self._pid), self._address):
            return False
        return accepts(self._address)

    def look_again(self) -> float:
        return max(self._next_try - time.monotonic(), 0)


def accepts(address: Address) -> bool:
    """Return whether a process accepts connections there."""
    family = socket.AF_UNIX if address.kind == "unix" else socket.AF_INET
    if ":" in address.host:
        family = socket.AF_INET6
    caller = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    caller.settimeout(CONNECT_TIMEOUT_S)
    try:
        caller.connect(address.name if address.kind == "unix" else (address.host, address.port))
    except BlockingIOError:  # so many wait there that there is no room for one more
        return True
    except OSError:
        return False
    finally:
        caller.close()
    return True
