"""What the main process wants of a keeper: jobs for the instants of its schedules, once each.

Nothing is forgotten here: what the queue can't take now is tried again, in order. What has been
asked is answered after the commit that makes it true.
"""

from __future__ import annotations

from collections import deque

from graced.queue.protocol import Dispatcher, QueueError, Storage, StorageError
from graced.queue.terms import Terms
from graced.queue.timing import NEVER, RetryTimer, wall_ms
from graced.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from graced.queue.standing import Wanted


class Instant(Record):
    """One that is to have a job."""

    schedule: str
    instant: int
    payload: str
    delay: float
    alone: bool  # none while a job of an earlier one waits or is in hand

    def terms(self) -> Terms:
        """Return the terms of its job."""
        unique = f"schedule:{self.schedule}" if self.alone else None
        return Terms(self.delay, unique=unique, schedule=self.schedule, scheduled=self.instant)


class Instants:
    """What was asked for, and is not answered yet. ``tell`` tells the main process."""

    def __init__(self, storage: Storage, tell: Callable[[tuple[Any, ...]], None]) -> None:
        self._storage = storage
        self._tell = tell
        self._told: dict[str, Wanted] = {}  # schedules, until all of them are told
        self._number = 0  # of that
        self._wanted: dict[str, Wanted] | None = None  # to be adopted
        self._standings: dict[str, tuple[int, int | None]] | None = None  # to be told
        self._waiting: deque[Instant] = deque()
        self._accepted: list[tuple[Instant, Sequence[int]]] = []  # in the next commit
        self._retry = RetryTimer(0.1, 2.0)

    # -- what the main process says

    def schedule(self, name: str, *wanted: Any) -> None:
        """Hear of one of the queue's schedules."""
        self._told[name] = (wanted[0], wanted[1], wanted[2])

    def schedules(self, number: int) -> None:
        """All of them were told."""
        self._number = number
        self._wanted, self._told = self._told, {}

    def submit(self, *told: Any) -> None:
        """Hear of an instant."""
        self._waiting.append(Instant(*told))

    # -- what becomes of it

    def turn(self, dispatcher: Dispatcher) -> None:
        """Ask the queue for what it can take now."""
        if self._storage.write_paused or 0 < self._retry.left() < NEVER:
            return
        self._retry.due = None
        try:
            self._adopt(dispatcher)
            self._submit(dispatcher)
        except StorageError:  # which is told where it is seen next
            self._retry.failed()
        except QueueError:  # it is full: a job that is taken makes another turn
            pass

    def _adopt(self, dispatcher: Dispatcher) -> None:
        if self._wanted is not None:
            found = dispatcher.schedules(self._wanted, wall_ms() // 1000)
            self._wanted = None
            self._standings = {name: (each.since, each.last) for name, each in found.items()}

    def _submit(self, dispatcher: Dispatcher) -> None:
        while self._waiting:
            if self._storage.refusal() is not None:
                self._retry.failed()
                return
            first = self._waiting[0]
            now = self._storage.clock.now()
            self._accepted.append((first, dispatcher.submit([first.payload], first.terms(), now)))
            self._waiting.popleft()

    def sleep(self) -> float:
        """Return how many seconds nothing has to be done about it."""
        return NEVER if self._storage.write_paused else self._retry.left()

    def refused(self) -> None:
        """New jobs could not be written: ask for them again, later."""
        if self._accepted:
            self._waiting.extendleft(instant for instant, _ in reversed(self._accepted))
            self._accepted.clear()
            self._retry.failed()

    def committed(self) -> None:
        """It is written: say so."""
        if self._standings is not None:
            self._tell(("standings", self._standings, self._number))
            self._standings = None
        accepted, self._accepted = self._accepted, []
        for at, (instant, ids) in enumerate(accepted):
            if getattr(ids, "refusal", None) is not None:  # by a server, after all
                self._accepted = accepted[at:]
                if at:  # there was room for some, and soon is for others
                    self._retry.over()
                self.refused()
                return
            how, job = self._outcome(instant, ids)
            self._tell(("kept", instant.schedule, instant.instant, how, job))
        if accepted:
            self._retry.over()

    def _outcome(self, instant: Instant, ids: Sequence[int]) -> tuple[str, int | None]:
        """Return what became of an instant, and the number of its job."""
        if not ids:
            return "known", None
        found = self._storage.listing(ids[0]) if instant.alone else None
        is_other = found is not None and found.get("scheduled") != instant.instant
        return "overlaps" if is_other else "made", ids[0]
