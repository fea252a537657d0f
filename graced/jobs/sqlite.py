"""The queue's file: its schema, its statements, its failures. All of graced's SQL is here.

One process at a time may open the file: whoever holds the flock on the file beside it.
No rule on who gets which job, no clock, no socket.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3

from graced.jobs.queue import QueueError
from graced.jobs.row import DEAD, DONE, STAGED, TAKEN, WAITING, Batch, Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

VERSION = 1
APPLICATION = 0x67726364  # "grcd", in the file's header: no other program's database
BALLAST = 1 << 20  # bytes given up on a full disk, so that settles go on for a while
SMALL = 4096  # payloads up to here are read ahead with their rows
BUSY_WAIT = 0.2  # seconds for whoever looks into the file with other tools

SCHEMA = """
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    state INTEGER NOT NULL,
    due INTEGER NOT NULL,
    failures INTEGER NOT NULL DEFAULT 0,
    max_attempts INTEGER NOT NULL DEFAULT 0,
    submitted INTEGER NOT NULL,
    ended INTEGER,
    owner TEXT
);
CREATE TABLE payloads (id INTEGER PRIMARY KEY, payload TEXT NOT NULL);
CREATE TABLE endings (id INTEGER PRIMARY KEY, result TEXT, evidence TEXT);
CREATE TABLE streams (id INTEGER PRIMARY KEY AUTOINCREMENT, due INTEGER);
CREATE INDEX waiting ON jobs (due, id) WHERE state = 0;
CREATE INDEX ended ON jobs (ended) WHERE state = 3;
CREATE INDEX dead ON jobs (id) WHERE state = 4;
CREATE INDEX staged ON jobs (owner, id) WHERE state = 5;
"""

# What leads from a version to the next one; the last is always VERSION - 1.
MIGRATIONS: dict[int, str] = {}

_COLUMNS = "id, state, due, failures, max_attempts, submitted, owner"
_UPDATE = "UPDATE jobs SET state=?, due=?, failures=?, owner=?, ended=? WHERE id=?"
_INSERT = (
    "INSERT INTO jobs (id, state, due, failures, max_attempts, submitted, owner)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_FORGET = ("DELETE FROM jobs", "DELETE FROM payloads", "DELETE FROM endings")


class Trouble(QueueError):
    """The file cannot be used now: full, read-only, locked, corrupt, or of another program."""

    def __init__(self, text: str, *, full: bool = False) -> None:
        super().__init__(text)
        self.full = full


class Occupied(Trouble):
    """Another process has the file; ``holder`` is what it wrote about itself."""

    def __init__(self, text: str, holder: str) -> None:
        super().__init__(text)
        self.holder = holder


class Lock:
    """The right to open the file: an flock on a file beside it, held until close()."""

    def __init__(self, path: str) -> None:
        self.path = f"{path}-keeper"
        self._fd = -1

    def take(self, about: str) -> None:
        """Take the lock and write down who has it: the path of its socket, or nothing."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        except OSError as error:
            raise Trouble(_sorry(self.path, error.strerror or str(error))) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(fd, 4096, 0).decode(errors="replace")
            os.close(fd)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise Trouble(_sorry(self.path, error.strerror or str(error))) from None
            raise Occupied(f"{self.path}: another process keeps this queue", holder) from None
        self._fd = fd
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, about.encode(), 0)
        except OSError:  # on a full disk: it only makes the hand-over to another keeper slower
            os.ftruncate(fd, 0)

    def release(self) -> None:
        """Let others have it."""
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1


