"""When workers have to let go of jobs that their host has on lease: two moments, alike for all.

What has the lease (the keeper), what ends workers (the core, a zygote whose main process is
dead) and what hands out jobs go by the same margins. Any clock in seconds will do.
"""

from __future__ import annotations

KILL_BEFORE_S = 1.0  # seconds before the end at which no worker may have a job any more
SHORTEST_S = 5.0  # seconds that a lease has at least


def moments(until: float, length: float, stop_timeout: float) -> tuple[float, float]:
    """Return when to interrupt and when to kill workers that have jobs.

    They are interrupted `stop_timeout` before the lease ends, but not before half of it is over.
    """
    kill_at = until - KILL_BEFORE_S
    return min(until - min(stop_timeout, length / 2), kill_at), kill_at
