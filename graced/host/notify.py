"""What systemd is told, see sd_notify(3). Only the main process speaks.

sdnotify finds and connects the socket; sending is done here, since its `notify`
encodes Latin-1, blocks while systemd does not read and swallows errors. What must not be lost
waits in order until the socket takes it; of STATUS= only the latest waits.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from socket import SCM_RIGHTS, SOL_SOCKET
from sys import byteorder

from graced.log.console import say
from graced.text import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, MutableMapping

MAX_EXTENSION_S = 36525 * 86400.0  # seconds: a century in µs fits what systemd counts in
MAX_VALUE_BYTES = 2000  # bytes of a value; systemd ignores a message of more than 4096
READY_FD = "GRACED_READY_FD"  # the command that waits for a daemon that left the terminal


LAST_WORDS_TIMEOUT_S = 0.2  # seconds that last words may take


class Notifier:
    """The way to the service manager; without one, everything here does nothing.

    The variables are taken out of `environ`, so that no child speaks to systemd.
    `warn` is called once when the socket has no reader any more, and may be set later.
    """

    def __init__(
        self, environ: MutableMapping[str, str], warn: Callable[[str], None] = say
    ) -> None:
        self.warn = warn
        self.watchdog_interval = _watchdog(environ)
        self._ready_fd: int | None = None
        self.tell_when_ready(environ)
        self._waiting: deque[bytes] = deque()  # what must not be lost
        self._enclosed: dict[bytes, int] = {}  # descriptors of ours that go with a message
        self._status: bytes | None = None
        self._alive = False  # WATCHDOG=1 waits
        self._told = False  # that the socket has no reader
        self._socket, self._peer = self._connect(environ.pop("NOTIFY_SOCKET", ""))

    def tell_when_ready(self, environ: MutableMapping[str, str]) -> None:
        """Tell the command that waits for a daemon to leave its terminal, if one does."""
        if READY_FD in environ:
            self._ready_fd = _number(environ.pop(READY_FD))

    # What can be said

    def ready(self, status: str | None = None) -> None:
        """READY=1: the start, or a reload, is over."""
        self.send(_with_status({"READY": "1"}, status))
        self._tell_who_waits()

    def reloading(self, status: str | None = None) -> None:
        """RELOADING=1, with the time that Type=notify-reload needs to match it."""
        now = str(time.monotonic_ns() // 1000)
        self.send(_with_status({"RELOADING": "1", "MONOTONIC_USEC": now}, status))

    def stopping(self, status: str | None = None) -> None:
        """STOPPING=1."""
        self.send(_with_status({"STOPPING": "1"}, status))

    def extend(self, seconds: float) -> None:
        """EXTEND_TIMEOUT_USEC: what is under way may take this much longer from now."""
        usec = round(min(max(0.0, seconds), MAX_EXTENSION_S) * 1_000_000)
        message = {"EXTEND_TIMEOUT_USEC": str(usec)}
        if self._waiting and self._waiting[-1].startswith(b"EXTEND_TIMEOUT_USEC="):
            self._waiting.pop()  # the newer one says it all
        self.send(message)

    def failed(self, exit_status: int, errno: int | None = None, status: str | None = None) -> None:
        """EXIT_STATUS and ERRNO: why this process is about to leave."""
        message = {"EXIT_STATUS": str(exit_status)}
        if errno is not None:
            message["ERRNO"] = str(errno)
        self.send(_with_status(message, status))

    def status(self, text: str) -> None:
        """STATUS: one line for people. A later one replaces it while it waits."""
        self._status = _encoded({"STATUS": text}) if self._socket is not None else None
        self.flush()

    def watchdog(self) -> None:
        """WATCHDOG=1: the loop turns, and enough workers are healthy."""
        self._alive = self._socket is not None
        self.flush()

    def store(self, name: str, fd: int) -> bool:
        """FDSTORE=1: keep this descriptor for the daemon after us; False without systemd.

        It is not looked at meanwhile (FDPOLL=0), and comes back as sd_listen_fds(3) tells.
        """
        if self._socket is None:
            return False
        message = {"FDSTORE": "1", "FDNAME": name, "FDPOLL": "0"}
        self._enclosed[_encoded(message)] = os.dup(fd)
        self.send(message)
        return True

    def unstore(self, name: str) -> None:
        """FDSTOREREMOVE=1: keep it no longer."""
        self.send({"FDSTOREREMOVE": "1", "FDNAME": name})

    def send(self, message: Mapping[str, str]) -> None:
        """Send one message, or let it wait in order: nothing sent here is lost."""
        if self._socket is None:
            return
        if "STATUS" in message:
            self._status = None  # older than this one
        self._waiting.append(_encoded(message))
        self.flush()

    # For the supervisor's selector

    def fileno(self) -> int:
        """Return the socket's descriptor, -1 without one. It never changes."""
        return -1 if self._socket is None else self._socket.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether to call :meth:`flush` when the socket becomes writable."""
        return bool(self._waiting) or self._status is not None or self._alive

    def flush(self) -> None:
        """Send what waits, as far as it is taken at once."""
        while self._waiting and self._sent(self._waiting[0]):
            self._put_in(self._waiting.popleft())
        if not self._waiting and self._status is not None and self._sent(self._status):
            self._status = None
        if not self._waiting and self._alive and self._sent(b"WATCHDOG=1"):
            self._alive = False

    def final(self, bound: float) -> None:
        """Send what waits, for at most `bound` seconds: the last thing before the exit."""
        deadline = time.monotonic() + bound
        while self.wants_write and (left := deadline - time.monotonic()) > 0:
            poll = select.poll()
            poll.register(self.fileno(), select.POLLOUT)
            poll.poll(left * 1000)
            self.flush()

    def farewell(self, exit_status: int, why: str, errno: int | None = None) -> None:
        """Say why there will be no daemon: our last words."""
        self.failed(exit_status, errno, f"failed: {why}")
        self.final(LAST_WORDS_TIMEOUT_S)

    def close(self) -> None:
        """Forget the socket: a child does this, and the tests."""
        if self._socket is not None:
            self._socket.close()
        self._gone()
        if self._ready_fd is not None:
            os.close(self._ready_fd)
            self._ready_fd = None

    # How it is sent

    def _connect(self, address: str) -> tuple[socket.socket | None, str | bytes]:
        if not address:
            return None, ""
        if address[0] not in "/@":
            what = "is of a virtual machine" if address.startswith("vsock") else "is no path"
            self._tell(
                f"NOTIFY_SOCKET={address} {what}: graced speaks to Unix sockets alone, /path or"
                " @name; going on without telling systemd"
            )
            return None, ""
        try:
            found = _found_by_sdnotify(address)
            return found, found.getpeername()
        except (OSError, ImportError) as error:
            self._tell(f"cannot reach systemd at NOTIFY_SOCKET={address}: {error}")
            return None, ""

    def _sent(self, message: bytes) -> bool:
        """Return False if the message has to wait; one that can't be delivered is dropped."""
        if self._socket is None:
            return True
        try:
            self._hand_over(message)
        except BlockingIOError:
            return False
        except OSError:
            return self._sent_again(message)
        return True

    def _hand_over(self, message: bytes) -> None:
        assert self._socket is not None
        fd = self._enclosed.get(message)
        if fd is None:
            self._socket.send(message)
        else:
            self._socket.sendmsg([message], [(SOL_SOCKET, SCM_RIGHTS, fd.to_bytes(4, byteorder))])

    def _put_in(self, message: bytes) -> None:
        """The message is sent, and the descriptor that it enclosed is systemd's now."""
        fd = self._enclosed.pop(message, None)
        if fd is not None:
            os.close(fd)

    def _sent_again(self, message: bytes) -> bool:
        """The reader is gone: a new one may be there, under the same name."""
        assert self._socket is not None
        try:
            self._socket.connect(self._peer)
            self._hand_over(message)
        except BlockingIOError:
            return False
        except OSError as error:
            self._tell(f"systemd no longer takes notifications ({error}); going on without")
        else:
            self._told = False
        return True

    def _tell(self, trouble: str) -> None:
        if not self._told:
            self._told = True
            self.warn(trouble)

    def _gone(self) -> None:
        self._socket = None
        while self._waiting:
            self._put_in(self._waiting.popleft())
        self._status, self._alive = None, False

    def _tell_who_waits(self) -> None:
        if self._ready_fd is not None:
            fd, self._ready_fd = self._ready_fd, None
            try:
                os.write(fd, b"READY")
            except OSError:  # the command that waited is gone
                pass
            os.close(fd)


