"""All that the core can ask for, in the imperative. The supervisor performs it."""

from __future__ import annotations

from graced.record import Record
from graced.settings import Pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeAlias

    Action: TypeAlias = (
        "ReadConfig | StartZygote | KillZygote | Spawn | Drain | Interrupt | Kill | PrintStack"
        " | WatchRounds | LookAt | LookForJob | NoteEnd | CleanUp | TellReady | TellReloading"
        " | TellStopping | Extend | EndReload | Commit | WatchSchedules | SubmitInstant | Say"
        " | Exit"
    )


class ReadConfig(Record):
    """Read the configuration again; answered by ConfigAccepted or ConfigRefused."""


class StartZygote(Record):
    """Fork a zygote for a pool's code."""

    zygote: int
    pool: Pool
    generation: int


class KillZygote(Record):
    """Send a zygote SIGKILL."""

    zygote: int


class SpawnOrder(Record):
    """One worker to be forked; the limits are jittered, 0 means none."""

    worker: int
    pool: str
    slot: int
    max_rounds: int
    max_rss: int


class Spawn(Record):
    """Order a zygote to fork workers."""

    zygote: int
    orders: tuple[SpawnOrder, ...]


class Drain(Record):
    """Send a worker SIGTERM."""

    worker: int


class Interrupt(Record):
    """Send a worker SIGINT."""

    worker: int


class Kill(Record):
    """Kill a worker's group; without ``force`` only if no lease holds.

    ``stuck``: only if the round that was overdue is still the one in hand.
    Answered by Killed, LeaseSeen or Recovered; without an answer asked again.
    """

    worker: int
    force: bool = False
    stuck: bool = False


class PrintStack(Record):
    """Write a worker's stack to the log; answered by StackPrinted, in bounded time."""

    worker: int


class WatchRounds(Record):
    """Report the next round of this worker that ends without raising."""

    worker: int


class LookAt(Record):
    """See whether a worker waits for work at this moment; answered by SeenWaiting if so."""

    worker: int


class LookForJob(Record):
    """See whether a worker has a job in hand at this moment; answered by SeenAtJob if so."""

    worker: int


class CleanUp(Record):
    """A worker is gone: settle what it leaves.

    ``counts``: its job's attempt does; ``interrupted``, by a signal that graced has not sent:
    it does so unless that is the job's first interrupt.
    """

    worker: int
    pool: str
    slot: int
    reason: str
    counts: bool
    interrupted: bool = False


class NoteEnd(Record):
    """A worker died, or had to be killed (`cause` is then ``ladder``): write it down.

    It comes before the worker is cleaned up.
    """

    worker: int
    pool: str
    slot: int
    pid: int | None
    cause: str
    reason: str
    rounds: int


class TellReady(Record):
    """READY=1: the start is over, or the reload that `end` is the end of."""

    end: EndReload | None = None


class TellReloading(Record):
    """RELOADING=1."""


class TellStopping(Record):
    """STOPPING=1."""


class Extend(Record):
    """EXTEND_TIMEOUT_USEC: what is under way stays within this many seconds."""

    seconds: float


class Commit(Record):
    """A reload is proven: its settings are in force from here on."""

    generation: int


class EndReload(Record):
    """A reload is over; its clients are answered.

    ``incomplete``: the new generation is in force, but some of the old workers stay.
    """

    ok: bool
    reason: str | None
    incomplete: bool = False


class Wanted(Record):
    """What a queue has to know of a schedule: its rule; where it shall begin, if that changes."""

    rule: str
    since: int | None = None
    forget: bool = False  # also the last instant that it has kept


class WatchSchedules(Record):
    """Tell a pool's queue all schedules that it has; answered by SchedulesKnown."""

    pool: str
    wanted: Mapping[str, Wanted]


class SubmitInstant(Record):
    """Submit the job of an instant, once, due after ``delay`` seconds; answered by InstantKept."""

    pool: str
    schedule: str
    instant: int
    delay: float


class Say(Record):
    """Write one line to the log."""

    level: str
    text: str
    pool: str | None = None
    slot: int | None = None
    generation: int | None = None


class Exit(Record):
    """All is gone: leave with this status."""

    code: int
    reason: str | None
