"""What a queue's file looks like inside, and how an older one becomes like the present ones.

What is read from it and written to it in daily life is in :mod:`.store`.
"""

from __future__ import annotations

from graced.queue.protocol import StorageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

VERSION = 2
APPLICATION = 0x67726364  # "grcd", in the file's header: no other program's database

SCHEMA = """
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    state INTEGER NOT NULL,
    due INTEGER NOT NULL,
    failures INTEGER NOT NULL DEFAULT 0,
    max_attempts INTEGER NOT NULL DEFAULT 0,
    submitted INTEGER NOT NULL,
    ended INTEGER,
    owner TEXT,
    priority INTEGER NOT NULL DEFAULT 0,
    token INTEGER NOT NULL DEFAULT 0,
    began INTEGER,
    cancelled INTEGER,
    unique_key TEXT,
    schedule TEXT,
    scheduled INTEGER
);
CREATE TABLE payloads (id INTEGER PRIMARY KEY, payload TEXT NOT NULL);
CREATE TABLE endings (id INTEGER PRIMARY KEY, result TEXT, evidence TEXT);
CREATE TABLE streams (
    id INTEGER PRIMARY KEY AUTOINCREMENT, due INTEGER, priority INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX ended ON jobs (ended) WHERE state = 3;
CREATE INDEX dead ON jobs (id) WHERE state = 4;
CREATE INDEX staged ON jobs (owner, id) WHERE state = 5;
"""

# What came with version 2, for those that are made with it and those that get there.
SECOND = """
CREATE INDEX waiting ON jobs (priority, due, id) WHERE state = 0;
CREATE TABLE keys (key TEXT PRIMARY KEY, job INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE attempts (
    job INTEGER NOT NULL,
    token INTEGER NOT NULL,
    number INTEGER NOT NULL,
    began INTEGER,
    ended INTEGER NOT NULL,
    owner TEXT,
    counts INTEGER NOT NULL,
    evidence TEXT,
    PRIMARY KEY (job, token)
) WITHOUT ROWID;
CREATE TABLE paused (one INTEGER PRIMARY KEY);
"""

# The queue's own time, as the last keeper has written it down. An older graced, which goes
# by the wall clock alone, leaves it as it is: no new version.
CLOCK = "CREATE TABLE IF NOT EXISTS clock (one INTEGER PRIMARY KEY, ms INTEGER NOT NULL)"

# Where schedules stand; an older graced has none.
SCHEDULES = (
    "CREATE TABLE IF NOT EXISTS schedules (name TEXT PRIMARY KEY, rule TEXT NOT NULL,"
    " since INTEGER NOT NULL, last INTEGER) WITHOUT ROWID"
)

# What can't be counted in the other tables any more, of jobs that were forgotten or tried anew:
# with it a keeper knows how many jobs there ever were. And a number by which this file is known.
GONE = (
    "CREATE TABLE IF NOT EXISTS gone (one INTEGER PRIMARY KEY, book INTEGER NOT NULL,"
    " submitted INTEGER NOT NULL, done INTEGER NOT NULL, failed INTEGER NOT NULL,"
    " dead INTEGER NOT NULL)"
)

# What leads from a version to the next one; the last is always VERSION - 1.
MIGRATIONS: dict[int, str] = {
    1: """
ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN token INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN began INTEGER;
ALTER TABLE jobs ADD COLUMN cancelled INTEGER;
ALTER TABLE jobs ADD COLUMN unique_key TEXT;
ALTER TABLE jobs ADD COLUMN schedule TEXT;
ALTER TABLE jobs ADD COLUMN scheduled INTEGER;
ALTER TABLE streams ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
DROP INDEX waiting;
"""
    + SECOND,
}


def prepare(db: sqlite3.Connection, path: str) -> None:
    """Make an open file ready for use: the newest schema, and durable commits.

    Raises StorageError if it is of another program, or of a newer graced.
    """
    version, fresh = check(db, path)
    if fresh:
        db.execute("PRAGMA auto_vacuum=INCREMENTAL")  # before all else is written
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("PRAGMA secure_delete=FAST")  # else what is deleted is written, to a full disk too
    db.execute("PRAGMA cache_size=-16384")
    db.execute("PRAGMA journal_size_limit=16777216")
    _migrate(db, version, fresh=fresh)


def check(db: sqlite3.Connection, path: str) -> tuple[int, bool]:
    """Return a file's version, and whether there is nothing in it yet. StorageError as above."""
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    application = int(db.execute("PRAGMA application_id").fetchone()[0])
    tables = int(db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    if tables and application != APPLICATION:
        raise StorageError(f"{path}: a database of another program; name another file")
    if version > VERSION:
        raise StorageError(
            f"{path}: written by a newer graced (file version {version}, this one"
            f" reads up to {VERSION}); upgrade graced or name another file"
        )
    return version, not tables


def _migrate(db: sqlite3.Connection, version: int, *, fresh: bool) -> None:
    db.execute("BEGIN IMMEDIATE")  # fails here if the file cannot be written
    try:
        if fresh:
            _script(db, SCHEMA + SECOND)
            db.execute(f"PRAGMA application_id={APPLICATION}")
        else:
            for step in range(version, VERSION):
                _script(db, MIGRATIONS[step])
        db.execute(CLOCK)
        db.execute(SCHEDULES)
        db.execute(GONE)
        db.execute("INSERT OR IGNORE INTO gone VALUES (1, random(), 0, 0, 0, 0)")
        db.execute(f"PRAGMA user_version={VERSION}")
        db.execute("COMMIT")
    except BaseException:  # rolled back, whatever it is; raised on
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _script(db: sqlite3.Connection, script: str) -> None:
    # Not executescript(): it commits first, and a migration is all or nothing.
    for statement in script.split(";"):
        db.execute(statement)