def _found_by_sdnotify(address: str) -> socket.socket:
    from sdnotify import SystemdNotifier

    before = os.environ.get("NOTIFY_SOCKET")
    os.environ["NOTIFY_SOCKET"] = address  # where sdnotify looks
    try:
        found: socket.socket = SystemdNotifier(debug=True).socket
    finally:
        if before is None:
            del os.environ["NOTIFY_SOCKET"]
        else:
            os.environ["NOTIFY_SOCKET"] = before
    found.setblocking(False)
    return found


def _watchdog(environ: MutableMapping[str, str]) -> float | None:
    """Return the seconds within which WATCHDOG=1 is expected, see sd_watchdog_enabled(3)."""
    usec = _number(environ.pop("WATCHDOG_USEC", ""))
    pid = environ.pop("WATCHDOG_PID", "")
    if not usec or (pid and _number(pid) != os.getpid()):
        return None
    return usec / 1_000_000


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None


def _with_status(message: dict[str, str], status: str | None) -> dict[str, str]:
    return message if status is None else {**message, "STATUS": status}


def _encoded(message: Mapping[str, str]) -> bytes:
    return b"\n".join(name.encode() + b"=" + _value(value) for name, value in message.items())


def _value(text: str) -> bytes:
    """Return `text` on one line, as UTF-8, and short enough to be read."""
    text = one_line(" ".join(text.splitlines()))
    data = text.encode("utf-8", "backslashreplace")
    return (
        data
        if len(data) <= MAX_VALUE_BYTES
        else data[:MAX_VALUE_BYTES].decode("utf-8", "ignore").encode()
    )


def tell_who_waits(fd: str, text: str) -> None:
    """Have the process that waits for a daemon, at the terminal, say something there."""
    try:
        os.write(int(fd), f"SAY {' '.join(text.split())}\n".encode())
    except (OSError, ValueError):  # the command that waited is gone
        pass


def farewell(
    environ: MutableMapping[str, str], exit_status: int, why: str, errno: int | None = None
) -> None:
    """Say why there is no daemon, from a process that never became one."""
    if "NOTIFY_SOCKET" in environ:
        Notifier(environ).farewell(exit_status, why, errno)
