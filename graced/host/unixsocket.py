"""Names of Unix sockets: of any length, and taken in one step.

The kernel takes 107 bytes (unix(7)); a longer path is reached through a descriptor
of its folder. Nothing here blocks by itself, and nothing here reads or writes.
"""

from __future__ import annotations

import os
from _socket import SO_PEERCRED, SOL_SOCKET

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket as socket
    from collections.abc import Callable
    from typing import Final

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


def bind(sock: socket.socket, path: str, mode: int = 0o660) -> None:
    """Give `sock` the name `path`, in the place of a socket that a dead process has left.

    It listens before it has that name, so whoever finds it is served.
    """
    spare = f"{path}.{os.getpid()}"
    _remove(spare)
    _bind(sock, spare, mode)
    try:
        sock.listen(BACKLOG)
        os.rename(spare, path)
    except BaseException:
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
