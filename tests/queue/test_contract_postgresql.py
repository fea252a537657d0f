"""Queues in PostgreSQL keep the contract of all queues."""

from __future__ import annotations

import re
import select
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread

import pytest
from contract import QueueContract
from keeper_harness import DEADLINE, KeeperHarness
from postgresql_server import PostgreSQL

from graced.log.logger import Log
from graced.queue.address import QueueAddress
from graced.queue.plan import KeeperPlan
from graced.queue.policy import Policy
from graced.queue.postgresql import address, connection
from graced.queue.postgresql.link import VERSION, PostgresLink
from graced.queue.postgresql.setup import make
from graced.queue.protocol import QueueError, StorageError
from graced.queue.servers.engine import ServerEngine
from graced.queue.servers.link import DEAD, DONE, HostName, Settle, Submission, Turn
from graced.queue.terms import Terms
from graced.settings import Pool, Retry


@pytest.fixture
def queue(tmp_path: Path, postgresql_server: PostgreSQL) -> Iterator[KeeperHarness]:
    policy = Policy(retry=Retry(0.01, 2.0, 0.1))
    with KeeperHarness(tmp_path, policy, url=postgresql_server.made()) as harness:
        yield harness.start()


class TestPostgreSQL(QueueContract):
    """The keeper and its server."""


def test_what_is_rung_while_something_else_is_answered_is_heard(
    tmp_path: Path, postgresql_server: PostgreSQL
) -> None:
    url, engine = postgresql_server.made(), ServerEngine(address)
    place = QueueAddress("d1", f"{tmp_path}/sock", f"{tmp_path}/jobs", "postgresql")
    plan = KeeperPlan("jobs", place, Policy(), log=Log(), url=url)
    keeper, told = engine.open_storage(plan, lambda _message: None), select.poll()
    assert keeper.open()
    keeper.commit(keeper.dispatcher, None, lambda _why: None)
    told.register(keeper.fileno(), select.POLLIN)
    with closing(engine.open_offline("", Pool("jobs", queue=url))) as client:
        client.submit(["1"])
    assert told.poll(DEADLINE * 1000)
    assert keeper.counts()["waiting"] == 1
    assert not told.poll(0)
    assert keeper.sleep(idle=True) == 0
    keeper.close()


def test_what_a_queue_reads_does_not_grow_with_those_that_wait(
    postgresql_server: PostgreSQL,
) -> None:
    url, many = postgresql_server.made(), 20_000
    with closing(ServerEngine(address).open_offline("", Pool("jobs", queue=url))) as client:
        client.stream(["1"] * many)
        assert client.counts()["waiting"] == many
    asked = (
        "SELECT seq_tup_read, idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'jobs'"
        f" AND schemaname = '{url.rpartition('=')[2]}' AND n_tup_upd = {many}"
    )
    while not (found := postgresql_server.sql(asked)):
        time.sleep(0.05)  # a PostgreSQL tells what it has done some time later
    [(scanned, fetched)] = found
    assert scanned == 0
    assert fetched <= 5 * many


def test_what_is_listed_or_changed_is_read_alone(postgresql_server: PostgreSQL) -> None:
    url = postgresql_server.made()
    rows, schema = "generate_series(1, 3000) n", url.rpartition("=")[2]
    terms = "priority, due, submitted, payload) SELECT"
    ended = f"INSERT INTO ended (id, queue, dead, at, failures, token, {terms}"
    asked = (
        "look('jobs', -1, true)",
        "look('jobs', 2999, true)",
        "listed('jobs', 'dead', -10, 500)",
        "listed('jobs', 'taken', -10, 500)",
        "listed('other', 'done', -10, 500)",
        "listed('jobs', 'waiting', 3000, 10)",
        "cancel('other', '{-1,4000}')",
        "retry('jobs', '{-1,-50,5,4000}')",
        "drop_jobs('jobs', '{-1,-60,7,4001}')",
        "refusal('jobs', 10, 'u')",
        "maintain('jobs', 60, 10)",
    )
    read = (
        "SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_xact_user_tables"
        f" WHERE schemaname = '{schema}'"
    )
    with postgresql_server.connect() as session:
        session.execute(f"SET search_path = {schema}")
        session.execute("SET plan_cache_mode = force_generic_plan")
        session.execute("INSERT INTO queues VALUES ('jobs', false, 10000)")
        for each in asked:
            session.execute(f"SELECT * FROM {each}")  # planned with nothing there
        session.execute(f"{ended} -1, 'jobs', true, now(), 1, 1, 0, now(), now(), '1'")
        session.execute(
            f"{ended} -n - 10, 'jobs', false, now(), 0, 1, 0, now(), now(), '1' FROM {rows}"
        )
        for queue in ("other", "jobs"):
            session.execute(
                f"INSERT INTO jobs (queue, state, {terms} '{queue}', 0, 0, now(), now(), '1'"
                f" FROM {rows}"
            )
        for each in asked:
            [(before,)] = session.execute(read).fetchall()
            session.execute(f"SELECT * FROM {each}")
            [(after,)] = session.execute(read).fetchall()
            assert after - before <= 20, each


