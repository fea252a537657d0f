"""Whether a queue's open file still is where it was opened: under its name, with its log.

What was removed or renamed stays open, and takes what will never be found. What is done
about it is said in :mod:`.storage`.
"""

from __future__ import annotations

import enum
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    Identity = tuple[int, int]  # device and inode


READING = range(123, 128)  # the bytes of the log's index that SQLite's readers lock


class Sight(enum.Enum):
    """What a look at the place has shown."""

    FINE = enum.auto()
    LOST_LOG = enum.auto()  # the write-ahead log or its index has gone
    CUT_LOG = enum.auto()  # it was cut, with what was written to it
    EMPTIED = enum.auto()  # the file itself was cut
    REMOVED = enum.auto()  # it has no name any more, and nothing is in its place
    AWAY = enum.auto()  # it has another name, or its own is another file's


class Place:
    """The names of one open queue file. To be made once SQLite has it open."""

    def __init__(self, path: str) -> None:
        """Look at the file. OSError if it is gone by now."""
        self.path = path
        self._fd = os.open(path, os.O_PATH | os.O_CLOEXEC)  # its close drops no lock of SQLite's
        self._file = _identity(os.fstat(self._fd))
        self._logs = {name: identity_of(name) for name in (f"{path}-wal", f"{path}-shm")}

    def look(self) -> Sight:
        """See what has become of it."""
        try:
            found = os.stat(self.path)
        except OSError:
            return Sight.AWAY if os.fstat(self._fd).st_nlink else Sight.REMOVED
        if _identity(found) != self._file:
            return Sight.AWAY
        if not found.st_size:
            return Sight.EMPTIED
        fine = all(identity_of(name) == mine for name, mine in self._logs.items())
        return Sight.FINE if fine else Sight.LOST_LOG

    def now(self) -> str | None:
        """Return where the open file is now; None if it has no name any more."""
        if not os.fstat(self._fd).st_nlink:
            return None
        return os.readlink(f"/proc/self/fd/{self._fd}")

    def unlink_logs(self) -> None:
        """Take away the names of the log and its index, if it is ours that have them."""
        for name, mine in self._logs.items():
            if mine is not None and identity_of(name) == mine:
                os.unlink(name)

    @property
    def is_taken(self) -> bool:
        """Whether something has its name."""
        return identity_of(self.path) is not None

    def close(self) -> None:
        """Look no longer."""
        os.close(self._fd)


def identity_of(path: str) -> Identity | None:
    """Return which file has a name; None if none that can be seen has."""
    try:
        return _identity(os.stat(path))
    except OSError:
        return None


def _identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino


# What reads the file, and so keeps its log from being folded into it


def readers(path: str) -> list[str]:
    """Return the processes that have a transaction open on a database; empty if none is seen."""
    try:
        inode = os.stat(f"{path}-shm").st_ino
        with open("/proc/locks", encoding="ascii", errors="replace") as locks:
            found = {pid for line in locks if (pid := _reader(line.split(), inode))}
    except OSError:  # then it can't be told
        return []
    return [f"process {pid} ({_name(pid)})" for pid in sorted(found - {os.getpid()})]


def _reader(words: list[str], inode: int) -> int | None:
    """Return the process that reads, if a line of /proc/locks is of one, see proc_locks(5)."""
    if len(words) != 8 or words[1] != "POSIX" or words[5].rpartition(":")[2] != str(inode):
        return None
    first = int(words[6])
    last = READING[-1] if words[7] == "EOF" else int(words[7])
    return int(words[4]) if first <= READING[-1] and last >= READING[0] else None


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
            return comm.read().strip()
    except OSError:
        return "?"
