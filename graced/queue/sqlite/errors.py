"""Why a queue's file cannot be used, in words that say what to do. Nothing here uses it."""

from __future__ import annotations

import os
import sqlite3

from graced.queue.protocol import StorageError
from graced.queue.sqlite import ballast

_ADVICE = {
    sqlite3.SQLITE_FULL: "the disk is full, or the quota is used up; make some space",
    sqlite3.SQLITE_CORRUPT: "the file is corrupt; move it away, or restore it from a backup",
    sqlite3.SQLITE_NOTADB: "not an SQLite database, or a corrupt one; name another file",
    sqlite3.SQLITE_READONLY: "it cannot be written; check its owner, its mode and the mount",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check that its folder exists and is writable",
    sqlite3.SQLITE_BUSY: "another program has locked it; close that one",
    sqlite3.SQLITE_PROTOCOL: "another program has locked it; close that one",
    sqlite3.SQLITE_IOERR: "the disk reports an error; see the kernel's log, and check the disk",
    sqlite3.SQLITE_PERM: "it may not be opened; check its owner and its mode",
}


_OF_THE_DISK = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
READ_ONLY = "its file system is read-only; mount it writable"


def storage_error(path: str, error: sqlite3.Error) -> StorageError:
    """Return what an error of SQLite's means for the file."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR) and disk_is_full(path):
        return StorageError(f"{path}: no space left on the disk; make some", full=True)
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe, say: none of the disk's errors
        return StorageError(f"{path}: not a regular file; move it away, or name another file")
    if code in _OF_THE_DISK and is_read_only(path):
        return StorageError(f"{path}: {READ_ONLY}")
    text = f"{path}: {_ADVICE.get(code, str(error))}"
    return StorageError(text, full=code == sqlite3.SQLITE_FULL)


def is_read_only(path: str) -> bool:
    """Whether the file system of a file takes no writes now."""
    try:
        return bool(os.statvfs(os.path.dirname(path) or ".").f_flag & os.ST_RDONLY)
    except OSError:
        return False


def disk_is_full(path: str) -> bool:
    """Whether the disk of a file has no room for what may come next."""
    try:
        room = os.statvfs(os.path.dirname(path) or ".")
    except OSError:
        return False
    return room.f_bavail * room.f_frsize < 2 * ballast.SIZE
