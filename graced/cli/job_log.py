"""`graced jobs log ID…`: what was logged of jobs, from the log's file or from the journal.

Each line that is logged then has the job's number as a field, see :mod:`graced.log.formats`.
Numbers are a pool's own, so the pool's name has to agree, too.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator

from graced import program
from graced.cli.errors import CommandError
from graced.exitcodes import FAILED

FIELD = rb'[^\s="]+=(?:"(?:[^"\\]|\\.)*"|[^\s"=]+)'
ORIGIN = rb"\S+ +\w+ +(?P<pool>[\w.-]+)(?:/\d+)?\[\d+\]: "
RECORD = re.compile(ORIGIN + rb".*?(?P<fields>(?: " + FIELD + rb")*)$")


def print_from_file(path: str, pool: str, jobs: Collection[int]) -> bool:
    """Print the lines of a log file, and of the one before it; False if there are none. OSError."""
    out = sys.stdout.buffer
    found = False
    for name in (f"{path}.1", path):  # as logrotate(8) calls it
        if name != path and not os.path.exists(name):
            continue
        with open(name, "rb") as file:
            for line in _of(file, _matcher(pool, jobs)):
                found = True
                out.write(line)
    out.flush()
    return found


def _of(lines: Iterable[bytes], is_meant: Callable[[bytes], bool]) -> Iterator[bytes]:
    """Yield records that are meant: their lines, and those that are indented below them."""
    meant = False
    for line in lines:
        if not line.startswith(b"    "):
            meant = is_meant(line)
        if meant:
            yield line


def _matcher(pool: str, jobs: Collection[int]) -> Callable[[bytes], bool]:
    """Return what tells whether a line begins a record of one of the jobs."""
    numbers = {str(job).encode() for job in jobs}
    name = pool.encode()

    def is_meant(line: bytes) -> bool:
        if line.startswith(b"{"):
            return _is_meant_json(line, pool, jobs)
        if b" job=" not in line or not (record := RECORD.match(line.rstrip(b"\n"))):
            return False
        job = re.findall(rb" job=(\d+)(?= |$)", record["fields"])[-1:]
        return record["pool"] == name and not numbers.isdisjoint(job)

    return is_meant


def _is_meant_json(line: bytes, pool: str, jobs: Collection[int]) -> bool:
    from json import loads

    if b'"job": ' not in line:
        return False
    try:
        record = loads(line)
    except ValueError:  # cut off
        return False
    return isinstance(record, dict) and record.get("pool") == pool and record.get("job") in jobs


def print_from_journal(pid: int | None, pool: str, jobs: Collection[int]) -> bool:
    """Print the journal's entries; False if there are none.

    ``pid`` is the daemon's while it runs: another of systemd's units may have such a pool, too.
    """
    import subprocess

    matches = [f"GRACED_POOL={pool}", *(f"GRACED_JOB={job}" for job in jobs), _origin(pid)]
    words = ["journalctl", "--quiet", "--no-pager", "--all", "--output=short-iso", *matches]
    try:
        asked = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    except FileNotFoundError:
        raise CommandError("jobs log: there is no journalctl here; set log.file", FAILED) from None
    sys.stdout.buffer.write(asked.stdout)
    sys.stdout.buffer.flush()
    return bool(asked.stdout)


def _origin(pid: int | None) -> str:
    """Return what the entries of this daemon have in common, as far as that is known."""
    from graced.doctor.facts import unit_in

    if pid is not None:
        try:
            with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="replace") as cgroups:
                manager, unit = unit_in(cgroups.read())
        except OSError:  # gone, or another's
            unit = None
        if unit is not None:
            return f"_SYSTEMD_{'USER_' if manager.options else ''}UNIT={unit}"
    return f"SYSLOG_IDENTIFIER={program.name}"
