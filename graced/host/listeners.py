"""Listening sockets: opened, or taken over from systemd, and put away.

What an address means is in :mod:`graced.host.address`; which sockets are wanted at a moment,
in :mod:`graced.supervisor.sockets`. Nothing here accepts a connection.
"""

from __future__ import annotations

import os
import socket
import stat

from graced.exitcodes import CONFIG, FAILED
from graced.host.directories import DirectoryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable, MutableMapping

    from graced.host.address import Address

    File = tuple[int, int]  # device and inode

FIRST = 3  # of the descriptors that systemd hands over, see sd_listen_fds(3)
STORED = "graced-"  # begins the names of sockets that we have stored with systemd
MAX_NAME_CHARS = 200
ACCEPTS = "00010000"  # among the flags of a Unix socket in /proc/net/unix
LISTENS = "0A"  # the state of a TCP socket in /proc/net/tcp
_NOBODY = (ConnectionRefusedError, FileNotFoundError)


class ListenError(DirectoryError):
    """There can be no socket of this address; says why, and what to do."""

    exit_code = FAILED  # the port may be free at the next try


class SocketNotGivenError(ListenError):
    """systemd hands over no such socket, and will not if it is asked again."""

    exit_code = CONFIG


def given(environ: MutableMapping[str, str]) -> dict[str, list[int]]:
    """Return the descriptors that systemd hands over, by name, as sd_listen_fds(3) does.

    The variables are taken out of `environ`: no child is meant by them.
    """
    pid = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return {}
    found: dict[str, list[int]] = {}
    for index in range(int(count)):
        try:
            os.set_inheritable(FIRST + index, False)
        except OSError:  # fewer than were announced
            break
        name = names[index] if index < len(names) else ""
        found.setdefault(name or "unknown", []).append(FIRST + index)
    return found


def listens(fd: int) -> bool:
    """Return whether a descriptor is a socket that listens."""
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return False
    except OSError:
        return False
    sock = socket.socket(fileno=fd)
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    finally:
        sock.detach()


def open_address(address: Address) -> int:
    """Return the descriptor of a new socket that listens."""
    family = socket.AF_UNIX if address.kind == "unix" else socket.AF_INET
    if ":" in address.host:
        family = socket.AF_INET6
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            _bind(sock, address)
            sock.listen(address.backlog)
        except BaseException:  # closed, whatever it is; raised on
            sock.close()
            raise
    except OSError as error:
        what = f"cannot listen on {address.place}: {error.strerror}"
        raise ListenError(f"{what}; {_advice(address, error)}") from error
    return take_over(sock.detach())


def take_over(fd: int) -> int:
    """Let a socket be as our workers expect it: accepting never blocks, no subprocess has it."""
    os.set_blocking(fd, False)
    os.set_inheritable(fd, False)
    return fd


def adjust(fd: int, address: Address, file: File | None) -> None:
    """Set what can change while a socket is open; `file` is a Unix socket's own."""
    if address.kind == "fd":
        return
    sock = socket.socket(fileno=fd)
    try:
        sock.listen(address.backlog)
        if address.kind == "unix":
            _set_mode(address, file)
    except OSError:  # its name is gone: clients see that, the pool goes on
        pass
    finally:
        sock.detach()


def file_at(address: Address) -> File | None:
    """Return which file is at the path of a Unix socket now; None for others, or without one."""
    if address.kind != "unix":
        return None
    try:
        found = os.lstat(address.name)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def let_go(fds: Iterable[int], alone: Container[int]) -> None:
    """Listen no more, while others have the same sockets: the main process is dead.

    Its successor can have their addresses at once. The numbers stay taken, by a socket that
    no client can reach: user code may still use them. Those that we have `alone`, and not systemd
    too, are shut down, so that it does not matter which other process is slow to let go.
    """
    for fd in fds:
        listener, dead = socket.socket(fileno=fd), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if fd in alone:
                listener.shutdown(socket.SHUT_RDWR)
        except OSError:  # another one was quicker
            pass
        os.dup2(dead.fileno(), listener.detach(), inheritable=False)
        dead.close()


def stop_listening(fd: int) -> None:
    """Refuse callers from now on, also of other holders of the socket; its number stays taken."""
    listener = socket.socket(fileno=fd)
    try:
        listener.shutdown(socket.SHUT_RDWR)
    except OSError:  # it listens no more
        pass
    finally:
        listener.detach()


