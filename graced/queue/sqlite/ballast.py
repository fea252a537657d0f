"""Ballast: space beside a queue's file, reserved for bad times.

It is given up when the disk is full, so that what is settled can still be written.
When that is, is said in :mod:`.storage`.
"""

from __future__ import annotations

import os

SIZE = 1 << 20  # bytes given up on a full disk, so that settles go on for a while


class Ballast:
    """The ballast of one queue's file."""

    def __init__(self, file: str) -> None:
        self._path = f"{file}-ballast"
        self._is_kept = False

    def keep(self) -> bool:
        """Reserve the space; return whether the disk had it."""
        if not self._is_kept:
            self._is_kept = _reserve(self._path, SIZE)
        return self._is_kept

    def drop(self) -> bool:
        """Give the space back, an earlier keeper's too; return whether there was any."""
        self._is_kept = False
        try:
            os.unlink(self._path)
        except OSError:
            return False
        return True


def _reserve(path: str, size: int) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError:
        os.unlink(path)
        return False
    finally:
        os.close(fd)
    return True
