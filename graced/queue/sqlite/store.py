"""The queue's file: all that is read from it and written to it, statement by statement.

One process at a time may open the file: the holder of the flock on the file beside it.
What it looks like inside is in :mod:`.schema`, what its failures mean in
:mod:`.errors`. No rule on which worker gets a job, no clock, no socket.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from contextlib import closing, suppress
from json.encoder import encode_basestring_ascii as escaped
from operator import attrgetter
from urllib.parse import quote

from graced.queue.job import BIGGEST
from graced.queue.protocol import StorageError
from graced.queue.sqlite import schema
from graced.queue.sqlite.errors import storage_error
from graced.queue.sqlite.lock import Lock, make_file, make_files_private
from graced.queue.sqlite.place import Place, Sight, identity_of
from graced.queue.sqlite.rows import DEAD, DONE, NAMES, SMALL, STAGED, TAKEN, WAITING, Batch, Row
from graced.queue.standing import Standing
from graced.queue.tally import OUTCOMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

AHEAD_CHARACTERS = 1 << 20  # of payloads that are read ahead with their rows
PAGE_BYTES = 1 << 20  # of the texts in one listing
LOOKED_AT = 10_000  # rows, of whatever state, in one look for some of a state
SPARE_PAGES = 1024  # empty pages that are kept for what comes; so is a quarter of all
SHRUNK_PAGES = 512  # given back in one step
BUSY_WAIT = 0.2  # seconds for people who look into the file with other tools

_COLUMNS = (
    "id, state, due, failures, max_attempts, submitted, owner, priority, token, began,"
    " cancelled, unique_key, schedule, scheduled"
)
_UPDATE = (
    "UPDATE jobs SET state=?, due=?, failures=?, owner=?, ended=?, token=?, began=?, cancelled=?"
    " WHERE id=?"
)
_INSERT_PLAIN = (
    "INSERT INTO jobs (id, state, due, failures, max_attempts, submitted, owner, priority)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_INSERT = (
    "INSERT INTO jobs (id, state, due, failures, max_attempts, submitted, owner, priority, token,"
    " began, cancelled, unique_key, schedule, scheduled)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_GONE = f"UPDATE gone SET {', '.join(f'{name} = {name} + :{name}' for name in OUTCOMES)}"
_INDEXES = {WAITING: "waiting", DONE: "ended", DEAD: "dead"}
_updated = attrgetter(
    "state", "due", "failures", "owner", "ended", "token", "began", "cancelled", "id"
)
_plain = attrgetter("id", "state", "due", "failures", "limit", "submitted", "owner", "priority")
_more = attrgetter("token", "began", "cancelled", "unique", "schedule", "scheduled")
_FORGET = (
    "DELETE FROM jobs WHERE id=?",
    "DELETE FROM payloads WHERE id=?",
    "DELETE FROM endings WHERE id=?",
    "DELETE FROM attempts WHERE job=?",
)


class Store:
    """One open queue file. Every method may raise StorageError."""

    def __init__(self, path: str, *, about: str = "", patience: float = 0.0) -> None:
        self.path = path
        self._lock = Lock(path)
        self._lock.take(about, patience)
        self._is_closed = False  # it could not be opened again
        self._logged = 0  # bytes of the log when it was last written to
        try:
            self._db = self._open()
            self.place = self._placed()
        except BaseException:  # unlocked, whatever it is; raised on
            self._lock.release()
            raise

    def _placed(self) -> Place:
        try:
            return Place(self.path)
        except OSError as error:
            self._db.close()
            raise StorageError(f"{self.path}: {error.strerror or error}") from None

    def _open(self) -> sqlite3.Connection:
        with suppress(OSError):  # SQLite says it better
            make_file(self.path)
        try:
            db = sqlite3.connect(self.path, timeout=BUSY_WAIT, isolation_level=None)
        except sqlite3.Error as error:
            raise storage_error(self.path, error) from None
        try:
            schema.check(db, self.path)  # what is no queue stays as it is
            with suppress(OSError):
                make_files_private(self.path)
            schema.prepare(db, self.path)
        except sqlite3.Error as error:
            db.close()
            raise storage_error(self.path, error) from None
        except BaseException:  # closed, whatever it is; raised on
            db.close()
            raise
        return db

    def close(self) -> None:
        """Close the file; the WAL is folded into it if that can be done."""
        self.place.close()
        try:
            self._db.close()
        except sqlite3.Error:  # what was committed is in the WAL, whatever became of the rest
            pass
        finally:
            self._lock.release()

    # -- where it is

    def keep_lock(self) -> None:
        """Have the lock, whatever became of its file. Raises QueueLockedError."""
        self._lock.keep()

    def look(self) -> Sight:
        """See whether the file is where it was opened. It is opened again if that had failed."""
        if self._is_closed:
            self._reopen()
        sight = self.place.look()
        cut = sight is Sight.FINE and self.log_size() < self._logged and not self._is_folded()
        return Sight.CUT_LOG if cut else sight

    def _is_folded(self) -> bool:
        """Whether a log is short since another program has folded it. A cut one can't be read."""
        try:
            self._read("PRAGMA wal_checkpoint(PASSIVE)", ())
        except StorageError:
            return False
        self._logged = self.log_size()
        return True

    def fold(self) -> None:
        """Write all that is in the log into the file, and empty the log."""
        busy = self._read("PRAGMA wal_checkpoint(TRUNCATE)", ())[0][0]
        if busy:
            raise StorageError(f"{self.path}: another program reads it; close that one")
        self._logged = 0

    def shorten_log(self) -> None:
        """Fold the log into the file and cut it, as far as its readers let us at once."""
        self._read("PRAGMA busy_timeout=0", ())
        try:
            self._read("PRAGMA wal_checkpoint(TRUNCATE)", ())
            self._logged = self.log_size()
        finally:
            self._read(f"PRAGMA busy_timeout={round(BUSY_WAIT * 1000)}", ())

    def log_size(self) -> int:
        """Return the bytes of the log."""
        return _size(f"{self.path}-wal")

    def growth(self) -> int:
        """Return by how many bytes the file will grow once the log is folded into it."""
        pages, size = self._pragma("page_count"), self._pragma("page_size")
        return max(pages * size - _size(self.path), 0)

    def spare(self) -> int:
        """Return the bytes of the file that nothing is in."""
        return self._pragma("freelist_count") * self._pragma("page_size")

    def shrink(self) -> bool:
        """Give some of a file that is mostly empty back to the disk; return whether to go on."""
        spare = self._pragma("freelist_count")
        kept = max(SPARE_PAGES, self._pragma("page_count") // 4)
        if spare < kept:
            return False
        try:  # a script, since execute() goes one step, which is one page
            self._db.executescript(f"PRAGMA incremental_vacuum({SHRUNK_PAGES})")
        except sqlite3.Error as error:
            raise storage_error(self.path, error) from None
        left = self._pragma("freelist_count")
        if kept <= left < spare:
            return True
        self._read("PRAGMA wal_checkpoint(PASSIVE)", ())  # which cuts it
        return False  # where none was given back an older graced has made the file

    def _pragma(self, name: str) -> int:
        return int(self._read(f"PRAGMA {name}", ())[0][0])

    def renew_log(self) -> None:
        """Begin another log in the place of one that is gone: what it had is in the file then.

        The file has two names meanwhile: whoever removes its log may remove it, too.
        """
        self.fold()
        kept = f"{self.path}-kept"
        try:
            with suppress(FileNotFoundError):
                os.unlink(kept)  # of one that was killed
            os.link(self.path, kept)
            mine = identity_of(kept)
            self._reopen()
            if identity_of(self.path) == mine:
                os.unlink(kept)
            else:
                self._db.close()  # with its own log, which would be read into ours
                os.replace(kept, self.path)
                self._reopen()
        except FileNotFoundError:  # it is open, and has no name: that is another case
            return
        except OSError as error:
            raise StorageError(f"{self.path}: {error.strerror or error}") from None

    def copy_to(self, path: str) -> None:
        """Write all that is open to another file, durably."""
        try:
            with suppress(FileNotFoundError):
                os.unlink(path)  # one that was broken off
            make_file(path)
            with closing(sqlite3.connect(path, isolation_level=None)) as copy:
                self._db.backup(copy)
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"{path}: cannot write a copy of the queue: {error}") from None

    def make_anew(self) -> None:
        """Write all that is open to a new file with the name of the one that was removed."""
        copy = f"{self.path}-anew"
        try:
            self.copy_to(copy)
            self.fold()  # a log that stays behind has to be empty: it is no log of the new file
            os.link(copy, self.path)
            os.unlink(copy)
            _sync(os.path.dirname(self.path) or ".")
        except OSError as error:
            raise StorageError(f"{self.path}: it was removed: {error.strerror or error}") from None
        self._reopen()

    def _reopen(self) -> None:
        """Close the file and open the one of its name. Nothing must be unwritten."""
        self._db.close()
        self._is_closed = True
        self._db = self._open()
        found = self._placed()
        self.place.close()
        self.place, self._is_closed, self._logged = found, False, 0

    # -- reading

    def load(self) -> tuple[dict[int, int], list[Row], list[tuple[int, int | None, int]], int]:
        """Return what a keeper must know: counts by state, owned rows, streams, last id."""
        try:
            owned = self._rows("WHERE state IN (1, 2)", ())
            counts = Counter(row.state for row in owned)
            for state in (WAITING, DONE, DEAD, STAGED):  # by the index that each of them has
                query = f"SELECT count(*) FROM jobs WHERE state = {state}"
                counts[state] = self._db.execute(query).fetchone()[0]
            streams = self._db.execute("SELECT id, due, priority FROM streams").fetchall()
            last = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name='jobs'").fetchone()
        except sqlite3.Error as error:
            raise storage_error(self.path, error) from None
        return +counts, owned, streams, int(last[0]) if last else 0

    def priorities(self) -> list[int]:
        """Return the priorities of all waiting rows, each found by one look into the index."""
        highest = "SELECT max(priority) FROM jobs WHERE state = 0"
        query = (
            f"WITH RECURSIVE found(p) AS ({highest} UNION ALL"
            f" SELECT ({highest} AND priority < p) FROM found WHERE p IS NOT NULL)"
            " SELECT p FROM found WHERE p IS NOT NULL"
        )
        return [int(priority) for (priority,) in self._read(query, ())]

    def is_paused(self) -> bool:
        """Return whether jobs are withheld."""
        return bool(self._read("SELECT count(*) FROM paused", ())[0][0])

    def holder(self, key: str) -> int | None:
        """Return the open job that has a unique key."""
        found = self._read("SELECT job FROM keys WHERE key = ?", (key,))
        return int(found[0][0]) if found else None

    def clock(self) -> int:
        """Return the queue's time as it was last written down, in ms since the epoch."""
        found = self._read("SELECT ms FROM clock", ())
        return int(found[0][0]) if found else 0

    def gone(self) -> tuple[int, dict[str, int]]:
        """Return the number by which the file is known, and what is counted of jobs no more."""
        book, *counts = self._read(f"SELECT book, {', '.join(OUTCOMES)} FROM gone", ())[0]
        return int(book), dict(zip(OUTCOMES, counts))

    def failures(self) -> int:
        """Return how many attempts have failed, of all jobs there are."""
        return int(self._read("SELECT total(failures) FROM jobs WHERE failures > 0", ())[0][0])

    def standings(self) -> dict[str, Standing]:
        """Return where all schedules stand."""
        found = self._read("SELECT name, rule, since, last FROM schedules", ())
        return {name: Standing(rule, since, last) for name, rule, since, last in found}

    def last_stream(self) -> int:
        """Return the highest number that a stream ever had."""
        found = self._read("SELECT seq FROM sqlite_sequence WHERE name='streams'", ())
        return int(found[0][0]) if found else 0

    def staged(self, stream: int) -> int:
        """Return how many rows of a stream are still staged."""
        query = "SELECT count(*) FROM jobs WHERE state = 5 AND owner=?"
        return int(self._read(query, (stream_owner(stream),))[0][0])

    def ahead(self, priority: int, after: tuple[int, int], limit: int) -> list[Row]:
        """Return a priority's waiting rows after a (due, id), in order, with small payloads.

        SQLite reads all of a text to tell its length: where there are long ones, few are read.
        """
        which = (
            "WHERE state = 0 AND priority = ? AND (due, id) > (?, ?) ORDER BY due, id LIMIT ?"
        )
        wanted = (priority, *after, limit)
        rows = self._rows(which, wanted)
        try:
            found = self._db.execute(
                f"SELECT payload FROM jobs JOIN payloads USING (id) {which}", wanted
            )
            room = AHEAD_CHARACTERS
            for row, (text,) in zip(rows, found, strict=False):
                room -= len(text)
                row.payload = text if len(text) <= SMALL else None
                if room < 0:
                    break
        except sqlite3.Error as error:
            raise storage_error(self.path, error) from None
        return rows

    def payload(self, id: int) -> str:
        """Return one payload."""
        return str(self._read("SELECT payload FROM payloads WHERE id=?", (id,))[0][0])

    def row(self, id: int) -> Row | None:
        """Return one row, or None."""
        found = self._rows("WHERE id=?", (id,))
        return found[0] if found else None

    def page(
        self, states: Sequence[int], after: int, limit: int, size: int
    ) -> list[dict[str, Any]]:
        """Return jobs in some states, in the order of their ids.

        So many that their texts take up to `size` bytes in a JSON body; one at least. What is
        staged still, of a stream that is committed, waits.
        """
        while isinstance(found := self.look_for(states, after, limit, size), int):
            after = found
        return found

    def look_for(
        self, states: Sequence[int], after: int, limit: int, size: int
    ) -> list[dict[str, Any]] | int:
        """Return a page in bounded time, or the id after which to look on: so far there is none."""
        query = "SELECT id FROM jobs WHERE id > ? ORDER BY id LIMIT 1 OFFSET ?"
        last = self._read(query, (after, LOOKED_AT - 1))
        upto = int(last[0][0]) if last else BIGGEST
        found = self._listed(states, "id > ? AND id <= ?", (after, upto), limit, size)
        return found if found or not last else upto

    def few(self, state: int, after: int, limit: int) -> list[int]:
        """Return the ids of the next jobs in a state, by its index: of dead ones, or of a few."""
        query = (
            f"SELECT id FROM jobs INDEXED BY {_INDEXES[state]}"
            f" WHERE state = {state} AND id > ? ORDER BY id LIMIT ?"
        )
        return [id for (id,) in self._read(query, (after, limit))]

    def listed(self, states: Sequence[int], ids: Iterable[int], size: int) -> list[dict[str, Any]]:
        """Return the same of the jobs with these ids."""
        return self._listed(states, f"id IN ({', '.join(map(str, ids))})", (), -1, size)

    def _listed(
        self, states: Sequence[int], ids: str, arguments: tuple[int, ...], limit: int, size: int
    ) -> list[dict[str, Any]]:
        accepted = self._accepted() if WAITING in states else {}
        marks = ", ".join(map(str, states))
        which = f"state IN ({marks})"
        if accepted:  # a + has SQLite go by the ids
            owners = ", ".join("?" * len(accepted))
            which = f"(+state IN ({marks}) OR +state = {STAGED} AND +owner IN ({owners}))"
        found = self._some(
            size,
            f"SELECT {_COLUMNS}, ended, payload, result, evidence FROM jobs"
            " JOIN payloads USING (id) LEFT JOIN endings USING (id)"
            f" WHERE {which} AND {ids} ORDER BY id LIMIT ?",
            (*accepted, *arguments, limit),
        )
        return [_listing(columns, accepted) for columns in found]

    def _accepted(self) -> dict[str, int]:
        """Return the owners of staged rows whose streams are committed, and when those are due."""
        found = self._read("SELECT id, due FROM streams WHERE due IS NOT NULL", ())
        return {stream_owner(stream): due for stream, due in found}

    def listing(self, id: int) -> dict[str, Any] | None:
        """Return the listing of one job, or None."""
        found = self.listed(range(STAGED), (id,), 0)
        return found[0] if found else None

    def attempts(self, id: int, size: int) -> list[dict[str, Any]]:
        """Return what became of a job's attempts that came to nothing, the first one first.

        Of too many, for `size` bytes in a JSON body, the last ones.
        """
        found = self._some(
            size,
            "SELECT token, number, began, ended, owner, counts, evidence FROM attempts"
            " WHERE job=? ORDER BY token DESC",
            (id,),
        )
        return [_attempt(columns) for columns in reversed(found)]

    def oldest_done(self) -> int | None:
        """Return when the first of the done jobs ended."""
        found = self._read("SELECT min(ended) FROM jobs WHERE state = 3", ())
        return None if found[0][0] is None else int(found[0][0])

    # -- writing

    def put(self, batch: Batch) -> None:
        """Write a batch into the open transaction; after StorageError there is none."""
        try:
            if not self._db.in_transaction:
                self._db.execute("BEGIN IMMEDIATE")
            self._write(batch)
        except sqlite3.Error as error:
            self._undo()
            raise storage_error(self.path, error) from None

    def commit(self) -> None:
        """Make durable all that was put; after StorageError nothing of it is there."""
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo()
            raise storage_error(self.path, error) from None
        self._logged = self.log_size()

    def _undo(self) -> None:
        if self._db.in_transaction:  # SQLite itself has rolled back after most errors
            self._db.execute("ROLLBACK")

    def _write(self, batch: Batch) -> None:
        many = self._db.executemany
        if batch.streams or batch.staged or batch.committed:
            self._write_streams(batch)
        if batch.fresh:
            self._insert(batch.fresh.values())
        if batch.dirty:
            many(_UPDATE, map(_updated, batch.dirty.values()))
        if batch.endings:
            many(
                "INSERT OR REPLACE INTO endings VALUES (?, ?, ?)",
                [(id, *texts) for id, texts in batch.endings.items()],
            )
        if batch.attempts:
            many("INSERT OR REPLACE INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?)", batch.attempts)
        self._write_state(batch)
        if batch.gone:
            many(_GONE, batch.gone)
        if batch.deleted:
            for statement in _FORGET:
                many(statement, [(id,) for id in batch.deleted])

    def _write_state(self, batch: Batch) -> None:
        """Write what is of the queue and of no job."""
        if batch.keys:
            self._write_keys(batch.keys)
        if batch.paused is not None:
            self._db.execute(
                "INSERT OR REPLACE INTO paused VALUES (1)" if batch.paused else "DELETE FROM paused"
            )
        if batch.standings:
            self._db.executemany(
                "INSERT OR REPLACE INTO schedules VALUES (?, ?, ?, ?)",
                [(name, s.rule, s.since, s.last) for name, s in batch.standings.items()],
            )
        if batch.clock is not None:
            self._db.execute("INSERT OR REPLACE INTO clock VALUES (1, ?)", (batch.clock,))

    def _write_keys(self, keys: dict[str, int | None]) -> None:
        free = [(key,) for key, job in keys.items() if job is None]
        self._db.executemany("DELETE FROM keys WHERE key=?", free)
        held = [(key, job) for key, job in keys.items() if job is not None]
        self._db.executemany("INSERT OR REPLACE INTO keys VALUES (?, ?)", held)

    def _write_streams(self, batch: Batch) -> None:
        many = self._db.executemany
        many("INSERT OR IGNORE INTO streams (id) VALUES (?)", [(s,) for s in batch.streams])
        for _stream, rows in batch.staged:
            self._insert(rows)
        many(
            "UPDATE streams SET due=?, priority=? WHERE id=?",
            [(due, priority, stream) for stream, due, priority in batch.committed],
        )

    def _insert(self, rows: Iterable[Row]) -> None:
        kept = list(rows)
        plain = [r for r in kept if r.is_plain]
        self._db.executemany(_INSERT_PLAIN, map(_plain, plain))
        if len(plain) < len(kept):
            rest = [_plain(r) + _more(r) for r in kept if not r.is_plain]
            self._db.executemany(_INSERT, rest)
        self._db.executemany(
            "INSERT INTO payloads VALUES (?, ?)", [(r.id, r.payload) for r in kept]
        )

    def promote(self, streams: Sequence[tuple[int, int]], limit: int) -> int:
        """Let some rows of committed streams wait, each with the time at which they are due.

        One stream after another; those of which none is left are forgotten. Return how many.
        """
        return int(self._transaction(self._promote, streams, limit))

    def _promote(self, streams: Sequence[tuple[int, int]], limit: int) -> int:
        for over, (stream, due) in enumerate(streams):
            limit -= self._db.execute(
                f"UPDATE jobs SET state={WAITING}, due=?, owner=NULL WHERE id IN"
                " (SELECT id FROM jobs WHERE state = 5 AND owner=? ORDER BY id LIMIT ?)",
                (due, stream_owner(stream), limit),
            ).rowcount
            if not limit:
                return over
            self._db.execute("DELETE FROM streams WHERE id=?", (stream,))
        return len(streams)

    def delete_staged(self, stream: int, limit: int) -> int:
        """Delete some rows of a stream that was never committed; after the last, the stream."""
        return int(self._transaction(self._delete_staged, stream, limit))

    def _delete_staged(self, stream: int, limit: int) -> int:
        deleted = self._forget(
            "SELECT id FROM jobs WHERE state = 5 AND owner=? LIMIT ?",
            (stream_owner(stream), limit),
        )
        if deleted < limit:
            self._db.execute("DELETE FROM streams WHERE id=?", (stream,))
        return deleted

    def prune(self, before: int, limit: int) -> dict[str, int]:
        """Delete some done jobs that ended before a moment; return what is gone with them."""
        which = f"jobs WHERE state = {DONE} AND ended < ? ORDER BY ended LIMIT ?"
        gone: dict[str, int] = self._transaction(self._prune, which, (before, limit))
        return gone

    def _prune(self, which: str, arguments: tuple[Any, ...]) -> dict[str, int]:
        failures = f"SELECT total(failures) FROM (SELECT failures FROM {which})"
        failed = int(self._db.execute(failures, arguments).fetchone()[0])
        count = self._forget(f"SELECT id FROM {which}", arguments)
        gone = {"submitted": count, "done": count, "failed": failed, "dead": 0}
        self._db.execute(_GONE, gone)
        return gone

    def _forget(self, which: str, arguments: tuple[Any, ...]) -> int:
        ids = self._db.execute(which, arguments).fetchall()
        for statement in _FORGET:
            self._db.executemany(statement, ids)
        return len(ids)

    # -- inside

    def _transaction(self, work: Any, *arguments: Any) -> Any:
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            result = work(*arguments)
            db.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo()
            raise storage_error(self.path, error) from None
        self._logged = self.log_size()
        return result

    def _read(self, query: str, arguments: tuple[Any, ...]) -> list[Any]:
        try:
            return self._db.execute(query, arguments).fetchall()
        except sqlite3.Error as error:
            raise storage_error(self.path, error) from None

    def _some(self, size: int, query: str, arguments: tuple[Any, ...]) -> list[Any]:
        """Return rows whose texts take up to `size` bytes as ASCII JSON; at least one row."""
        found: list[Any] = []
        try:
            for columns in self._db.execute(query, arguments):
                size -= sum(len(escaped(text)) for text in columns if isinstance(text, str))
                if found and size < 0:
                    break
                found.append(columns)
        except sqlite3.Error as error:
            raise storage_error(self.path, error) from None
        return found

    def _rows(self, where: str, arguments: tuple[Any, ...]) -> list[Row]:
        return [Row(*c) for c in self._read(f"SELECT {_COLUMNS} FROM jobs {where}", arguments)]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _sync(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class View(Store):
    """A queue's file that is only read; its lock stays free, and a keeper of it goes on."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._db = self._opened()

    def _opened(self) -> sqlite3.Connection:
        where = quote(os.fsencode(self.path))
        try:
            try:
                return self._checked(f"file:{where}?mode=ro")
            except sqlite3.OperationalError:
                if os.path.exists(f"{self.path}-wal"):
                    raise
                # No process has it open, and we may not put a log beside it, as SQLite wants to.
                return self._checked(f"file:{where}?mode=ro&immutable=1")
        except sqlite3.Error as error:
            raise storage_error(self.path, error) from None

    def _checked(self, uri: str) -> sqlite3.Connection:
        db = sqlite3.connect(uri, uri=True, timeout=BUSY_WAIT, isolation_level=None)
        try:
            _version, self._is_fresh = schema.check(db, self.path)
        except BaseException:  # closed, whatever it is; raised on
            db.close()
            raise
        return db

    def look_for(
        self, states: Sequence[int], after: int, limit: int, size: int
    ) -> list[dict[str, Any]] | int:
        """Look as the store does; in a file in which nothing is yet, there is none."""
        return [] if self._is_fresh else super().look_for(states, after, limit, size)

    def listed(self, states: Sequence[int], ids: Iterable[int], size: int) -> list[dict[str, Any]]:
        """Return jobs as the store does; of a file in which nothing is yet, none."""
        return [] if self._is_fresh else super().listed(states, ids, size)

    def clock(self) -> int:
        """Return the queue's time as it was last written down; 0 if that was never done."""
        return super().clock() if self._has("clock") else 0

    def counts(self) -> dict[str, Any]:
        """Return how many jobs there are in each state, and whether they are withheld."""
        found = dict.fromkeys(("waiting", "taken", "done", "dead"), 0)
        if not self._is_fresh:
            owners = "SELECT 'stream:' || id FROM streams WHERE due IS NOT NULL"
            which = f"state <> {STAGED} OR owner IN ({owners})"
            query = f"SELECT state, count(*) FROM jobs WHERE {which} GROUP BY state"
            for state, count in self._read(query, ()):
                found[NAMES[WAITING if state == STAGED else state]] += count
        return {**found, "paused": self._has("paused") and self.is_paused()}

    def _has(self, table: str) -> bool:
        return bool(self._read("SELECT count(*) FROM sqlite_master WHERE name=?", (table,))[0][0])

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def stream_owner(stream: int) -> str:
    """Return what stands in the owner's column of a staged row."""
    return f"stream:{stream}"


def _listing(columns: tuple[Any, ...], accepted: Mapping[str, int]) -> dict[str, Any]:
    row, (ended, payload, result, evidence) = Row(*columns[:-4]), columns[-4:]
    if row.state == STAGED:
        row.state, row.due = WAITING, accepted[row.owner or ""]
    taken = row.state == TAKEN
    return {
        "id": row.id,
        "state": NAMES[row.state],
        "attempts": row.failures + (row.state in (TAKEN, DONE)),
        "max_attempts": row.limit or None,
        "priority": row.priority,
        "unique": row.unique,
        "schedule": row.schedule,
        "scheduled": _seconds(row.scheduled),
        "token": row.token,
        "submitted": row.submitted / 1000,
        "due": row.due / 1000,
        "began": _seconds(row.began),
        "ended": _seconds(ended),
        "owner": row.owner if taken else None,
        "cancelling": taken and row.cancelled is not None,
        "progress": None,
        "payload": payload,
        "result": result,
        "evidence": evidence,
        "dead": row.state == DEAD,
    }


def _attempt(columns: tuple[Any, ...]) -> dict[str, Any]:
    token, number, began, ended, owner, counts, evidence = columns
    return {
        "attempt": number,
        "token": token,
        "began": _seconds(began),
        "ended": _seconds(ended),
        "owner": owner,
        "counts": bool(counts),
        "evidence": evidence,
    }


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000
