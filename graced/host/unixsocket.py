"""Names of Unix sockets: of any length, and taken in one step.

The kernel takes 107 bytes (unix(7)); a longer path is reached through a descriptor
of its folder. Nothing here blocks by itself, and nothing here reads or writes.
"""

from __future__ import annotations

import os
from socket import SO_PEERCRED, SOL_SOCKET

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

MAX_PATH_BYTES = 107
BACKLOG = 128
_PEERGROUPS = 59  # SO_PEERGROUPS, see socket(7)


def connect(sock: socket.socket, path: str) -> None:
    """Connect to the socket at `path`. Raises what :meth:`socket.socket.connect` raises."""
    _name(sock.connect, path)


def peer(sock: socket.socket) -> tuple[int, int, int]:
    """Return the process, user and group number of the other end (SO_PEERCRED)."""
    told = sock.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)
    pid, uid, gid = memoryview(told).cast("I")
    return pid, uid, gid


class UntrustedSocketError(Exception):
    """Another process than the daemon may listen there; says whose, and what to do."""


def connect_to_daemon(sock: socket.socket, path: str) -> None:
    """Connect to a daemon's socket, if no other user can have put one there.

    Its folder has to be root's, ours or the configured user's, or one that root has made for
    its owner; what listens has to be of one of those.
    Raises UntrustedSocketError, or what connect() raises.
    """
    folder = os.path.dirname(os.path.abspath(path))
    owner = os.stat(folder).st_uid
    known = {0, os.geteuid(), *_configured}
    if owner not in known and not _is_given_by_root(folder):
        raise UntrustedSocketError(f"{path}: {_whose(owner)}")
    connect(sock, path)
    uid = peer(sock)[1]
    if uid not in (*known, owner):
        raise UntrustedSocketError(f"{path}: {_whose(uid)}")


_configured: set[int] = set()


def know(uid: int) -> None:
    """Trust what is in the folders of the user that the configuration names."""
    _configured.add(uid)


def _is_given_by_root(folder: str) -> bool:
    """Whether only root can have made a folder: no other user may write to those above it."""
    above = os.path.dirname(os.path.realpath(folder))
    while True:
        found = os.stat(above)
        if found.st_uid != 0 or found.st_mode & 0o022:
            return False
        if above == "/":
            return True
        above = os.path.dirname(above)


def _whose(uid: int) -> str:
    import pwd

    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return (
        f"belongs to user {name}, which is neither root, nor you, nor the configuration's;"
        f" set user: {name} there, or ask as that user: sudo -u {name}"
    )


def groups(sock: socket.socket) -> set[int]:
    """Return the group numbers of the process at the other end (SO_PEERGROUPS).

    Of one that has more than 256 supplementary groups, only its own.
    """
    try:
        told = sock.getsockopt(SOL_SOCKET, _PEERGROUPS, 1024)  # the most that Python takes
    except OSError:
        told = b""
    return {peer(sock)[2], *memoryview(told).cast("I")}


def bind(sock: socket.socket, path: str, mode: int = 0o660) -> None:
    """Give `sock` the name `path`, in the place of a socket that a dead process has left.

    It listens before it has that name, so a client that finds it is served.
    """
    spare = f"{path}.{os.getpid()}"
    _remove(spare)
    _bind(sock, spare, mode)
    try:
        sock.listen(BACKLOG)
        os.rename(spare, path)
    except BaseException:  # removed, whatever it is; raised on
        _remove(spare)
        raise


def _bind(sock: socket.socket, path: str, mode: int) -> None:
    old = os.umask(0o777 & ~mode)
    try:
        _name(sock.bind, path)
    finally:
        os.umask(old)


def _name(call: Callable[[str], None], path: str) -> None:
    """Call with a name for `path` that the kernel takes."""
    if len(os.fsencode(path)) <= MAX_PATH_BYTES:
        call(path)
        return
    folder = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        call(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
    finally:
        os.close(folder)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
