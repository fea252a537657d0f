"""What has to hold after the chaos: of the jobs, of what their runs have written, of the log."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

HARMLESS = re.compile(r"chaos: |WorkerInterrupt|KeyboardInterrupt|No space left|this is no Python")


class Accepted:
    """What was submitted. A job is known by a number of ours, in its payload, and by its pool."""

    def __init__(self) -> None:
        self.last = 0
        self.tried: dict[tuple[str, int], int] = {}  # with the first number of the same stream
        self.jobs: set[tuple[str, int]] = set()  # the client was told that it is in the queue
        self.dropped: set[tuple[str, int]] = set()  # by the queue's numbers: perhaps dropped
        self.done_by: dict[tuple[str, int], int] = {}  # told as done: how long the records were
        self.runs = 0
        self.dead = 0

    def next_number(self) -> int:
        """Return a number that no other job has."""
        self.last += 1
        return self.last

    def note(self, pool: str, numbers: Iterable[int]) -> None:
        """The queue has taken these."""
        self.jobs |= {(pool, number) for number in numbers}


def number_of(job: dict[str, Any]) -> int:
    """Return our number of a job in a listing."""
    payload = job["payload"]
    return int(payload["n"] if "n" in payload else payload["argv"][2])


def all_was_kept(pool: str, accepted: Accepted, jobs: list[dict[str, Any]] | None) -> list[str]:
    """Every accepted job is there once, done, or dead with evidence; streams are whole."""
    if jobs is None:
        return [f"the jobs of {pool} cannot be listed"]
    faults = []
    found: dict[int, dict[str, Any]] = {}
    for job in jobs:
        number = number_of(job)
        if number in found:
            faults.append(f"{pool}: submitted once, there twice: {found[number]}, {job}")
        found[number] = job
        faults += _ended_well(pool, job)
    accepted.dead += sum(job["state"] == "dead" for job in jobs)
    gaps = _gaps(pool, accepted, jobs)
    lost = [n for p, n in accepted.jobs if p == pool and n not in found]
    if len(lost) > gaps:
        faults.append(f"{pool}: accepted and lost: {sorted(lost)}, with {gaps} perhaps dropped")
    return faults + _halved(pool, accepted, found, gaps)


def _ended_well(pool: str, job: dict[str, Any]) -> list[str]:
    if job["state"] == "done":
        return []
    reason = str((job["evidence"] or {}).get("reason", ""))
    counted = job["attempts"] >= (job["max_attempts"] or 20) or "nobody needs it" in reason
    if job["state"] == "dead" and reason and counted:
        return []
    return [f"{pool}: neither done nor dead with evidence for all its attempts: {job}"]


def _gaps(pool: str, accepted: Accepted, jobs: list[dict[str, Any]]) -> int:
    """How many of the numbers that we asked to drop are gone."""
    there = {job["id"] for job in jobs}
    return sum(p == pool and id not in there for p, id in accepted.dropped)


def _halved(
    pool: str, accepted: Accepted, found: dict[int, dict[str, Any]], gaps: int
) -> list[str]:
    streams: dict[int, list[bool]] = {}
    for (p, number), first in accepted.tried.items():
        if p == pool:
            streams.setdefault(first, []).append(number in found)
    halved = [first for first, there in streams.items() if any(there) and there.count(False) > gaps]
    return [f"{pool}: only a part of the streams that begin with {halved} is there"] * bool(halved)


def all_ran_alone(records: str, accepted: Accepted) -> list[str]:
    """No run began while another one of the same job was at work, none after its end was told."""
    faults = []
    position = 0
    for line in records.splitlines(keepends=True):
        what, pool, id, attempt, number, pid = line.split()
        if what == "overlap":
            faults.append(f"{pool}: job {id} runs twice at once, attempt {attempt}, pid {pid}")
        accepted.runs += what == "begin"
        told = accepted.done_by.get((pool, int(number)))
        if what == "begin" and told is not None and position >= told:
            faults.append(f"{pool}: job {id} was told as done, and began again")
        position += len(line.encode())
    return faults


def log_is_clean(log: str) -> list[str]:
    """Nothing in the log is a bug of graced's, or a traceback that no job has raised."""
    entries = re.split(r"\n(?! )", log)  # what belongs to an entry is indented
    return [
        entry
        for entry in entries
        if "a bug in graced" in entry
        or ("Traceback (most recent call last)" in entry and not HARMLESS.search(entry))
    ]
