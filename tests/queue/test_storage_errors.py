"""Why a queue's file cannot be used, in words that say what to do."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest

from graced.queue.protocol import StorageError
from graced.queue.sqlite import ballast
from graced.queue.sqlite.errors import storage_error
from graced.queue.sqlite.store import Store


def io_error() -> sqlite3.Error:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR | 3 << 8  # of a write
    return error


def test_a_file_system_that_has_become_read_only_is_called_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kernel makes it after an error of the disk, whoever has files open for writing."""
    found = os.statvfs(tmp_path)
    room = SimpleNamespace(f_bavail=1 << 40, f_frsize=found.f_frsize, f_flag=os.ST_RDONLY)
    monkeypatch.setattr(os, "statvfs", lambda _path: room)
    told = str(storage_error(f"{tmp_path}/q.db", io_error()))
    assert told == f"{tmp_path}/q.db: its file system is read-only; mount it writable"


def test_an_error_of_the_disk_says_where_to_look(tmp_path: Path) -> None:
    assert "see the kernel's log" in str(storage_error(f"{tmp_path}/q.db", io_error()))


def test_ballast_that_the_disk_has_no_room_for_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ballast, "SIZE", 1 << 60)
    assert not ballast.Ballast(f"{tmp_path}/jobs.db").keep()
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(ballast, "SIZE", 4096)
    assert ballast.Ballast(f"{tmp_path}/jobs.db").keep()


def test_a_pipe_in_the_place_of_a_queue_is_no_error_of_the_disk(tmp_path: Path) -> None:
    file = f"{tmp_path}/jobs.db"
    os.mkfifo(file)
    with pytest.raises(StorageError, match=r"jobs\.db: not a regular file; move it away"):
        Store(file)
