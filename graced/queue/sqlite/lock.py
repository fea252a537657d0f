"""The right to open a queue's file, which one process has at a time. Nothing of what is in it."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import stat
import time
from contextlib import suppress

from graced.queue.protocol import QueueLockedError, StorageError
from graced.queue.sqlite.place import identity_of

LOOK = 0.02  # seconds between two tries


def holder_of(file: str) -> str | None:
    """Return what the holder of a queue's file says of itself: a keeper's socket, or nothing."""
    try:
        with open(f"{file}-keeper", "rb") as lock:
            return os.fsdecode(lock.read(4096)) or None
    except OSError:
        return None


def make_private(fd: int) -> None:
    """Let no other user open a lock, as with older versions: one that can read it can hold it."""
    found = os.fstat(fd)
    if found.st_uid == os.geteuid() and found.st_mode & 0o077:
        os.fchmod(fd, 0o600)


def make_file(path: str) -> None:
    """Have a file that is its user's alone before anything is written to it. OSError."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def make_files_private(path: str) -> None:
    """Let no other user open a queue's files, as with older versions. OSError.

    By their names: to close a descriptor of the file would free the locks that SQLite has on it.
    """
    for name in (path, f"{path}-wal", f"{path}-shm"):
        with suppress(FileNotFoundError):
            found = os.lstat(name)
            ours = found.st_uid == os.geteuid() and stat.S_ISREG(found.st_mode)
            if ours and found.st_mode & 0o077:
                os.chmod(name, 0o600)


class Lock:
    """The right to open the file: an flock on a file beside it, held until close()."""

    def __init__(self, path: str) -> None:
        self.path = f"{path}-keeper"
        self._fd = -1
        self._about = ""

    def take(self, about: str, patience: float = 0.0) -> None:
        """Take the lock and write down what has it: the path of its socket, or nothing.

        Of other commands, which are soon done with it, it is awaited for so many seconds.
        """
        end = time.monotonic() + patience
        while True:
            try:
                self._take(about)
                return
            except QueueLockedError as occupied:
                if occupied.holder or time.monotonic() >= end:
                    raise
            time.sleep(LOOK * (1 + random.random()))  # so that no two keep in step

    def _take(self, about: str) -> None:
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StorageError(f"{self.path}: {error.strerror or error}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.fsdecode(os.pread(fd, 4096, 0))
            os.close(fd)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise StorageError(f"{self.path}: {error.strerror or error}") from None
            raise QueueLockedError(
                f"{self.path}: another process keeps this queue", holder
            ) from None
        self._fd, self._about = fd, about
        make_private(fd)
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, os.fsencode(about), 0)
        except OSError:  # on a full disk: it only makes the hand-over to another keeper slower
            os.ftruncate(fd, 0)

    def keep(self) -> None:
        """Take it once more if its file was removed. Raises QueueLockedError."""
        mine, fd = os.fstat(self._fd), self._fd
        if identity_of(self.path) == (mine.st_dev, mine.st_ino):
            return
        with suppress(OSError):  # then it can't be taken either, for the same reason
            os.makedirs(os.path.dirname(self.path) or ".", 0o750, exist_ok=True)
        self.take(self._about)
        os.close(fd)

    def release(self) -> None:
        """Let others have it."""
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1
