"""Files of other versions: an older one is brought up to date whole, a newer one is left alone."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from keeper_harness import KeeperHarness, settle, take

from graced.queue.policy import Policy
from graced.queue.protocol import StorageError
from graced.queue.sqlite import schema
from graced.queue.sqlite.store import Store, View
from graced.queue.terms import Terms
from graced.settings import Retry

# As graced 0.1 made it, with jobs in every state, of a stream too.
FIRST = """
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
CREATE TABLE clock (one INTEGER PRIMARY KEY, ms INTEGER NOT NULL);
INSERT INTO jobs VALUES
    (1, 3, 1000, 0, 0, 1000, 4000000000000, NULL), (2, 4, 1000, 3, 3, 1000, 2000, NULL),
    (3, 2, 1000, 1, 0, 1000, NULL, 'gone:1'), (4, 1, 1000, 0, 0, 1000, NULL, 'gone:1'),
    (5, 0, 1000, 0, 0, 1000, NULL, NULL), (6, 0, 4000000000000, 2, 9, 1000, NULL, NULL),
    (7, 5, 1000, 0, 0, 1000, NULL, 'stream:1'), (8, 5, 1000, 0, 0, 1000, NULL, 'stream:2');
INSERT INTO payloads SELECT id, '"' || id || '"' FROM jobs;
INSERT INTO endings VALUES (1, '"result"', NULL), (2, NULL, '{"reason":"no"}');
INSERT INTO streams VALUES (1, 1000), (2, NULL);
PRAGMA user_version=1;
"""


@pytest.fixture
def first(tmp_path: Path) -> Path:
    path = tmp_path / "jobs.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(f"{FIRST} PRAGMA application_id={schema.APPLICATION};")
    return path


def test_the_jobs_of_a_file_from_0_1_are_all_there(first: Path) -> None:
    with KeeperHarness(first.parent, Policy(retry=Retry(3600.0, 1.0, 3600.0))) as harness:
        client = harness.start().client()
        listed = {job["id"]: job for job in client.jobs(None, 0, 99)}
        assert listed.pop(3)["state"] in ("taken", "waiting")  # of a daemon that has crashed
        states = ["done", "dead", "waiting", "waiting", "waiting", "waiting"]
        assert {id: job["state"] for id, job in listed.items()} == dict(
            zip([1, 2, 4, 5, 6, 7], states, strict=True)
        )
        assert [listed[id]["payload"] for id in (1, 7)] == ['"1"', '"7"']
        assert (listed[1]["result"], listed[2]["evidence"]) == ('"result"', '{"reason":"no"}')
        assert {job["priority"] for job in listed.values()} == {0}
        [high] = client.submit(["9"], Terms(priority=1, unique="k"))
        assert list(client.submit(["9"], Terms(priority=1, unique="k"))) == [high]
        assert client.retry([2]) == {}
        worker = harness.worker(1)
        handed = []
        for _ in range(5):
            job = take(worker)
            handed.append((job.id, job.attempt))
            settle(worker, job)
        assert handed[0] == (high, 1)
        assert sorted(handed[1:]) == [(2, 1), (4, 1), (5, 1), (7, 1)]
        three = client.job(3)
        assert three is not None
        assert (three["attempts"], [t["attempt"] for t in three["tries"]]) == (2, [2])
        assert client.counts()["dead"] == 0


def test_a_file_that_is_brought_up_to_date_is_like_a_new_one(first: Path, tmp_path: Path) -> None:
    Store(str(first)).close()
    Store(str(tmp_path / "new.db")).close()
    shapes = []
    for path in (first, tmp_path / "new.db"):
        with closing(sqlite3.connect(path)) as db:
            query = "SELECT name FROM sqlite_master WHERE type = ? ORDER BY name"
            indexes = [name for (name,) in db.execute(query, ("index",))]
            tables = [name for (name,) in db.execute(query, ("table",))]
            parts = [db.execute(f"PRAGMA index_info({name})").fetchall() for name in indexes]
            columns = [db.execute(f"PRAGMA table_info({name})").fetchall() for name in tables]
            shapes.append((indexes, parts, tables, columns))
    assert shapes[0] == shapes[1]


def test_a_newer_file_is_refused_by_name_and_left_as_it_is(first: Path) -> None:
    with closing(sqlite3.connect(first)) as db:
        db.execute("PRAGMA user_version=99")
    before = first.read_bytes()
    for look in (Store, View):
        with pytest.raises(StorageError, match=r"jobs\.db: written by a newer graced .*99"):
            look(str(first))
    assert first.read_bytes() == before


def test_what_many_waiting_jobs_are_asked_for_is_found_by_an_index(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "jobs.db"))
    asked: list[str] = []
    store._db.set_trace_callback(asked.append)
    store.ahead(0, (-1, 0), 9)
    store.priorities()
    store.holder("k")
    store._db.set_trace_callback(None)
    plans = [str(store._db.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()) for query in asked]
    store.close()
    assert len(plans) == 4
    assert not any("SCAN jobs" in plan or "TEMP B-TREE" in plan for plan in plans), plans