class Store:
    """One open queue file. Every method may raise Trouble."""

    def __init__(self, path: str, *, about: str = "") -> None:
        self.path = path
        self._lock = Lock(path)
        self._lock.take(about)
        try:
            self._db = self._open()
        except BaseException:
            self._lock.release()
            raise
        self.ballast = False

    def _open(self) -> sqlite3.Connection:
        try:
            db = sqlite3.connect(self.path, timeout=BUSY_WAIT, isolation_level=None)
        except sqlite3.Error as error:
            raise self._trouble(error) from None
        try:
            self._prepare(db)
        except sqlite3.Error as error:
            db.close()
            raise self._trouble(error) from None
        except BaseException:
            db.close()
            raise
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        application = int(db.execute("PRAGMA application_id").fetchone()[0])
        tables = int(db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
        if tables and application != APPLICATION:
            raise Trouble(f"{self.path}: a database of another program; name another file")
        if version > VERSION:
            raise Trouble(
                f"{self.path}: written by a newer graced (file version {version}, this one"
                f" reads up to {VERSION}); upgrade graced or name another file"
            )
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA cache_size=-16384")
        db.execute("PRAGMA journal_size_limit=67108864")
        self._migrate(db, version, fresh=not tables)

    def _migrate(self, db: sqlite3.Connection, version: int, *, fresh: bool) -> None:
        db.execute("BEGIN IMMEDIATE")  # fails here if the file cannot be written
        try:
            if fresh:
                _script(db, SCHEMA)
                db.execute(f"PRAGMA application_id={APPLICATION}")
            else:
                for step in range(version, VERSION):
                    _script(db, MIGRATIONS[step])
            db.execute(f"PRAGMA user_version={VERSION}")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the file; the WAL is folded into it if that can be done."""
        try:
            self._db.close()
        except sqlite3.Error:  # what was committed is in the WAL, whatever became of the rest
            pass
        finally:
            self._lock.release()

    # -- reading

    def load(self) -> tuple[dict[int, int], list[Row], list[tuple[int, int | None]], int]:
        """Return what a keeper must know: counts by state, owned rows, streams, last id."""
        try:
            counts = dict(self._db.execute("SELECT state, count(*) FROM jobs GROUP BY state"))
            owned = self._rows("WHERE state IN (1, 2)", ())
            streams = self._db.execute("SELECT id, due FROM streams").fetchall()
            last = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name='jobs'").fetchone()
        except sqlite3.Error as error:
            raise self._trouble(error) from None
        return counts, owned, streams, int(last[0]) if last else 0

    def last_stream(self) -> int:
        """Return the highest number that a stream ever had."""
        found = self._read("SELECT seq FROM sqlite_sequence WHERE name='streams'", ())
        return int(found[0][0]) if found else 0

    def staged(self, stream: int) -> int:
        """Return how many rows of a stream are still staged."""
        query = "SELECT count(*) FROM jobs WHERE state = 5 AND owner=?"
        return int(self._read(query, (stream_owner(stream),))[0][0])

    def ahead(self, after: tuple[int, int], limit: int) -> list[Row]:
        """Return the waiting rows after a (due, id), in order, with their small payloads."""
        found = self._read(
            f"SELECT {_COLUMNS}, CASE WHEN length(payload) <= {SMALL} THEN payload END"
            " FROM jobs JOIN payloads USING (id)"
            " WHERE state = 0 AND (due, id) > (?, ?) ORDER BY due, id LIMIT ?",
            (*after, limit),
        )
        return [Row(*columns) for columns in found]

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
        """Return jobs in some states, in the order of their ids; about `size` bytes at most."""
        marks = ", ".join(map(str, states))
        found = self._some(
            size,
            f"SELECT {_COLUMNS}, ended, payload, result, evidence FROM jobs"
            " JOIN payloads USING (id) LEFT JOIN endings USING (id)"
            f" WHERE state IN ({marks}) AND id > ? ORDER BY id LIMIT ?",
            (after, limit),
        )
        return [_listing(columns) for columns in found]

    def listing(self, id: int) -> dict[str, Any] | None:
        """Return the listing of one job, or None."""
        found = self.page(range(STAGED), id - 1, 1, 0)
        return found[0] if found and found[0]["id"] == id else None

    def oldest_done(self) -> int | None:
        """Return when the first of the done jobs ended."""
        found = self._read("SELECT min(ended) FROM jobs WHERE state = 3", ())
        return None if found[0][0] is None else int(found[0][0])

    # -- writing

    def put(self, batch: Batch) -> None:
        """Write a batch into the open transaction; after Trouble there is none."""
        try:
            if not self._db.in_transaction:
                self._db.execute("BEGIN IMMEDIATE")
            self._write(batch)
        except sqlite3.Error as error:
            self._undo()
            raise self._trouble(error) from None

    def commit(self) -> None:
        """Make durable all that was put; after Trouble nothing of it is there."""
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo()
            raise self._trouble(error) from None

    def _undo(self) -> None:
        if self._db.in_transaction:  # SQLite itself has rolled back after most errors
            self._db.execute("ROLLBACK")

    def _write(self, batch: Batch) -> None:
        many = self._db.executemany
        if batch.streams:
            many("INSERT OR IGNORE INTO streams (id) VALUES (?)", [(s,) for s in batch.streams])
        if batch.staged:
            for _stream, rows in batch.staged:
                self._insert(rows)
        if batch.sealed:
            many("UPDATE streams SET due=? WHERE id=?", [(due, s) for s, due in batch.sealed])
        if batch.fresh:
            self._insert(batch.fresh.values())
        if batch.dirty:
            many(
                _UPDATE,
                [
                    (r.state, r.due, r.failures, r.owner, r.ended, r.id)
                    for r in batch.dirty.values()
                ],
            )
        if batch.endings:
            many(
                "INSERT OR REPLACE INTO endings VALUES (?, ?, ?)",
                [(id, *texts) for id, texts in batch.endings.items()],
            )
        if batch.deleted:
            for statement in _FORGET:
                many(f"{statement} WHERE id=?", [(id,) for id in batch.deleted])

    def _insert(self, rows: Iterable[Row]) -> None:
        kept = list(rows)
        self._db.executemany(
            _INSERT,
            [(r.id, r.state, r.due, r.failures, r.limit, r.submitted, r.owner) for r in kept],
        )
        self._db.executemany(
            "INSERT INTO payloads VALUES (?, ?)", [(r.id, r.payload) for r in kept]
        )

    def promote(self, stream: int, due: int, limit: int) -> int:
        """Let some rows of a sealed stream wait; after the last one, forget the stream."""
        return int(self._transaction(self._promote, stream, due, limit))

    def _promote(self, stream: int, due: int, limit: int) -> int:
        moved = self._db.execute(
            f"UPDATE jobs SET state={WAITING}, due=?, owner=NULL WHERE id IN"
            " (SELECT id FROM jobs WHERE state = 5 AND owner=? ORDER BY id LIMIT ?)",
            (due, stream_owner(stream), limit),
        ).rowcount
        if moved < limit:
            self._db.execute("DELETE FROM streams WHERE id=?", (stream,))
        return moved

    def scrap(self, stream: int, limit: int) -> int:
        """Delete some rows of a stream that was never sealed; after the last, the stream."""
        return int(self._transaction(self._scrap, stream, limit))

    def _scrap(self, stream: int, limit: int) -> int:
        deleted = self._forget(
            "SELECT id FROM jobs WHERE state = 5 AND owner=? LIMIT ?",
            (stream_owner(stream), limit),
        )
        if deleted < limit:
            self._db.execute("DELETE FROM streams WHERE id=?", (stream,))
        return deleted

    def prune(self, before: int, limit: int) -> int:
        """Delete some done jobs that ended before a moment."""
        which = f"SELECT id FROM jobs WHERE state = {DONE} AND ended < ? ORDER BY ended LIMIT ?"
        return int(self._transaction(self._forget, which, (before, limit)))

    def _forget(self, which: str, arguments: tuple[Any, ...]) -> int:
        ids = self._db.execute(which, arguments).fetchall()
        for statement in _FORGET:
            self._db.executemany(f"{statement} WHERE id=?", ids)
        return len(ids)

    # -- the ballast

    def drop_ballast(self) -> bool:
        """Give the reserved space back to the disk; return whether there was any."""
        self.ballast = False
        return throw_ballast(self.path)

    def keep_ballast(self) -> bool:
        """Reserve space for bad times; return whether the disk had it."""
        if not self.ballast:
            self.ballast = _reserve(f"{self.path}-ballast", BALLAST)
        return self.ballast

    # -- inside

    def _transaction(self, work: Any, *arguments: Any) -> Any:
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            result = work(*arguments)
            db.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo()
            raise self._trouble(error) from None
        return result

    def _read(self, query: str, arguments: tuple[Any, ...]) -> list[Any]:
        try:
            return self._db.execute(query, arguments).fetchall()
        except sqlite3.Error as error:
            raise self._trouble(error) from None

    def _some(self, size: int, query: str, arguments: tuple[Any, ...]) -> list[Any]:
        """Return rows up to the one that makes them as long as `size`; at least one."""
        found = []
        try:
            for columns in self._db.execute(query, arguments):
                found.append(columns)
                size -= sum(len(value) for value in columns if isinstance(value, str))
                if size < 0:
                    break
        except sqlite3.Error as error:
            raise self._trouble(error) from None
        return found

    def _rows(self, where: str, arguments: tuple[Any, ...]) -> list[Row]:
        return [Row(*c) for c in self._read(f"SELECT {_COLUMNS} FROM jobs {where}", arguments)]

    def _trouble(self, error: sqlite3.Error) -> Trouble:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR) and _disk_is_full(self.path):
            return Trouble(_sorry(self.path, "no space left on the disk; make some"), full=True)
        return Trouble(_sorry(self.path, _ADVICE.get(code, str(error))))


_ADVICE = {
    sqlite3.SQLITE_FULL: "the disk is full, or the quota is used up; make some space",
    sqlite3.SQLITE_CORRUPT: "the file is corrupt; move it away, or restore it from a backup",
    sqlite3.SQLITE_NOTADB: "not an SQLite database, or a corrupt one; name another file",
    sqlite3.SQLITE_READONLY: "it cannot be written; check its owner, its mode and the mount",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check that its folder exists and is writable",
    sqlite3.SQLITE_BUSY: "another program has locked it; close that one",
    sqlite3.SQLITE_PROTOCOL: "another program has locked it; close that one",
    sqlite3.SQLITE_PERM: "it may not be opened; check its owner and its mode",
}


def throw_ballast(path: str) -> bool:
    """Remove what an earlier keeper of this file reserved; return whether there was any."""
    try:
        os.unlink(f"{path}-ballast")
    except OSError:
        return False
    return True


def stream_owner(stream: int) -> str:
    """Return what stands in the owner's column of a staged row."""
    return f"stream:{stream}"


def _sorry(path: str, why: str) -> str:
    return f"{path}: {why}"


def _script(db: sqlite3.Connection, script: str) -> None:
    # Not executescript(): it commits first, and a migration is all or nothing.
    for statement in script.split(";"):
        db.execute(statement)


def _disk_is_full(path: str) -> bool:
    try:
        room = os.statvfs(os.path.dirname(path) or ".")
    except OSError:
        return False
    return room.f_bavail * room.f_frsize < 2 * BALLAST


def _reserve(path: str, size: int) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError:
        os.unlink(path)
        return False
    finally:
        os.close(fd)
    return True


def _listing(columns: tuple[Any, ...]) -> dict[str, Any]:
    from graced.jobs.row import NAMES

    id, state, due, failures, limit, submitted, owner, ended, payload, result, evidence = columns
    return {
        "id": id,
        "state": NAMES[state],
        "attempts": failures + (state in (TAKEN, DONE)),
        "max_attempts": limit or None,
        "submitted": submitted / 1000,
        "due": due / 1000,
        "ended": None if ended is None else ended / 1000,
        "owner": owner if state == TAKEN else None,
        "payload": payload,
        "result": result,
        "evidence": evidence,
        "dead": state == DEAD,
    }
