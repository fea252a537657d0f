"""The stop ladder for workers whose main process has died, walked by their zygote.

No bell is rung any more, so it looks at them ten times a second, until the last
is gone.
"""

from __future__ import annotations

import os
import select
import signal
import time

from graced import settings
from graced.fencing import KILL_BEFORE_S
from graced.host import process
from graced.host.scoreboard import Ack, WorkerRecord

NS_PER_S = 1_000_000_000  # ns
CHECK_INTERVAL_S = 0.1  # seconds between two looks


class Orphan:
    """A worker, and where it is on the ladder."""

    __slots__ = ("_told", "asked", "group", "interrupted", "pid", "record", "seen", "spent")

    def __init__(self, pid: int, record: WorkerRecord) -> None:
        self.pid = pid
        self.record = record
        self.asked = False  # to drain: once it is ready, SIGTERM is not repeated
        self.interrupted = False  # else it is draining
        self.spent = 0  # ns on this rung, leases not counted
        self.seen = 0
        self.group = 0  # of its subprocess
        self._told = 0

    def see_group(self) -> None:
        """Know the group of its subprocess while it lives: it may have written anything."""
        told = self.record.child_group
        if told != self._told:
            self._told = told
            self.group = told if process.is_group_below(told, self.pid) else 0

    def leased(self, now: int, longest: int) -> bool:
        """Return whether it must be left alone."""
        return now < self.record.lease(longest, now)[1]


def lead_down(
    guarded_workers: list[tuple[int, Orphan]],
    pool: settings.Pool,
    max_lease: float,
    lease: WorkerRecord | None = None,
) -> None:
    """Drain, interrupt, kill; return when all are gone.

    Those that have jobs of a server are killed before the host's `lease` of them ends.
    """
    left = dict(guarded_workers)
    longest = int(max_lease * NS_PER_S)
    poll = select.poll()
    now = time.monotonic_ns()
    for pidfd, orphan in guarded_workers:
        poll.register(pidfd, select.POLLIN)
        orphan.seen = now
    while left:
        for pidfd, _ in poll.poll((CHECK_INTERVAL_S + _jitter()) * 1000):
            poll.unregister(pidfd)
            _end_what_is_left(left.pop(pidfd))
            os.close(pidfd)
        now = time.monotonic_ns()
        is_over = lease is not None and _is_over(lease)
        for pidfd, orphan in list(left.items()):
            if is_over and orphan.record.job:
                process.signal_pidfd(pidfd, signal.SIGKILL)
                _end_what_is_left(orphan)
            elif _look(pidfd, orphan, pool, now, longest):
                poll.unregister(pidfd)
                del left[pidfd]
                os.close(pidfd)


def _is_over(lease: WorkerRecord) -> bool:
    """Whether it is time for jobs that the host has on lease to be in no worker's hands."""
    until = lease.host_lease_until
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return bool(until) and now >= until - int(KILL_BEFORE_S * NS_PER_S)


def _jitter() -> float:
    """Return a few ms, so that our beat doesn't lock to the worker's own."""
    return os.urandom(1)[0] / 256 * 0.02


def _end_what_is_left(orphan: Orphan) -> None:
    """Its number is not used again while its group has members; if it has none, hardly so soon."""
    process.end_group(orphan.pid)
    if orphan.group:
        process.end_group(orphan.group)


def _look(pidfd: int, orphan: Orphan, pool: settings.Pool, now: int, longest: int) -> bool:
    """Do what is due; return whether nothing more can be done: it is gone, or another user's."""
    passed, orphan.seen = now - orphan.seen, now
    orphan.see_group()
    if orphan.leased(now, longest):
        return False
    orphan.spent += passed
    limit = pool.stop_timeout if orphan.interrupted else pool.drain_timeout
    if orphan.spent >= limit * NS_PER_S:
        return _next_rung(pidfd, orphan, longest)
    if orphan.interrupted:
        _interrupt(pidfd, orphan)
    elif orphan.record.ack == Ack.NONE and not (orphan.asked and orphan.record.ready_at):
        orphan.asked = process.signal_pidfd(pidfd, signal.SIGTERM)
    return False


def _interrupt(pidfd: int, orphan: Orphan) -> None:
    if orphan.record.ack < Ack.DRAIN_IN_SETUP:
        process.signal_pidfd(pidfd, signal.SIGINT)


def _next_rung(pidfd: int, orphan: Orphan, longest: int) -> bool:
    if orphan.interrupted:
        return _kill(pidfd, orphan, longest)
    orphan.interrupted = True
    orphan.spent = 0
    _interrupt(pidfd, orphan)
    return False


def _kill(pidfd: int, orphan: Orphan, longest: int) -> bool:
    """Kill it, unless it has just taken a lease: stopped, it can take none while we look."""
    process.stop_for_a_look(orphan.pid)
    if orphan.leased(time.monotonic_ns(), longest):
        process.signal_pidfd(pidfd, signal.SIGCONT)
        return False
    orphan.see_group()
    sent = process.signal_pidfd(pidfd, signal.SIGKILL)
    _end_what_is_left(orphan)
    return not sent
