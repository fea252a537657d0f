"""Who reads a queue's file and so keeps its log from being folded into it, as /proc tells."""

from __future__ import annotations

import os

READING = range(123, 128)  # the bytes of the log's index that SQLite's readers lock


def readers(path: str) -> list[str]:
    """Return the processes that have a transaction open on a database; empty if none is seen."""
    try:
        inode = os.stat(f"{path}-shm").st_ino
        with open("/proc/locks", encoding="ascii", errors="replace") as locks:
            found = {pid for line in locks if (pid := _reader(line.split(), inode))}
    except OSError:  # then nobody can tell
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
