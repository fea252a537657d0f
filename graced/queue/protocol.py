"""The Queue protocol: what a worker and a client ask of a queue, whatever engine keeps it.

The embedded engine (keeper and SQLite) implements it in :mod:`.worker_end`; a later
one, whose server plays the keeper, implements the same and passes ``tests/queue/contract.py``.
Here are names and rules only, and the one function that reads a queue's URL.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, Protocol

    from graced.queue.job import Job, Outcome
else:
    Protocol = object

STATES = ("waiting", "taken", "done", "dead")


class QueueError(Exception):
    """The queue refused; the text says why and what to do."""


class QueueGone(QueueError):
    """Nobody keeps the queue at the moment; try again later."""


class WorkerQueue(Protocol):
    """One worker's end of a queue.

    The rules: a worker has at most one job in hand. A job is handed out by a durable
    commit only. ``settle`` may be repeated; whoever keeps the queue tells jobs apart by
    (id, attempt, owner). What a worker holds when it dies is given back by the main
    process's report or by the worker's lock, never by a time-out.
    """

    def fileno(self) -> int:
        """Return the descriptor that turns readable when ``receive`` has news, or -1."""

    def ask(self) -> None:
        """Say that this worker is idle; without effect if it has been said."""

    def receive(self) -> Job | None:
        """Return the job that was handed to this worker, or None; never block.

        QueueError if whoever keeps the queue never takes what this worker says.
        """

    def settle(self, job: Job, outcome: Outcome, *, more: bool) -> None:
        """Say how a job ended and, with ``more``, that the next may come; never block."""

    @property
    def unsettled(self) -> int:
        """How many settles have not been confirmed as durable."""

    def retry_in(self) -> float | None:
        """Return in how many seconds to call ``receive`` even if nothing is readable."""

    def leave(self) -> None:
        """Say that this worker has nothing in hand and wants nothing more."""

    def close(self) -> None:
        """Close the connection, without a word."""


class QueueView(Protocol):
    """What ``graced jobs`` asks for, to list them."""

    def jobs(self, state: str | None, after: int, limit: int) -> list[dict[str, Any]]:
        """Return a page of jobs in the order of their ids, beginning after one."""


class ClientQueue(QueueView, Protocol):
    """What ``graced submit`` and ``graced jobs`` ask for."""

    def submit(self, payloads: Sequence[str], delay: float, max_attempts: int) -> Sequence[int]:
        """Accept all the payloads durably, or none: return their ids, or raise QueueError."""

    def stream(self, payloads: Iterable[str], delay: float, max_attempts: int) -> int:
        """Accept any number of payloads, all or none, in bounded memory; return how many."""

    def wait(self, job: int) -> dict[str, Any]:
        """Return the job's listing once it is done, dead or gone."""

    def retry(self, ids: Sequence[int]) -> dict[int, str]:
        """Make jobs due now, dead ones with all their attempts; return the refusals by id."""

    def drop(self, ids: Sequence[int]) -> dict[int, str]:
        """Forget jobs that nobody works on; return the refusals by id."""

    def counts(self) -> dict[str, Any]:
        """Return how many jobs there are in each state, and the age of the oldest due one."""

    def close(self) -> None:
        """Close the connection."""


def locate(url: str | None, pool: str, state_dir: str) -> str:
    """Return the path of an embedded queue's file; ValueError says what is wrong with the URL."""
    if url is None:
        return f"{state_dir}/{pool}.db"
    scheme, found, path = url.partition("://")
    if not found or scheme != "sqlite":
        raise ValueError(f"cannot use {url!r} as a queue; write sqlite:///jobs.db")
    if not path.startswith("/") or path == "/" or path.endswith("/"):
        raise ValueError(
            f"cannot use {url!r} as a queue; write sqlite:///jobs.db (in state_dir)"
            " or sqlite:////srv/jobs.db (absolute)"
        )
    return path[1:] if path.startswith("//") else f"{state_dir}{path}"
