"""Names of Unix sockets: of any length, and taken in one step.

The kernel takes 107 bytes (unix(7)); a longer path is reached through a descriptor
of its folder. Nothing here blocks by itself, and nothing here reads or writes.
"""

from __future__ import annotations

import os
import stat
from _socket import SO_PEERCRED, SOL_SOCKET
from errno import EPERM

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket as socket
    from collections.abc import Callable
    from typing import Final

    Owner = tuple[int, int]  # user and group number

LONGEST: Final = 107
BACKLOG: Final = 128


def connect(sock: socket.socket, path: str) -> None:
    """Connect to the socket at `path`. Raises what :meth:`socket.socket.connect` raises."""
    _name(sock.connect, path)


def peer(sock: socket.socket) -> tuple[int, int, int]:
    """Return the process, user and group number of the other end (SO_PEERCRED)."""
    told = sock.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)
    pid, uid, gid = memoryview(told).cast("I")
    return pid, uid, gid


def bind(sock: socket.socket, path: str, mode: int = 0o660, owner: Owner | None = None) -> None:
    """Give `sock` the name `path`, in the place of a socket that a dead process has left.

    It listens before it has that name, so whoever finds it is served. `owner` gets it; where
    that is not root's to decide, its group does.
    """
    spare = f"{path}.{os.getpid()}"
    _remove(spare)
    _bind(sock, spare, mode)
    try:
        if owner is not None:
            give(spare, owner)
        sock.listen(BACKLOG)
        os.rename(spare, path)
    except BaseException:
        _remove(spare)
        raise


def give(path: str, owner: Owner) -> None:
    """Give a socket that was made just now to its owner, and nothing else.

    The folder may be that owner's, who could put a link there that leads to a file of root's.
    """
    user, group = owner
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if (stat.S_ISSOCK(found.st_mode), found.st_uid, found.st_nlink) != (True, os.geteuid(), 1):
            raise PermissionError(EPERM, "somebody has put something else there", path)
        user = user if os.geteuid() == 0 else -1
        try:
            os.chown(f"/proc/self/fd/{fd}", user, group)
        except FileNotFoundError:  # no /proc
            os.chown(path, user, group, follow_symlinks=False)
    finally:
        os.close(fd)


def _bind(sock: socket.socket, path: str, mode: int) -> None:
    old = os.umask(0o777 & ~mode)
    try:
        _name(sock.bind, path)
    finally:
        os.umask(old)


def _name(call: Callable[[str], None], path: str) -> None:
    """Call with a name for `path` that the kernel takes."""
    if len(os.fsencode(path)) <= LONGEST:
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
