"""The room that a queue's file has on its disk: what new jobs may take, what is kept for bad times.

A job takes its size twice, in the log and, once that is folded, in the file. New jobs leave
room enough for the fold, so that a disk that the queue itself has filled empties as its jobs
are done. When that is looked at is said in :mod:`.storage`.
"""

from __future__ import annotations

import os
from contextlib import suppress

from graced.queue.protocol import StorageError
from graced.queue.sqlite.ballast import SIZE, Ballast

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.queue.sqlite.store import Store

PLENTY = 64 << 20  # bytes free with which there is no need to count
NEARLY_FULL = "the disk is nearly full: no room for new jobs; make some"
LOG = SIZE // 2  # bytes to fold with which the ballast is enough


class Room:
    """The room of one queue's file."""

    def __init__(self, file: str) -> None:
        self._folder = os.path.dirname(file) or "."
        self.ballast = Ballast(file)

    def has(self, store: Store, size: int) -> bool:
        """Whether there is room for new jobs of so many bytes, once all is folded."""
        if self._free() >= PLENTY + 2 * size:
            return True
        with suppress(StorageError):
            if max(store.growth(), store.log_size()) > LOG:
                store.shorten_log()
            if not self._fits(store, size) and store.log_size():
                store.shorten_log()
            return self._fits(store, size)
        return False

    def _fits(self, store: Store, size: int) -> bool:
        free = self._free()
        unused = free - store.growth() + store.spare()
        return free >= SIZE + 2 * size and unused >= 2 * SIZE + 2 * size

    def check(self, store: Store, size: int) -> None:
        """StorageError if there is no room for new jobs of so many bytes."""
        if size and not self.has(store, size):
            raise StorageError(f"{store.path}: {NEARLY_FULL}", full=True)

    def keep_ballast(self, store: Store) -> bool:
        """Have a ballast; return whether there is room for it."""
        if not self.ballast.keep():
            with suppress(StorageError):
                store.shorten_log()
        return self.ballast.keep()

    def make(self, store: Store, *, spend: bool) -> None:
        """Make what room can be made at once, with the ballast's or without."""
        if spend:
            self.ballast.drop()
        with suppress(StorageError):
            store.shorten_log()

    def _free(self) -> int:
        try:
            found = os.statvfs(self._folder)
        except OSError:
            return 0
        return found.f_bavail * found.f_frsize