def is_at(fd: int, address: Address) -> bool:
    """Return whether a socket listens on an address, and can be found there."""
    if not listens(fd):
        return False
    sock = socket.socket(fileno=fd)
    try:
        name = sock.getsockname()
    finally:
        sock.detach()
    if address.kind == "unix":
        return name == address.name and _is_socket(address.name)
    return isinstance(name, tuple) and name[:2] == (address.host, address.port)


def listen_on(pids: Iterable[int], address: Address) -> bool:
    """Return whether one of these processes has a socket that listens there, as far as it shows.

    For a TCP port that is whatever the IP address: it may be that of all.
    """
    for pid in pids:
        try:
            listening, folder = _listening(pid, address), f"/proc/{pid}/fd"
            if any(_link(f"{folder}/{fd}") in listening for fd in os.listdir(folder)):
                return True
        except OSError:  # it has ended, or is another user's
            continue
    return False


def _listening(pid: int, address: Address) -> set[str]:
    """Return the sockets that listen on an address, as a descriptor's link names them, proc(5)."""
    found = set()
    for name in ("unix",) if address.kind == "unix" else ("tcp", "tcp6"):
        with open(f"/proc/{pid}/net/{name}", encoding="utf-8", errors="surrogateescape") as table:
            for line in table:
                words = line.split(maxsplit=7) if address.kind == "unix" else line.split()
                if address.kind == "unix":
                    if words[-1].rstrip("\n") == address.name and words[3] == ACCEPTS:
                        found.add(f"socket:[{words[6]}]")
                elif words[3] == LISTENS and words[1].endswith(f":{address.port:04X}"):
                    found.add(f"socket:[{words[9]}]")
    return found


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:  # closed meanwhile
        return ""


def put_away(fd: int, address: Address, file: File | None) -> None:
    """Close a socket, and remove its `file` if that is still the one at its path."""
    os.close(fd)
    if file is not None and file == file_at(address):
        _remove(address.name)


def stored_name(address: Address) -> str:
    """Return the name under which systemd keeps a socket for us, see FDNAME in sd_notify(3)."""
    from zlib import crc32

    plain = "".join(c if c.isalnum() and c.isascii() else "-" for c in address.place)
    return f"{STORED}{plain[:MAX_NAME_CHARS]}-{crc32(address.place.encode()):08x}"


# Binding


def _bind(sock: socket.socket, address: Address) -> None:
    if address.kind == "unix":
        _bind_unix(sock, address)
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # old connections may linger
    if ":" in address.host:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # [::] leaves 0.0.0.0 alone
    sock.bind((address.host, address.port))


def _bind_unix(sock: socket.socket, address: Address) -> None:
    path = address.name
    if _is_stale(path):
        _remove(path)
    old = os.umask(0o777 & ~address.mode)
    try:
        sock.bind(path)
    finally:
        os.umask(old)


def _set_mode(address: Address, file: File | None) -> None:
    """Change the mode of a socket that is `file`, never of what has been put in its place."""
    fd = os.open(address.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) == file:
            os.chmod(f"/proc/self/fd/{fd}", address.mode)
    finally:
        os.close(fd)


def _is_stale(path: str) -> bool:
    """Return whether there is a socket that a dead process has left."""
    if not _is_socket(path):
        return False
    caller = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    caller.setblocking(False)
    try:
        caller.connect(path)
    except _NOBODY:
        return True
    except OSError:  # its queue is full, or it isn't ours to call: a process listens there
        return False
    finally:
        caller.close()
    return False


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:  # gone, or not ours to remove: then the bind says so
        pass


def _advice(address: Address, error: OSError) -> str:
    import errno

    match error.errno:
        case errno.EADDRINUSE if address.kind == "unix":
            return "a process listens there, or it is no socket: remove it, or write another path"
        case errno.EADDRINUSE:
            return "stop the process that listens there, or write another port"
        case errno.EACCES | errno.EPERM:
            return (
                "only root may, and a daemon is root at its start alone: restart it as root,"
                " write another, or let systemd open it: fd:NAME"
            )
        case errno.EADDRNOTAVAIL:
            return "write an address of this host"
    return "write another address"
