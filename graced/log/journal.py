"""systemd's journal in its own protocol: a record is one entry, with fields, whatever its lines.

See https://systemd.io/JOURNAL_NATIVE_PROTOCOL: a datagram of fields, or, if it is too large
for one, a sealed memory file. What journald does not take at once is counted as lost, as
everywhere in :mod:`graced.log.logger`.
"""

from __future__ import annotations

import errno
import os
import socket
import time

from graced import program
from graced.log.formats import PRIORITIES, told
from graced.log.output import Output
from graced.log.sinks import Sink
from graced.text import harmless, printed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.log.formats import Fields

MAX_NAME_CHARS = 64  # of a field
STREAM = "/stdout"  # what journald calls the socket behind standard error, and
NATIVE = "/socket"  # its neighbour, which we want
SETTLE_TIMEOUT_S = 0.1  # seconds that a process waits at its end for journald
SETTLE_PAUSE_S = 0.001
_SIOCOUTQ = 0x5411  # what is sent and not yet read, see unix(7)


def journal_output(level: str, fd: int) -> Output | None:
    """Return the way to the journal behind a stream to it; None if there is only the stream."""
    path = _neighbour(fd)
    if path is None:
        return None
    try:
        sink = JournalSink(path)
    except OSError:
        return None
    output = Output(level, "journal", sink)
    output.format = entry
    return output


def _neighbour(fd: int) -> str | None:
    try:
        stream = socket.socket(fileno=os.dup(fd))
    except OSError:
        return None
    try:
        peer = stream.getpeername()
    except OSError:
        return None
    finally:
        stream.close()
    if not isinstance(peer, str) or not peer.endswith(STREAM):
        return None
    return peer.removesuffix(STREAM) + NATIVE


# Entries


def entry(level: str, message: str, bound: Fields, fields: Fields) -> bytes:
    """Return a record as the journal wants it, with `GRACED_POOL` and its like."""
    first, *rest = told(bound, message, fields)
    lines = [first, *(line.removeprefix("    ") for line in rest)]
    parts = [
        _field("MESSAGE", "\n".join(lines)),
        _field("PRIORITY", str(PRIORITIES[level])),
        _field("SYSLOG_IDENTIFIER", program.name),
    ]
    known = {**bound, **fields}
    parts += [_field(_name(key), harmless(printed(value))) for key, value in known.items()]
    return b"".join(parts)


def _name(key: str) -> str:
    plain = "".join(c if c.isascii() and c.isalnum() else "_" for c in str(key).upper())
    return f"GRACED_{plain}"[:MAX_NAME_CHARS]


def _field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "backslashreplace")
    if b"\n" not in data:
        return b"%s=%s\n" % (name.encode(), data)
    return b"%s\n%s%s\n" % (name.encode(), len(data).to_bytes(8, "little"), data)


# Where they go


class JournalSink(Sink):
    """journald's socket: each entry is taken whole or not at all."""

    def __init__(self, path: str) -> None:
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_UNIX, kind)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise
        self._spoke = 0  # which process did, last
        super().__init__(self._socket.fileno())

    def is_behind(self, fd: int) -> bool:
        """Return whether `fd` is a stream to the journal."""
        return _neighbour(fd) is not None

    def _put(self, fd: int, data: bytes) -> int:
        try:
            self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            self._enclose(data)
        self._spoke = os.getpid()
        return len(data)

    def _enclose(self, data: bytes) -> None:
        import fcntl

        fd = os.memfd_create("graced-journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            at = 0
            while at < len(data):
                at += os.write(fd, data[at:])
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fd.to_bytes(4, "little"))]
            self._socket.sendmsg([], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        finally:
            os.close(fd)

    def settle(self) -> None:
        """Wait until journald has read it all.

        It looks up the unit of a sender by its process id, and finds nothing once the process
        is gone: the last words of a worker would be missing in `journalctl -u`.
        """
        if self._spoke != os.getpid():
            return
        end = time.monotonic() + SETTLE_TIMEOUT_S
        while self._unread() and time.monotonic() < end:
            time.sleep(SETTLE_PAUSE_S)
        time.sleep(SETTLE_PAUSE_S)  # read, but perhaps not looked up yet

    def _unread(self) -> bool:
        import fcntl

        answer = fcntl.ioctl(self._socket.fileno(), _SIOCOUTQ, bytes(4))
        return any(answer)

    def close(self) -> None:
        self.fd = None
        self._socket.close()
