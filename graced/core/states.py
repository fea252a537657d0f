"""Every state of the core: of the daemon, a reload, a pool, a zygote, a worker.

Rules for all of them: a state is left only in :meth:`Daemon.handle`, by an event or because a
deadline is over; what follows from a state is done in ``settle()``, whatever led to it.

The daemon::

    STARTING ──ready──> RUNNING <──done, refused── RELOADING
        │                  │  ──────reload──────────>  │
        └──────────────────┴───────────┬───────────────┘
                     SIGTERM           │          SIGINT
                           DRAINING ───┴──> STOPPING ──> (exit)
                               └──SIGINT──────^

A reload: READING ──configuration is right──> PROVING ──every pool has proven it──> REPLACING.
It is refused from the first two, and only reported as incomplete from the last.

A pool's part of a reload (:class:`CandidateState`)::

    IMPORTING ──> IMPORTED ──room──────────────────> STARTING ──canary ready──> PROVEN
                      └──surge: 0──> YIELDING ──slot 0 empty──^

A pool: WAITING ──pools before it are ready──> UP ──removed, stop──> STAYING ──pools after it
are gone──> LEAVING.

A zygote: IMPORTING ──imported──> READY; from both ──failed, died, not needed──> LOST.

A worker, down the ladder; each rung has a limit, and the clock stands still under a lease::

    STARTING ──setup() returned──> READY
        │                            │  drain (SIGTERM)
        │  ready_timeout             v
        │                         DRAINING
        │                            │  drain_timeout, or seen in setup()
        v                            v
        └─────────────────────> INTERRUPTED ──stop_timeout──> KILLED

A worker may end in each of them; whether that is a death is decided in :mod:`.pool`.
"""

from __future__ import annotations

from enum import Enum, IntEnum


class DaemonState(Enum):
    """What the daemon is doing."""

    STARTING = "starting"
    RUNNING = "running"
    RELOADING = "reloading"
    DRAINING = "draining"
    STOPPING = "stopping"


class ReloadPhase(Enum):
    """How far a reload is."""

    READING = "reading"
    PROVING = "proving"
    REPLACING = "replacing"


class PoolState(Enum):
    """What a pool is about."""

    WAITING = "waiting"  # for the pools that it comes after
    UP = "up"
    STAYING = "staying"  # it is to go, but workers that come after it are still there
    LEAVING = "leaving"


class CandidateState(Enum):
    """How far the proof of a new generation is, in one pool."""

    IMPORTING = "importing"
    IMPORTED = "imported"
    YIELDING = "yielding"  # surge: 0, the old worker of slot 0 leaves first
    STARTING = "starting"
    PROVEN = "proven"


class ZygoteState(Enum):
    """Where a zygote is in its life."""

    IMPORTING = "importing"
    READY = "ready"
    LOST = "lost"  # of no use any more; its process is on its way out


class WorkerState(Enum):
    """Where a worker is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    INTERRUPTED = "interrupted"
    KILLED = "killed"


ON_THE_WAY_OUT = (WorkerState.DRAINING, WorkerState.INTERRUPTED, WorkerState.KILLED)


class StartReason(Enum):
    """Why a worker was started."""

    FIRST = "first"  # at the start, or after a scale-up
    REPLACEMENT = "replacement"  # at once, for one that died
    PROBE = "probe"  # in back-off
    SUCCESSOR = "successor"  # ahead of one that is to leave
    CANARY = "canary"  # the first of a new generation
    REFUSED = "refused"  # the same, once its generation was refused: it says nothing of another


class Asked(IntEnum):
    """What the main process has asked of a worker; others may ask it too, by `kill`."""

    NOTHING = 0
    DRAIN = 1
    INTERRUPT = 2


class RoundState(Enum):
    """What is known of the round in hand."""

    FINE = "fine"
    OVERDUE = "overdue"  # past its deadline, its stack is being printed
    DOOMED = "doomed"  # the worker is killed for it


class KillReason(Enum):
    """Why a worker is to be killed."""

    STUCK = "stuck"  # for the round in hand, and only while it lasts
    LADDER = "ladder"  # it had its time on every rung
    FORCED = "forced"  # whatever it holds
