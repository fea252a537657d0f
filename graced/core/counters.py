"""What has happened so far, counted for metrics: it only grows, over every reload.

A pool that a reload removes and another brings back goes on where it was.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final


class DeathCause:
    """What a worker died of, in one word; or it is the name of a signal."""

    EXIT: Final = "exit"
    FORK: Final = "fork"  # it could not be forked
    LOST: Final = "lost"  # it became another user's, and could not be killed
    MAX_ERRORS: Final = "max_errors"
    OOM: Final = "oom"  # memory had run out
    READY_TIMEOUT: Final = "ready_timeout"
    RETURNED: Final = "returned"  # its run() returned, or it left of its own accord
    ROUND_TIMEOUT: Final = "round_timeout"
    SETUP: Final = "setup"  # setup() raised, or the code could not be imported


DEATHS = (
    "exit fork lost max_errors oom ready_timeout returned round_timeout setup"
    " SIGABRT SIGKILL SIGSEGV"
).split()
REPLACEMENTS = "cancelled death left max_age max_rounds max_rss recycle reload".split()
STOPS = ("drain", "interrupt", "kill")
RELOADS = ("ok", "refused", "incomplete")


class PoolCounters:
    """Those of one pool, by their labels."""

    __slots__ = ("deaths", "replacements", "stops")

    def __init__(self) -> None:
        self.deaths = dict.fromkeys(DEATHS, 0)
        self.replacements = dict.fromkeys(REPLACEMENTS, 0)  # why a worker was started for another
        self.stops = dict.fromkeys(STOPS, 0)  # the rung on which one left that was to leave

    def picture(self) -> dict[str, Any]:
        """Return them as JSON."""
        return {"deaths": self.deaths, "replacements": self.replacements, "stops": self.stops}


class Counters:
    """All of one daemon."""

    __slots__ = ("pools", "reloads")

    def __init__(self) -> None:
        self.reloads = dict.fromkeys(RELOADS, 0)
        self.pools: dict[str, PoolCounters] = {}

    def of(self, pool: str) -> PoolCounters:
        """Return a pool's."""
        found = self.pools.get(pool)
        if found is None:
            found = self.pools[pool] = PoolCounters()
        return found


def count(of: dict[str, int], label: str) -> None:
    """Count one more."""
    of[label] = of.get(label, 0) + 1
