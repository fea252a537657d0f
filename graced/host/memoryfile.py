"""What may be secret in a pool's and a schedule's settings, in a memory file, see memfd_create(2).

A pool's `env` and `options` may hold secrets, and a zygote is a copy of the main process: it
would have those of all pools in its memory, in texts and trees long forgotten. So the main
process never has them. The process that reads the configuration writes each pool's to a place
of their own in a memory file; a zygote reads what is there for its pool, a keeper what its
jobs shall have as payload.
"""

from __future__ import annotations

import marshal
import os

from graced.host import descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from graced.settings import Pool, Settings

OF_POOL = ("env", "options")
OF_SCHEDULE = ("payload",)
SECRET_KEYS = OF_POOL + OF_SCHEDULE


class MemoryFile:
    """A memory file, open as long as a value in it is needed."""

    __slots__ = ("_pid", "fd")

    def __init__(self, name: str) -> None:
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC)
        self._pid = os.getpid()

    def __del__(self) -> None:
        if os.getpid() == self._pid:  # a child has closed it, and the number may be another's
            descriptors.close_quietly(self.fd)

    def write(self, value: Any) -> tuple[int, int]:
        """Append a value; return where it is and how many bytes it has."""
        data = marshal.dumps(value)
        at = os.lseek(self.fd, 0, os.SEEK_END)
        os.write(self.fd, data)
        return at, len(data)


class StoredValue:
    """The place of a value in a memory file."""

    __slots__ = ("_at", "_file", "_size")

    def __init__(self, file: MemoryFile, at: int, size: int) -> None:
        self._file = file
        self._at = at
        self._size = size

    def fileno(self) -> int:
        """Return the descriptor that it is read from."""
        return self._file.fd

    def read(self) -> Any:
        """Return the value."""
        return marshal.loads(os.pread(self._file.fd, self._size, self._at))


def with_secrets(pool: Pool) -> Pool:
    """Return a pool's settings with all that is in them; in the zygote that they are for."""
    found = {key: getattr(pool, key) for key in OF_POOL}
    return pool.replace(**{k: v.read() for k, v in found.items() if isinstance(v, StoredValue)})


def kept_descriptors(settings: Settings) -> set[int]:
    """Return what has to stay open until all zygotes are there."""
    values = [getattr(pool, key) for pool in settings.pools.values() for key in OF_POOL]
    values += [schedule.payload for schedule in settings.schedules.values()]
    return {value.fileno() for value in values if isinstance(value, StoredValue)}
