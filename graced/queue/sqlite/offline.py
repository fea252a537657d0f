"""A client's end of a queue without a keeper: its file, opened by the command itself.

While it is open no keeper gets it. The same rules hold, those of :mod:`.dispatcher`.
"""

from __future__ import annotations

from contextlib import closing
from sqlite3 import sqlite_version

from graced.queue.client_end import chunks
from graced.queue.policy import Policy
from graced.queue.protocol import StorageError
from graced.queue.sqlite.dispatcher import Dispatcher
from graced.queue.sqlite.place import Sight
from graced.queue.sqlite.room import Room
from graced.queue.sqlite.rows import SHOWN
from graced.queue.sqlite.storage import whole
from graced.queue.sqlite.store import PAGE_BYTES, Store, View
from graced.queue.terms import AS_USUAL, Terms
from graced.queue.timing import Clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from graced.settings import Pool


PATIENCE = 120.0  # seconds for other commands that have the file: there may be hundreds


class FileView:
    """A queue's file, only to be looked at, page by page; its lock stays free.

    See :class:`graced.queue.protocol.QueueView`.
    """

    shared = False

    def __init__(self, file: str) -> None:
        self._file = file
        self._clock = Clock()

    def jobs(self, state: str | None, after: int, limit: int) -> list[dict[str, Any]]:
        with closing(View(self._file)) as view:
            self._clock.at_least(view.clock())
            page = view.page(SHOWN[state], after, limit, PAGE_BYTES)
        return [self._clock.shown(job) for job in page]

    def wait(self, job: int, timeout: float | None = None) -> dict[str, Any]:
        """Return a job's listing as it is: no daemon runs that could end it."""
        page = self.jobs(None, job - 1, 1)
        return page[0] if page and page[0]["id"] == job else {"id": job, "state": "gone"}

    def status(self) -> dict[str, Any]:
        """Return how the file is kept, and how many jobs there are in each state."""
        with closing(View(self._file)) as view:
            return {
                "engine": "sqlite",
                "version": sqlite_version,
                "durability": "each commit is on the disk before it is answered",
                "warnings": [],
                "hosts": [],
                "counts": view.counts(),
            }

    def close(self) -> None:
        """Nothing is open."""

    def job(self, id: int) -> dict[str, Any] | None:
        """Return a job's listing with all of its attempts."""
        with closing(View(self._file)) as view:
            self._clock.at_least(view.clock())
            return whole(view, id, self._clock)


class FileEnd:
    """A queue's file, opened by ourselves: no keeper has it, and none gets it meanwhile.

    See :class:`graced.queue.protocol.ClientQueue`.
    """

    shared = False

    def __init__(self, file: str, pool: Pool) -> None:
        self._store = Store(file, patience=PATIENCE)
        self._room = Room(file)
        self._clock = Clock()
        self._clock.at_least(self._store.clock())
        self._dispatcher = Dispatcher(self._store, Policy.of(pool), lambda: 0.5)
        self._maintain()

    def submit(self, payloads: Sequence[str], terms: Terms = AS_USUAL) -> Sequence[int]:
        ids = self._dispatcher.submit(payloads, terms, self._clock.now())
        try:
            self._commit()
        except BaseException:  # a stream may go on; raised on
            self._dispatcher.refuse_submits()
            raise
        return ids

    def stream(self, payloads: Iterable[str], terms: Terms = AS_USUAL) -> list[range]:
        dispatcher = self._dispatcher
        stream = dispatcher.open_stream()
        ids = []
        try:
            for chunk in chunks(payloads):
                ids.append(dispatcher.stage(stream, chunk, terms, self._clock.now()))
                self._commit()
            dispatcher.commit_stream(stream, terms, self._clock.now())
            self._commit()
        except BaseException:  # taken back, whatever it is; raised on
            dispatcher.refuse_submits()
            dispatcher.abort_stream(stream)
            raise
        self._maintain()
        return ids

    def wait(self, job: int, timeout: float | None = None) -> dict[str, Any]:
        """Return a job's listing as it is: no daemon runs that could end it."""
        return self._store.listing(job) or {"id": job, "state": "gone"}

    def jobs(self, state: str | None, after: int, limit: int) -> list[dict[str, Any]]:
        page = self._store.page(SHOWN[state], after, limit, PAGE_BYTES)
        return [self._clock.shown(job) for job in page]

    def job(self, id: int) -> dict[str, Any] | None:
        """Return a job's listing with all of its attempts."""
        return whole(self._store, id, self._clock)

    def retry(self, ids: Sequence[int]) -> dict[int, str]:
        refused = self._dispatcher.retry(ids, self._clock.now())
        self._commit()
        return refused

    def drop(self, ids: Sequence[int]) -> dict[int, str]:
        refused = self._dispatcher.drop(ids)
        self._commit()
        return refused

    def cancel(self, ids: Sequence[int]) -> dict[int, str]:
        """Have jobs dead that are not done; return the refusals by id."""
        refused = self._dispatcher.cancel(ids, self._clock.now())
        self._commit()
        return refused

    def pause(self, paused: bool) -> None:
        self._dispatcher.pause(paused, self._clock.now())
        self._commit()

    def counts(self) -> dict[str, Any]:
        """Return how many jobs there are in each state."""
        return self._dispatcher.counts(self._clock.now())

    def hang_up(self) -> None:
        """No thread sleeps on it."""

    def close(self) -> None:
        """Let a keeper have the file."""
        self._store.close()

    def _commit(self) -> None:
        if self._store.look() is not Sight.FINE:
            raise StorageError(f"{self._store.path}: it was removed or moved meanwhile")
        self._room.check(self._store, self._dispatcher.new_bytes())
        self._dispatcher.commit(self._clock.now())

    def _maintain(self) -> None:
        while self._dispatcher.needs_maintenance:
            self._dispatcher.maintain(self._clock.now())
