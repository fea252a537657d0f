"""All that can happen to a daemon, in the past tense.

Workers and zygotes are named by ids that only grow; process ids come back, so
none of them is a name here. The supervisor makes these records out of signals,
messages and the scoreboard; :mod:`graced.core.daemon` alone reads them.
"""

from __future__ import annotations

from graced.record import Record
from graced.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeAlias

    Event: TypeAlias = (
        "Tick | DrainAsked | InterruptAsked | ReloadAsked | ConfigAccepted | ConfigRefused"
        " | ScaleAsked | Imported | ImportFailed | ZygoteDied | Spawned | SpawnFailed | BecameReady"
        " | Acknowledged | SeenInSetup | LeaseSeen | ReplacementWanted | RoundDone | SeenWaiting"
        " | RoundOverdue | JobCancelled | SeenAtJob | HostLease | JobLost"
        " | StackPrinted | Killed | Recovered | Died"
        " | ClockSeen | SchedulesKnown | InstantKept"
    )


class Tick(Record):
    """A deadline has come."""


class DrainAsked(Record):
    """A stop was asked for that finishes the rounds in hand."""


class InterruptAsked(Record):
    """A stop was asked for now; asked twice, at once."""


class ReloadAsked(Record):
    """A new generation was asked for."""


class ConfigAccepted(Record):
    """The configuration was read for a reload, and is right in itself."""

    settings: Settings


class ConfigRefused(Record):
    """The configuration was read for a reload, and is wrong."""

    reason: str


class ScaleAsked(Record):
    """Another number of workers was asked for."""

    pool: str
    workers: int


class Imported(Record):
    """A zygote has the code of its pool and can fork."""

    zygote: int


class ImportFailed(Record):
    """A zygote could not be forked, or could not load the code of its pool."""

    zygote: int
    reason: str


class ZygoteDied(Record):
    """A zygote is gone and reaped."""

    zygote: int
    reason: str


class Spawned(Record):
    """A worker was forked."""

    worker: int
    pid: int


class SpawnFailed(Record):
    """A worker could not be forked."""

    worker: int
    reason: str
    at: str = ""


class BecameReady(Record):
    """A worker's setup() returned."""

    worker: int


class Acknowledged(Record):
    """A worker has seen what it was asked: 1 to drain, 2 to drain in setup(), 3 to interrupt."""

    worker: int
    ack: int


class SeenInSetup(Record):
    """A worker that was asked to drain is in setup(): it has no round to finish."""

    worker: int


class LeaseSeen(Record):
    """What a worker's critical sections took so far, and until when one holds."""

    worker: int
    leased: float
    held_until: float | None


class ReplacementWanted(Record):
    """A worker has had its rounds or its memory, or asked to be replaced.

    `at_once`: as soon as it was looked at, so that its replacement will do the same.
    """

    worker: int
    why: str
    at_once: bool = False


class RoundDone(Record):
    """A worker that is watched for it ended a round without raising."""

    worker: int


class SeenWaiting(Record):
    """A worker that was looked at waits for work: in its wait(), or at its queue."""

    worker: int


class SeenAtJob(Record):
    """A worker that was looked at has a job in hand."""

    worker: int


class HostLease(Record):
    """The host may hold jobs of a pool's queue until then; granted for `length` seconds."""

    pool: str
    until: float
    length: float


class JobLost(Record):
    """A job that a worker has in hand, or had a moment ago, is another host's by now."""

    worker: int


class RoundOverdue(Record):
    """A worker's round is past its deadline."""

    worker: int
    limit: float


class JobCancelled(Record):
    """A job is cancelled that a worker has in hand, or had a moment ago."""

    worker: int
    job: int


class StackPrinted(Record):
    """A stuck worker's stack is in the log, or could not be had in time."""

    worker: int


class Killed(Record):
    """SIGKILL was sent to a worker's group."""

    worker: int


class Recovered(Record):
    """A worker that was to be killed for a stuck round had ended that round."""

    worker: int


class Died(Record):
    """A worker is gone, its group is killed, and it is reaped.

    ``planned`` is true where the worker left by itself after a drain or an
    interrupt, by graced or not; ``interrupted`` where it was an interrupt that it
    answered. ``reason`` says in words how it ended, ``at`` when (wall clock).
    ``clean``: with exit status 0, or before its zygote knew it, which has gone meanwhile.
    ``own_handler``: with status 0, and user code has heard SIGTERM in graced's stead, so it
    may have been asked to leave. ``job``: it had one in hand. ``was_ready``: its setup()
    returned, though that may not have been seen before its end. ``cause``: the reason in one
    of few words, see :class:`graced.core.counters.DeathCause`, or the signal's name.
    """

    worker: int
    reason: str
    planned: bool
    rounds: int = 0
    good: int = 0
    at: str = ""
    interrupted: bool = False
    clean: bool = False
    own_handler: bool = False
    job: bool = False
    was_ready: bool = False
    cause: str = "exit"


class ClockSeen(Record):
    """The wall clock has come to an instant, was set, or is to be looked at for the first time.

    ``wall`` is seconds since the epoch; ``elapsed`` seconds of a clock that is never set, and that
    counts while the machine sleeps.
    """

    wall: float
    elapsed: float


class SchedulesKnown(Record):
    """A queue has said where its schedules stand: since when, and the last instant kept."""

    pool: str
    standings: Mapping[str, tuple[int, int | None]]
    wall: float


class InstantKept(Record):
    """A queue has kept an instant of a schedule: ``how`` is made, known or overlaps."""

    schedule: str
    instant: int
    how: str
    job: int | None
    wall: float
