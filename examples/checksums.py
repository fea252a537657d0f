"""Note the SHA-256 of files, as jobs: one job is the path of one file, a JSON text.

    pools:
      checksums:
        worker: checksums:Checksums
        path: [examples]

    $ graced submit --pool checksums --wait --json '"/etc/hostname"'
    {"sha256": "…", "bytes": 7}

A file that is not there yet is looked for again later, as often as `max_attempts` allows; what
is no file, or may not be read, is given up at once. Reading twice does no harm, so a job that is
run again after a crash is no trouble: the best property that a job can have.
"""

from __future__ import annotations

import hashlib
import os
import stat

from graced import Discard, Job, JobWorker, Retry

AGAIN = 5.0  # seconds before a file that is missing, or still being written, is looked at again


class Checksums(JobWorker):
    """One job is one file. ``options``: ``again``, in seconds."""

    def handle(self, job: Job) -> dict[str, str | int]:
        if not isinstance(job.payload, str):
            raise Discard(f"write the path of a file as a JSON text, not {job.payload!r}")
        again = float(self.options.get("again", AGAIN))
        try:
            found = checksum(job.payload)
        except FileNotFoundError:
            raise Retry(again, f"{job.payload} is not there yet") from None
        except (IsADirectoryError, NotADirectoryError, PermissionError, ValueError) as error:
            raise Discard(f"{job.payload!r}: {error}") from None
        if found is None:
            raise Retry(again, f"{job.payload} is still being written")
        self.log.info("%s: %s", job.payload, found["sha256"])
        return found


def checksum(path: str) -> dict[str, str | int] | None:
    """Return the file's checksum and size; None if it changed while it was read."""
    with open(path, "rb", opener=without_waiting) as file:
        before = os.fstat(file.fileno())
        if not stat.S_ISREG(before.st_mode):
            raise ValueError("not a regular file")
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        return None
    return {"sha256": digest, "bytes": after.st_size}


def without_waiting(path: str, flags: int) -> int:
    """Open even a pipe without a writer, so that it can be refused."""
    return os.open(path, flags | os.O_NONBLOCK)
