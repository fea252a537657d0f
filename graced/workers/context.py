"""What workers of a zygote have in common, what is each one's own, and what is said of its end.

Values that are handed from the zygote through the fork to a worker, and its log. How a
worker lives is in :mod:`.runtime`.
"""

from __future__ import annotations

from graced import settings
from graced.log.worker_log import WorkerLog
from graced.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.queue.address import QueueAddress

MAX_REASON = 4000  # characters of a LoadError


class SpawnOrder(Record):
    """A worker to be forked: which one, and its limits (0: none)."""

    worker: int
    record: int
    slot: int
    max_rounds: int = 0
    max_rss: int = 0


class WorkerContext(Record):
    """What all workers of a zygote have in common."""

    pool: settings.Pool
    generation: int
    name: str
    main_pid: int
    bell: int  # descriptor; -1: none
    log: WorkerLog
    queue: QueueAddress | None = None
    runtime_dir: str | None = None  # where the daemon's keepers listen
    title: Callable[[str], None] | None = None
    listen: tuple[int, ...] = ()  # descriptors of the pool's sockets
    alone: tuple[int, ...] = ()  # those of them that systemd does not have as well
    max_lease: float = settings.MAX_LEASE


class ExitReport(Record):
    """How a worker ended, in its own words."""

    left: int
    status: int = 0
    text: str = ""


def alone(error: BaseException) -> BaseException:
    """Return what a group of one holds, as that of a task group in which one task has raised."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def exit_status(error: SystemExit) -> int:
    """Return what Python would exit with."""
    if error.code is None:
        return 0
    return error.code & 0xFF if isinstance(error.code, int) else 1


class Ended(SystemExit):
    """What the worker is made of has ended by itself; `text` says how, and is all that is said."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status)
        self.text = text


class LoadError(Exception):
    """The worker can't be had, for a reason that is no fault of code; that is one line."""

    def __init__(self, reason: str) -> None:
        if len(reason) > MAX_REASON:  # it goes in one message, and in one line of the log
            reason = f"{reason[:MAX_REASON]}…"
        super().__init__(reason)
        self.reason = reason
