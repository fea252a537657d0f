"""Whether a worker still lives, told by a lock on a file of its own, never by a number.

A worker takes the lock before it takes a job, and the kernel lets go of it when the last
process that inherited it is gone. Nobody ever waits for such a lock: the keeper tries it.
"""

from __future__ import annotations

import fcntl
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SUFFIX = ".lock"


def folder(queue: str) -> str:
    """Return the folder of the lock files of a queue's workers."""
    return f"{queue}-owners"


def _path(queue: str, owner: str) -> str:
    return f"{folder(queue)}/{owner}{SUFFIX}"


def hold(queue: str, owner: str) -> int:
    """Take a worker's own lock; return the descriptor that is to stay open."""
    path = _path(queue, owner)
    os.makedirs(folder(queue), 0o770, exist_ok=True)
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(fd, path):
                return fd
        except BlockingIOError:  # the keeper is just trying it
            os.sched_yield()
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _is_at(fd: int, path: str) -> bool:
    """Whether a file still has its name: the keeper may have tidied it up in between."""
    try:
        named = os.stat(path)
    except FileNotFoundError:
        return False
    mine = os.fstat(fd)
    return (mine.st_dev, mine.st_ino) == (named.st_dev, named.st_ino)


def lives(queue: str, owner: str, *, tidy: bool = True) -> bool:
    """Whether somebody holds an owner's lock; if nobody does its file is removed."""
    path = _path(queue, owner)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:  # cannot tell; its worker may be at work
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if tidy:
            os.unlink(path)
    except BlockingIOError:
        return True
    except OSError:  # free, and cannot be removed: another time
        return False
    finally:
        os.close(fd)
    return False


def listed(queue: str) -> Iterator[str]:
    """Yield every owner that has a lock file."""
    try:
        names = os.listdir(folder(queue))
    except OSError:
        return
    for name in names:
        if name.endswith(SUFFIX):
            yield name.removesuffix(SUFFIX)
