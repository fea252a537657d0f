"""Compress the files that are dropped into a folder, and note their checksums.

    inbox/    drop files here; a name that begins with a dot is not looked at
    work/     what some worker has in hand
    done/     NAME.gz, and NAME.sha256 of what is in it
    failed/   what can't be done, with NAME.reason

A worker claims a file by a lock, which the kernel frees when the worker dies, however it dies, and
by a rename. A worker that finds a file in work/ without a lock takes it up again. A result appears
whole or not at all.
"""

from __future__ import annotations

import errno
import fcntl
import gzip
import hashlib
import os
import time
from pathlib import Path
from typing import IO

from graced import Worker

QUIET = 1.0  # a file that was changed so many seconds ago may still be being written
OURS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOMEM)  # not the fault of the file


class Folder(Worker):
    """One round is one file."""

    def setup(self) -> None:
        place = Path(self.options["place"]).absolute()
        self.inbox, self.work = place / "inbox", place / "work"
        self.done, self.failed = place / "done", place / "failed"
        for folder in (self.inbox, self.work, self.done, self.failed):
            folder.mkdir(parents=True, exist_ok=True)
        self.seen: list[Path] = []

    def step(self) -> None:
        self.seen = self.seen or self.look()
        while self.seen:
            if file := self.claim(self.seen.pop()):
                with file:
                    return self.process(file, self.work / Path(file.name).name)
        self.wait(self.options.get("look", 1))
        return None

    def look(self) -> list[Path]:
        """Return what has come in and, last, so first to be done, what a dead worker has left."""
        now = time.time()
        return [
            Path(entry.path)
            for folder in (self.inbox, self.work)
            for entry in os.scandir(folder)
            if entry.is_file(follow_symlinks=False) and not entry.name.startswith(".")
            if not 0 <= now - entry.stat().st_mtime < QUIET
        ]

    def claim(self, path: Path) -> IO[bytes] | None:
        """Open the file, lock it and move it to work/; None if that can't be, or not now."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return None
        except OSError as error:
            self.set_aside(path, error)
            return None
        if self.take(file, path, self.work / path.name):
            return file
        file.close()
        return None

    def take(self, file: IO[bytes], path: Path, mine: Path) -> bool:
        """Return whether the file is ours: no other worker has it, nor one of the same name."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path != mine and mine.exists():
                return False
            path.rename(mine)
            return os.path.samestat(mine.stat(), os.fstat(file.fileno()))
        except (BlockingIOError, FileNotFoundError):
            return False  # another worker was faster

    def process(self, file: IO[bytes], path: Path) -> None:
        draft = self.work / f".{path.name}.gz"
        before = os.fstat(file.fileno())
        try:
            if before.st_size > self.options["max_size"]:
                raise OSError(errno.EFBIG, f"{before.st_size} bytes are more than max_size")
            checksum = compress(file, draft)
        except OSError as error:
            draft.unlink(missing_ok=True)
            return self.set_aside(path, error)
        after = os.fstat(file.fileno())
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            return self.log.info("%s is still being written: later", path.name)
        self.publish(path, draft, checksum)
        return self.log.info("%s: %d bytes done", path.name, after.st_size)

    def publish(self, path: Path, draft: Path, checksum: str) -> None:
        note = self.work / f".{path.name}.sha256"
        with note.open("wb") as file:
            file.write(checksum.encode() + b"  " + os.fsencode(path.name) + b"\n")
            sync(file)
        note.replace(self.done / note.name[1:])
        draft.replace(self.done / draft.name[1:])
        sync_folder(self.done)  # so the new names are on the disk before the old file is gone
        path.unlink()

    def set_aside(self, path: Path, error: OSError) -> None:
        """Move the file to failed/, unless the trouble is our own: then it is tried again."""
        if error.errno in OURS:
            raise error
        try:
            path.replace(self.failed / path.name)
        except FileNotFoundError:
            return  # another worker has met the same error
        (self.failed / f"{path.name}.reason").write_text(f"{error}\n")
        self.log.warning("%s can't be done, see failed/: %s", path.name, error)


def compress(source: IO[bytes], target: Path) -> str:
    """Write `source` to `target`, all of it on the disk; return the SHA-256 of `source`."""
    digest = hashlib.sha256()
    with target.open("wb") as file:
        with gzip.GzipFile("", "wb", 6, file) as packed:
            while chunk := source.read(1 << 20):
                digest.update(chunk)
                packed.write(chunk)
        sync(file)
    return digest.hexdigest()


def sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
