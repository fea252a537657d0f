"""The stop ladder for workers whose main process has died, walked by their zygote.

Nobody rings here any more, so it looks at them ten times a second, until the last
is gone.
"""

from __future__ import annotations

import os
import select
import signal
import time

from graced.core import settings
from graced.host import process
from graced.host.scoreboard import Ack, WorkerRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

SECOND: Final = 1_000_000_000  # ns
BEAT: Final = 0.1  # seconds between two looks


class Orphan:
    """A worker, and where it is on the ladder."""

    __slots__ = ("interrupted", "pid", "record", "seen", "spent")

    def __init__(self, pid: int, record: WorkerRecord) -> None:
        self.pid = pid
        self.record = record
        self.interrupted = False  # else it is draining
        self.spent = 0  # ns on this rung, leases not counted
        self.seen = 0

    def leased(self, now: int) -> bool:
        """Return whether it must be left alone."""
        return now < self.record.lease_until


def lead_down(wards: list[tuple[int, Orphan]], pool: settings.Pool) -> None:
    """Drain, interrupt, kill; return when all are gone."""
    left = dict(wards)
    poll = select.poll()
    now = time.monotonic_ns()
    for pidfd, orphan in wards:
        poll.register(pidfd, select.POLLIN)
        orphan.seen = now
    while left:
        for pidfd, _ in poll.poll((BEAT + _jitter()) * 1000):
            poll.unregister(pidfd)
            _end_what_is_left(left.pop(pidfd))
            os.close(pidfd)
        now = time.monotonic_ns()
        for pidfd, orphan in left.items():
            _look(pidfd, orphan, pool, now)


def _jitter() -> float:
    """Return a few ms, so that our beat doesn't lock to the worker's own."""
    return os.urandom(1)[0] / 256 * 0.02


def _end_what_is_left(orphan: Orphan) -> None:
    """Its number is not used again while its group has members; if it has none, hardly so soon."""
    process.end_group(orphan.pid)
    if orphan.record.child_group:
        process.end_group(orphan.record.child_group)


def _look(pidfd: int, orphan: Orphan, pool: settings.Pool, now: int) -> None:
    passed, orphan.seen = now - orphan.seen, now
    if orphan.leased(now):
        return
    orphan.spent += passed
    limit = pool.stop_timeout if orphan.interrupted else pool.drain_timeout
    if orphan.spent >= limit * SECOND:
        _next_rung(pidfd, orphan)
    elif orphan.interrupted:
        _interrupt(pidfd, orphan)
    elif orphan.record.ack == Ack.NONE:
        process.signal_pidfd(pidfd, signal.SIGTERM)


def _interrupt(pidfd: int, orphan: Orphan) -> None:
    if orphan.record.ack < Ack.DRAIN_IN_SETUP:
        process.signal_pidfd(pidfd, signal.SIGINT)


def _next_rung(pidfd: int, orphan: Orphan) -> None:
    if orphan.interrupted:
        _kill(pidfd, orphan)
        return
    orphan.interrupted = True
    orphan.spent = 0
    _interrupt(pidfd, orphan)


def _kill(pidfd: int, orphan: Orphan) -> None:
    """Kill it, unless it has just taken a lease: stopped, it can take none while we look."""
    process.stop_for_a_look(orphan.pid)
    if orphan.leased(time.monotonic_ns()):
        process.signal_pidfd(pidfd, signal.SIGCONT)
        return
    process.signal_pidfd(pidfd, signal.SIGKILL)
    _end_what_is_left(orphan)