def test_for_all_submissions_of_a_turn_it_is_counted_once(postgresql_server: PostgreSQL) -> None:
    url, many = postgresql_server.made(), 3000
    schema, policy = url.rpartition("=")[2], Policy(max_waiting=many + 7)
    engine = ServerEngine(address)
    with closing(engine.connect(engine.check_url(url), "jobs", "test")) as link:
        link.join(HostName("d1/jobs/1", "h1", "p1"), 60.0, policy)
        link.submit(["1"] * many, Terms())
        wanted = [
            Submission(["1"], Terms(unique="a")),
            Submission(["1"] * 4, Terms()),
            Submission(["1"], Terms(unique="a")),
            Submission(["1"] * 3, Terms()),
            Submission(["1"] * 2, Terms(delay=60.0)),
            *[Submission(["1"], Terms())] * 10,
        ]
        accepted = link.turn(Turn(60.0, submissions=wanted), policy).accepted
        assert link.counts()["waiting"] == many + 7
    assert accepted[0] == accepted[2]
    refused = [n for n, told in enumerate(accepted) if isinstance(told, str)]
    assert refused == [3, *range(5, 15)]
    assert f"{many + 5} jobs wait and max_waiting is {many + 7}, too few for 3" in str(accepted[3])
    asked = (
        "SELECT idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'jobs'"
        f" AND schemaname = '{schema}' AND n_tup_ins = {many + 7}"
    )
    while not (found := postgresql_server.sql(asked)):
        time.sleep(0.05)  # a PostgreSQL tells what it has done some time later
    assert found[0][0] <= 3 * many


def test_nobody_waits_for_a_transaction_that_is_open_and_has_the_same_unique_key(
    postgresql_server: PostgreSQL,
) -> None:
    url, engine, policy = postgresql_server.made(), ServerEngine(address), Policy()
    submit = f"SELECT {url.rpartition('=')[2]}.submit('jobs', '1', unique_key => 'u')"
    key, later = Terms(unique="u"), "that is open .*same unique key"
    instant = Submission(["4"], Terms(unique="u", schedule="s", scheduled=1000))
    with (
        postgresql_server.connect() as other,
        closing(engine.connect(engine.check_url(url), "jobs", "test")) as link,
    ):
        link.join(HostName("d1/jobs/1", "h1", "p1"), 60.0, policy)
        [dead] = link.submit(["0"], key)
        [job] = link.turn(Turn(60.0, idle=["d1:1"]), policy).jobs
        link.turn(Turn(60.0, [Settle(dead, job.token, DEAD, "{}")]), policy)
        [id] = link.submit(["0"], Terms())
        other.execute(submit)
        wanted = [Submission(["2"], key)] * 100 + [instant]
        wanted.append(Submission(["3"], Terms(unique="v")))
        answer = link.turn(Turn(60.0, submissions=wanted, idle=["d1:1"]), policy)
        assert all(re.search(later, str(told)) for told in answer.accepted[:101])
        assert isinstance(answer.accepted[101], list)
        assert [job.id for job in answer.jobs] == [id], "all else goes on"
        with pytest.raises(QueueError, match=later):
            link.submit(["2"], key)
        assert re.search(later, link.retry([dead])[dead])
        end = time.monotonic() + 20
        for _ in range(50):  # as of clients that try it again and again
            link.turn(Turn(60.0, submissions=[instant]), policy)
            assert time.monotonic() < end, "each turn waits"
        other.rollback()
        [[id]] = link.turn(Turn(60.0, submissions=[instant]), policy).accepted
        assert other.execute(submit).fetchall() == [(id,)]


