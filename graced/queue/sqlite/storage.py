"""A queue's file as its keeper has it: open or not, writable or not, when to try again.

What is in it is the business of :mod:`.dispatcher`.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from graced.queue import wire
from graced.queue.protocol import QueueLockedError, StorageError
from graced.queue.sqlite.dispatcher import Dispatcher
from graced.queue.sqlite.errors import READ_ONLY, is_read_only
from graced.queue.sqlite.place import Sight, readers
from graced.queue.sqlite.room import NEARLY_FULL, Room
from graced.queue.sqlite.rows import SHOWN, Row
from graced.queue.sqlite.store import PAGE_BYTES, Store
from graced.queue.timing import Clock, RetryTimer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from graced.queue.plan import KeeperPlan
    from graced.queue.policy import Policy

LONG_LOG = 64 << 20  # bytes of the write-ahead log from which on it is told
LOOK_AT_LOG = 1.0  # seconds
AGAIN_BYTES = 256 << 10  # of new jobs that must fit before any are taken again
BREATH = 0.001  # seconds without a word after which the keeper has time for itself


class QueueFile:
    """See :class:`graced.queue.protocol.Storage`. ``tell`` hears ("degraded", why), ("well",)."""

    def __init__(self, plan: KeeperPlan, tell: Callable[[tuple[Any, ...]], None]) -> None:
        self.clock = Clock()
        self.dispatcher: Dispatcher | None = None  # None: not open
        self.trouble: str | None = None  # why there can be no new jobs
        self._lacks_room = False  # that is why
        self._plan = plan
        self._path = plan.address.file
        self._policy = plan.policy
        self._tell = tell
        self._store: Store | None = None
        self._is_away = False  # its file is, from where it was
        self._has_copy = False  # of a file that was replaced
        self._room = Room(self._path)
        self._log_looked_at = 0.0
        self._log_told = LONG_LOG  # bytes, the size that is told next
        self._told: set[str] = set()  # what the main process has heard since all was well
        self._opening = RetryTimer(0.05, 10.0)
        self._writing = RetryTimer(0.05, 5.0)
        self._ballasting = RetryTimer(0.5, 5.0)
        self._maintained_until = 0.0  # when the next step of tidying may come between requests
        self._opening.soon()

    # -- open and closed

    def fileno(self) -> int:
        """No other process writes to it."""
        return -1

    def rang(self) -> None:
        """Nothing rings."""

    @property
    def wants_opening(self) -> bool:
        return self.dispatcher is None and self._opening.is_due()

    def open(self) -> bool:
        try:
            self._store = self._opened()
            self.clock.at_least(self._store.clock())
            self.dispatcher = Dispatcher(self._store, self._policy, _chance)
        except StorageError as trouble:
            self._close_store()
            self._degrade(str(trouble), lacks_room=trouble.full)
            self._opening.failed()
            return False
        self._opening.over()
        self._recover()
        return True

    def _opened(self) -> Store:
        path, about = self._path, self._plan.address.socket
        try:
            return Store(path, about=about)
        except QueueLockedError:
            raise
        except StorageError as trouble:
            if trouble.full and self._room.ballast.drop():
                return Store(path, about=about)
            raise

    def apply(self, policy: Policy) -> None:
        self._policy = policy
        if self.dispatcher is not None:
            self.dispatcher.apply(policy)

    def close(self) -> int:
        if self.dispatcher is None or self._store is None:
            return 0
        left = int(self.dispatcher.pending)
        self._gone_where(copy=True)
        self._room.ballast.drop()
        self._store.close()
        return left

    def _close_store(self) -> None:
        if self._store is not None:
            self._store.close()
        self._store = self.dispatcher = None

    # -- when

    @property
    def write_paused(self) -> bool:
        return self._writing.due is not None and not self._writing.is_due()

    def resume_writing(self) -> None:
        self._writing.over()

    def sleep(self, *, idle: bool) -> float:
        wait = min(self._opening.left(), self._writing.left(), self._ballasting.left())
        dispatcher = self.dispatcher
        if dispatcher is None or self._writing.due is not None:
            return wait
        if dispatcher.has_maintenance(self.clock.now()):
            return min(wait, 0 if idle else BREATH)
        return wait

    def patience(self) -> float:
        return 0  # it is heard while the file is written

    def next_due(self) -> int | None:
        dispatcher = self.dispatcher
        if dispatcher is None or self._writing.due is not None:
            return None
        moments = [due for due in (dispatcher.next_due(), dispatcher.next_prune) if due is not None]
        return min(moments, default=None)

    # -- writing

    def commit(
        self,
        dispatcher: Dispatcher,
        listen: Callable[[], bool] | None,
        refuse: Callable[[str], None],
    ) -> list[Row] | None:
        """Write all that changed; return what may be handed out, None if it can't be written.

        New jobs that can't be are taken out, and ``refuse`` is told why.
        """
        try:
            self._tend(dispatcher, refuse)
            self._refuse_beyond_room(dispatcher, refuse)
            handouts = dispatcher.commit(self.clock.now(), listen)
        except StorageError as trouble:
            dispatcher.refuse_submits()
            refuse(str(trouble))
            if not self._written_after_all(dispatcher, trouble):
                self.failed(trouble)
                return None
            self._recover()  # or tell that there is no room left
            return dispatcher.handouts()
        self._watch_log()
        if self._is_away and self._store is not None:
            self._leave_log(self._store)
        return handouts

    def _refuse_beyond_room(self, dispatcher: Dispatcher, refuse: Callable[[str], None]) -> None:
        size, store = dispatcher.new_bytes(), self._store
        if not size or store is None or self._room.has(store, size):
            return
        dispatcher.refuse_submits()
        refuse(self._nearly_full())
        if not self._room.has(store, 0):
            self._degrade(self._nearly_full(), lacks_room=True)
            self._ballasting.failed()

    def _written_after_all(self, dispatcher: Dispatcher, trouble: StorageError) -> bool:
        """Write all but new jobs; only where there is no other room, in that of the ballast."""
        store = self._store
        if store is None or not trouble.full:
            return False
        for spend in (False, True):
            if dispatcher.pending:
                self._room.make(store, spend=spend)
            try:
                dispatcher.write()
            except StorageError:  # the same once more
                continue
            return True
        return False

    def _watch_log(self) -> None:
        """Tell once, and whenever it has doubled, that a reader keeps the log from its end."""
        now = time.monotonic()
        if now < self._log_looked_at + LOOK_AT_LOG or self._store is None:
            return
        self._log_looked_at = now
        size = self._store.log_size()
        if size < LONG_LOG:
            self._log_told = LONG_LOG
        elif size >= self._log_told:
            self._log_told = 2 * size
            self._plan.log.warning(
                f"{self._path}-wal has grown to {size >> 20} MB, since a reader's transaction"
                f" does not end: {', '.join(readers(self._path)) or 'of another program'};"
                " end it, and the space is used again"
            )

    def _tend(self, dispatcher: Dispatcher, refuse: Callable[[str], None]) -> None:
        """See that all that is written will be found; StorageError if nothing may be.

        What was removed is made anew. What was moved, or replaced by another file, gets no
        new jobs, since those would never be found; what was accepted is worked off.
        """
        store, file = self._store, self._path
        assert store is not None
        sight = store.look()
        if sight is not Sight.AWAY:
            store.keep_lock()
            if self._is_away:
                self._recover()
        if sight is Sight.LOST_LOG:
            store.renew_log()
            sight = store.look()
            self._plan.log.error(f"{file}-wal: it was removed; made anew, no job is lost")
        match sight:
            case Sight.REMOVED:
                store.make_anew()
                self._room.ballast.drop()
                self._recover()
                self._plan.log.error(f"{file}: it was removed; made anew, with all its jobs")
            case Sight.CUT_LOG:
                raise StorageError(
                    f"{file}-wal: it was emptied, with jobs in it;"
                    " restart the daemon to go on with what the file has"
                )
            case Sight.EMPTIED:
                raise StorageError(f"{file}: it was emptied; restore it, and restart the daemon")
            case Sight.AWAY:
                self._recover()
                dispatcher.refuse_submits()
                refuse(str(self.trouble))

    def _gone_where(self, *, copy: bool = False) -> str | None:
        """Say why the open file is not the one that the next keeper will open; None if it is.

        Of one without a name there is a copy, of how it was at first and in the end (`copy`).
        """
        store, file = self._store, self._path
        self._is_away = store is not None and store.place.look() is Sight.AWAY
        if store is None or not self._is_away:
            return None
        self._leave_log(store)
        where = store.place.now()
        if where is None:
            where = f"{file}-replaced"
            if copy or not self._has_copy:
                self._has_copy = True
                self._keep_copy(store, where)
        if store.place.is_taken:
            return (
                f"{file}: another file is in its place: no new jobs; those there are, are in"
                f" {where}; put it back, or restart the daemon to take up the other one"
            )
        if where == file:
            return (
                f"{file}: it can't be reached: no new jobs; let the daemon's user into the folder"
            )
        return (
            f"{file}: it was moved to {where}: no new jobs;"
            " move it back, or restart the daemon to begin another one"
        )

    def _leave_log(self, store: Store) -> None:
        """Have nothing in the log of a file that is away: it would be taken for another file's."""
        with suppress(StorageError):  # as far as its readers let us
            store.fold()
            store.place.unlink_logs()

    def _keep_copy(self, store: Store, path: str) -> None:
        try:
            store.copy_to(path)
        except StorageError as trouble:
            self._plan.log.error(str(trouble))

    def refusal(self) -> str | None:
        """Return why there can be no new jobs now. A file that was away may be back."""
        if self._is_away:
            self._recover()
        return self.trouble

    def written(self) -> None:
        if self._writing.due is not None:
            self._recover()

    def read_ahead(self, dispatcher: Dispatcher) -> bool:
        if not dispatcher.is_low:
            return False
        try:
            dispatcher.read_ahead()
        except StorageError as trouble:
            self.failed(trouble)
            return False
        return True

    def maintain(self, dispatcher: Dispatcher, *, idle: bool) -> None:
        """Do a step of what can wait; it gets a third of the time that others need."""
        began = time.monotonic()
        too_early = began < self._maintained_until and not idle
        if self._writing.due is None and not dispatcher.pending and not too_early:
            self._maintain_since(began, dispatcher)
        if self._ballasting.is_due():
            self._recover()

    def _maintain_since(self, began: float, dispatcher: Dispatcher) -> None:
        try:
            self._maintain(dispatcher)
            self._maintained_until = _later(began)
        except StorageError as trouble:
            self.failed(trouble)

    def _maintain(self, dispatcher: Dispatcher) -> None:
        try:
            dispatcher.maintain(self.clock.now())
        except StorageError as trouble:
            if not trouble.full or self._store is None:
                raise
            self._room.make(self._store, spend=True)  # it may free more than that
            dispatcher.maintain(self.clock.now())
            self._recover()

    # -- reading

    def listing(self, id: int) -> dict[str, Any] | None:
        """Return all that is known of a job, None if there is no such job."""
        try:
            found = None if self._store is None else self._store.listing(id)
        except StorageError as trouble:
            return {"id": id, "state": "unknown", "evidence": wire.encode(str(trouble)).decode()}
        return None if found is None else self.clock.shown(found)

    def job(self, id: int) -> dict[str, Any] | None:
        """Return a job's listing with all of its attempts. StorageError if it can't be read."""
        return None if self._store is None else whole(self._store, id, self.clock)

    def page(self, state: str | None, after: int, limit: int) -> list[dict[str, Any]] | int:
        store, dispatcher = self._store, self.dispatcher
        if store is None or dispatcher is None:
            return []
        ids = dispatcher.few(state, after, limit)
        page: list[dict[str, Any]] | int
        if ids is None:
            page = store.look_for(SHOWN[state], after, limit, PAGE_BYTES)
        else:
            page = store.listed(SHOWN[state], ids, PAGE_BYTES)
        return page if isinstance(page, int) else [self.clock.shown(job) for job in page]

    def counts(self) -> dict[str, Any]:
        """Return how many jobs are in each state; nothing while the file is not open."""
        return {} if self.dispatcher is None else self.dispatcher.counts(self.clock.now())

    # -- how it is

    def failed(self, trouble: StorageError) -> None:
        """The file could not be used: say so, and let some time pass."""
        self._degrade(str(trouble), lacks_room=trouble.full)
        self._writing.failed()

    def _degrade(self, why: str, *, lacks_room: bool) -> None:
        self._lacks_room = lacks_room
        if why == self.trouble:
            return
        kind = "room" if lacks_room else why
        self._tell(("still" if kind in self._told else "degraded", why))
        self._told.add(kind)
        self.trouble = why

    def _recover(self) -> None:
        self._writing.over()
        why = self._gone_where() or (self._nearly_full() if self._lacks() else None)
        if why is not None:
            self._degrade(why, lacks_room=self._lacks_room)
            self._ballasting.failed()
            return
        self._ballasting.over()
        if self.trouble is not None:
            self.trouble = None
            self._lacks_room = False
            self._told.clear()
            self._tell(("well",))

    def _lacks(self) -> bool:
        """Whether there is no room; a little more is wanted once there was none."""
        store = self._store
        if store is None or not self._room.keep_ballast(store):
            self._lacks_room = True
        elif self._room.has(store, AGAIN_BYTES):
            self._lacks_room = False
        return self._lacks_room

    def _nearly_full(self) -> str:
        if is_read_only(self._path):
            return f"{self._path}: {READ_ONLY}"
        return f"{self._path}: {NEARLY_FULL}"


def whole(store: Store, id: int, clock: Clock) -> dict[str, Any] | None:
    """Return all that is known of a job, its attempts too; None if there is no such job."""
    found = store.listing(id)
    if found is None:
        return None
    tries = [clock.shown(attempt) for attempt in store.attempts(id, PAGE_BYTES)]
    return {**clock.shown(found), "tries": tries}


def _later(began: float) -> float:
    ended = time.monotonic()
    return ended + 2 * (ended - began)


def _chance() -> float:
    return int.from_bytes(os.urandom(4), "little") / (1 << 32)
