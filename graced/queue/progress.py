"""How far the jobs in hand are: told by a worker in its lock file, read where they are listed.

So it costs the worker one small write into memory, however often it tells, and no process is
woken. The last word counts. It is gone with the worker; what is torn or foreign is no word.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from contextlib import suppress

from graced.queue.liveness import path_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    Told = tuple[int, float | None, str]  # token, fraction, text

LONGEST = 200  # characters of a text
MOST = 4 << 20  # bytes of what a worker tells of all its jobs
_HEAD = struct.Struct("<4sII")  # mark, checksum and length of the JSON that follows
_MARK = b"prog"
_TRIES = 3  # where what is read is just being written


def checked(fraction: float | None, text: str) -> tuple[float | None, str]:
    """Return what can be told. ValueError or TypeError if that can't be."""
    if fraction is not None:
        fraction = float(fraction)
        if fraction != fraction:
            raise ValueError("progress(nan): write a number from 0 to 1, or None")
        fraction = min(max(fraction, 0.0), 1.0)
    return fraction, text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def write(lock: int, told: Mapping[int, Told]) -> None:
    """Tell of a worker's jobs, by their ids, in its lock file."""
    body = json.dumps(list(told.items()), separators=(",", ":")).encode()
    if len(body) <= MOST:
        with suppress(OSError):  # on a full disk it is not told
            os.pwrite(lock, _HEAD.pack(_MARK, zlib.crc32(body), len(body)) + body, 0)


def read(queue: str, owner: str) -> dict[int, Told]:
    """Return what a worker has told, by the ids of its jobs."""
    with suppress(OSError), open(path_of(queue, owner), "rb") as file:
        for _ in range(_TRIES):
            file.seek(0)
            found = _parsed(file.read(_HEAD.size + MOST))
            if found is not None:
                return found
    return {}


def _parsed(data: bytes) -> dict[int, Told] | None:
    try:
        mark, checksum, length = _HEAD.unpack_from(data)
        body = data[_HEAD.size : _HEAD.size + length]
        if mark != _MARK or zlib.crc32(body) != checksum:
            return None
        told = json.loads(body)
        return {int(id): (token, fraction, str(text)) for id, (token, fraction, text) in told}
    except (struct.error, ValueError, TypeError):
        return None


def add(jobs: Iterable[dict[str, Any]], queue: str) -> None:
    """Put into the listings of jobs how far they are, as their workers tell."""
    workers: dict[str, dict[int, Told]] = {}
    for job in jobs:
        owner = job.get("owner")
        if owner is None:
            continue
        if owner not in workers:
            workers[owner] = read(queue, owner)
        token, fraction, text = workers[owner].get(job["id"], (None, None, ""))
        if token is not None and token == job["token"]:
            job["progress"] = {"fraction": fraction, "text": text}