def test_two_keepers_with_the_same_unique_keys_do_not_wait_for_each_other(
    postgresql_server: PostgreSQL,
) -> None:
    url, engine, told = postgresql_server.made(), ServerEngine(address), {}
    keys = [f"u{n}" for n in range(200)]

    def submit(name: str, wanted: list[str]) -> None:
        with closing(engine.connect(engine.check_url(url), "jobs", name)) as link:
            link.join(HostName(name, name, name), 60.0, Policy())
            new = [Submission(["1"], Terms(unique=key)) for key in wanted]
            accepted = [link.turn(Turn(60.0, submissions=new), Policy()).accepted for _ in "12"]
            told[name] = [dict(zip(wanted, each, strict=True)) for each in accepted]

    threads = [Thread(target=submit, args=args) for args in (("a", keys), ("b", keys[::-1]))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, *others = [*told["a"], *told["b"]]
    assert sorted(first) == sorted(keys)
    assert len({str(ids) for ids in first.values()}) == len(keys)
    assert all(other == first for other in others)


def test_init_leaves_alone_what_a_newer_graced_has_made(postgresql_server: PostgreSQL) -> None:
    url, engine = postgresql_server.made(), ServerEngine(address)
    schema = url.rpartition("=")[2]
    postgresql_server.sql(
        f"UPDATE {schema}.meta SET version = {VERSION + 1};"
        f" CREATE OR REPLACE FUNCTION {schema}.bell(queue text) RETURNS text"
        " LANGUAGE sql AS 'SELECT ''new'''"
    )
    told = rf"newer graced \(version {VERSION + 1}, ours is {VERSION}\); upgrade graced"
    for refused in (engine.init, lambda url: engine.status(url, "jobs", "")):
        with pytest.raises(StorageError, match=told):
            refused(url)
    asked = f"SELECT version, {schema}.bell('jobs') FROM {schema}.meta"
    assert postgresql_server.sql(asked) == [(VERSION + 1, "new")]


def test_init_makes_nothing_on_a_server_that_is_too_old(
    postgresql_server: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgresql_server.url()
    monkeypatch.setattr(connection, "OLDEST", 10_000_000)
    with pytest.raises(StorageError, match=r": PostgreSQL \d+; 13 or newer is needed"):
        ServerEngine(address).init(url)
    asked = f"SELECT count(*) FROM pg_namespace WHERE nspname = '{url.rpartition('=')[2]}'"
    assert postgresql_server.sql(asked) == [(0,)]


def test_a_database_that_has_not_every_character_is_refused(postgresql_server: PostgreSQL) -> None:
    postgresql_server.sql("CREATE DATABASE latin ENCODING LATIN1 LOCALE 'C' TEMPLATE template0")
    url = postgresql_server.url().replace("/postgres?", "/latin?")
    with pytest.raises(StorageError, match=r"LATIN1, .* make another one with ENCODING 'UTF8'"):
        make(url)


def test_a_role_whose_transactions_are_serializable_has_usual_ones(
    postgresql_server: PostgreSQL,
) -> None:
    options = "&options=-cdefault_transaction_isolation%3Dserializable"
    engine = ServerEngine(address)
    url = engine.check_url(postgresql_server.made() + options)
    with closing(PostgresLink(url, "jobs", "test")) as link:
        [[level]] = link._connection.run("SHOW transaction_isolation", limit=DEADLINE)
    assert level == b"read committed"


def test_of_what_is_forgotten_no_attempt_is_left(postgresql_server: PostgreSQL) -> None:
    url, policy, engine = postgresql_server.made(), Policy(), ServerEngine(address)
    asked = f"SELECT count(*) FROM {url.rpartition('=')[2]}.attempts"
    with closing(engine.connect(engine.check_url(url), "jobs", "test")) as link:
        link.join(HostName("d1/jobs/1", "h1", "p1"), 60.0, policy)
        [id] = link.submit(["1"], Terms())
        for kind, text in ((DEAD, "{}"), (DONE, None)):
            [job] = link.turn(Turn(60.0, idle=["w"]), policy).jobs
            link.turn(Turn(60.0, [Settle(id, job.token, kind, text)]), policy)
            link.retry([id])
        assert postgresql_server.sql(asked) == [(1,)]
        while link.look(id):
            link.maintain(0.0)
    assert postgresql_server.sql(asked) == [(0,)]
