"""Daemons that share a queue on a server: each promise of that, against real ones."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_harness import TESTS, Daemon, children, comm
from postgresql_server import PostgreSQL
from redis_server import Redis

HERE = str(TESTS / "queue")
LEASE = 5.0  # seconds, the shortest there is


class Host(Daemon):
    """One of several daemons, with a place of its own."""

    def __init__(self, home: Path, name: str, url: str, locks: Path) -> None:
        home.mkdir()
        super().__init__(home)
        self.name = name
        self.url = url
        self.locks = locks

    def serve(self, workers: int = 1, lease: str = "30s", **keys: Any) -> Host:
        self.pool(
            "sample_job_workers:Locking",
            workers=workers,
            path=[HERE, str(TESTS)],
            queue=self.url,
            lease=lease,
            options={"locks": str(self.locks), "host": self.name},
            **{"stop_timeout": "1s", **keys},
        )
        self.start().ready()
        return self

    def submitted(self, payload: object) -> int:
        return int(self.demand("submit", "--json", json.dumps(payload)))

    def job(self, id: int) -> dict[str, Any]:
        found = [json.loads(line) for line in self.demand("jobs", "--json").splitlines()]
        return next(job for job in found if job["id"] == id)

    def keeper(self) -> int:
        return next(pid for pid in children(self.pid) if comm(pid) == "graced-keeper")

    def begun(self, id: int, token: int) -> None:
        """Wait until a hand-out of a job has begun here."""
        self.events.wait(rf"^begin {id} {token} ")


Server = PostgreSQL | Redis


@pytest.fixture(params=["postgresql", "redis"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(f"{request.param}_server")
    return found


@pytest.fixture
def url(server: Server) -> str:
    return server.made()


@pytest.fixture
def hosts(tmp_path: Path, url: str) -> Iterator[tuple[Host, Host]]:
    locks = tmp_path / "locks"
    locks.mkdir()
    locks.chmod(0o777)
    with Host(tmp_path / "a", "a", url, locks) as a, Host(tmp_path / "b", "b", url, locks) as b:
        yield a, b


def go(host: Host, *ids: int) -> None:
    """Let these jobs end; if none are named, all."""
    for name in map("go-{}".format, ids) if ids else ["go"]:
        (host.locks / name).touch()


def in_order(a: Host, b: Host) -> None:
    """No job ran twice at once: the second would not have got the lock."""
    assert not a.events.matching("overlap")
    assert not b.events.matching("overlap")


def test_a_death_gives_jobs_back_at_once_and_so_does_a_restart(hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    a.serve(lease="1h")  # nothing here waits for its end
    id = a.submitted("politely")
    a.begun(id, 1)
    b.serve(lease="1h")
    os.kill(a.worker_pids()[0], signal.SIGKILL)
    a.until(lambda: a.events.matching(f"^begin {id} 2") or b.events.matching(f"^begin {id} 2"))
    had, other = (a, b) if a.events.matching(f"^begin {id} 2") else (b, a)
    for pid in [*children(had.pid), had.pid]:
        os.kill(pid, signal.SIGKILL)
    had.ended()
    assert other.job(id)["state"] == "taken", "nobody can know that its host is gone"
    had.start().ready()
    a.until(lambda: a.events.matching(f"^begin {id} 3") or b.events.matching(f"^begin {id} 3"))
    go(a)
    done = a.until(lambda: (job := a.job(id))["state"] == "done" and job)
    assert done["attempts"] == 3
    in_order(a, b)


def test_a_host_that_cannot_renew_its_lease_has_no_job_when_that_ends(
    hosts: tuple[Host, Host],
) -> None:
    a, b = hosts
    kinds = ("politely", "critical", "blocked", "politely")
    a.serve(len(kinds), f"{LEASE}s")
    ids = [a.submitted(kind) for kind in kinds]
    for id in ids:
        a.begun(id, 1)
    b.serve(len(kinds), f"{LEASE}s")
    keeper = a.keeper()
    os.kill(keeper, signal.SIGSTOP)
    go(a, ids[3])  # its worker ends the job, and nobody hears it
    a.events.wait(f"^end {ids[3]} 1")
    for id in ids:  # B gets them once the server has not heard of A for so long
        b.begun(id, 2)
    a.log.wait("the lease of its queue is not renewed")
    in_order(a, b)
    queue = a.status()["pools"]["jobs"]["queue"]
    assert (queue["lease_left"], "is stopped" in queue["trouble"]) == (0, True)
    go(b)
    for id in ids:
        done = b.until(lambda id=id: (job := b.job(id))["state"] == "done" and job)
        assert done["result"] == "b"
        shown = json.loads(b.demand("jobs", "show", str(id), "--json"))
        assert f"was not heard of for {LEASE:g} s" in shown["tries"][0]["evidence"]["reason"]
        assert shown["tries"][0]["counts"]
    os.kill(keeper, signal.SIGCONT)
    a.log.wait(f"job {ids[3]}: settled too late")
    again = a.submitted("politely")
    a.until(lambda: a.job(again)["state"] == "done")
    assert a.status()["pools"]["jobs"]["queue"]["lease_left"] > 0
    assert b.job(ids[3])["result"] == "b"


def test_a_server_that_is_gone_for_a_while_costs_nothing(
    hosts: tuple[Host, Host], server: Server
) -> None:
    a, _ = hosts
    a.serve()
    id = a.submitted("politely")
    a.begun(id, 1)
    worker, keeper = a.worker_pids()[0], a.keeper()
    server.stop()
    try:
        a.log.wait(f"queue jobs: {server.scheme}://")
        refused = a.run("submit", "--json", "1")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert f"{server.scheme}://" in refused.stderr
        refused = a.run("pause", "jobs")
        assert (refused.returncode, "server can't be reached" in refused.stderr) == (1, True)
        assert "trouble" in a.status()["pools"]["jobs"]["queue"]
        go(a)
        a.events.wait(f"^end {id} 1")
    finally:
        server.start()
    a.log.wait("queue jobs: works again")
    done = a.until(lambda: (job := a.job(id))["state"] == "done" and job)
    assert (done["attempts"], a.worker_pids(), a.keeper()) == (1, [worker], keeper)
    again = a.submitted("politely")
    a.until(lambda: a.job(again)["state"] == "done")


def test_a_server_that_is_back_when_the_daemon_hears_of_it_is_no_trouble(
    hosts: tuple[Host, Host], server: Server
) -> None:
    a, _ = hosts
    a.serve()
    a.begun(a.submitted("politely"), 1)
    os.kill(a.pid, signal.SIGSTOP)
    try:
        server.stop()
        a.until(lambda: a.run("submit", "--json", '"politely"').returncode != 0)
        server.start()
        a.until(lambda: a.run("submit", "--json", '"politely"').returncode == 0)
    finally:
        os.kill(a.pid, signal.SIGCONT)
    a.log.wait("queue jobs: works again")
    assert "trouble" not in a.status()["pools"]["jobs"]["queue"]
    go(a)


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
def test_what_is_submitted_in_sql_is_committed_with_it_or_not_at_all(
    hosts: tuple[Host, Host], postgresql_server: PostgreSQL, url: str
) -> None:
    a, _ = hosts
    go(a)
    a.serve()
    schema = url.partition("schema=")[2]
    call = (
        f"SELECT {schema}.submit('jobs', '{{\"path\": \"a.png\"}}', delay => '0.1 s',"
        " priority => 5, unique_key => 'a.png')"
    )
    postgresql_server.sql(f"BEGIN; {call}; ROLLBACK")
    [(id,)] = postgresql_server.sql(call)
    done = a.until(lambda: (job := a.job(id))["state"] == "done" and job)
    assert (done["priority"], done["unique"]) == (5, "a.png")
    assert done["payload"] == {"path": "a.png"}
    assert len(a.demand("jobs", "--json").splitlines()) == 1


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
def test_a_job_that_was_passed_over_while_somebody_asked_for_it_begins_at_once(
    hosts: tuple[Host, Host], postgresql_server: PostgreSQL, url: str
) -> None:
    psycopg = pytest.importorskip("psycopg")
    a, _ = hosts
    a.serve(lease="1h")  # nobody looks again before
    first, asked, last = (a.submitted("politely") for _ in range(3))
    a.begun(first, 1)
    schema = url.partition("schema=")[2]
    with psycopg.connect(postgresql_server.url().partition("?")[0]) as connection:
        connection.execute(f"SELECT {schema}.look('jobs', {asked}, true)")
        go(a, first, last)
        a.until(lambda: a.job(last)["state"] == "done")
        assert a.job(asked)["state"] == "waiting"
    a.begun(asked, 1)
    go(a)
    a.until(lambda: a.job(asked)["state"] == "done")


def test_without_what_init_makes_the_pool_says_what_to_do(
    hosts: tuple[Host, Host], server: Server
) -> None:
    a, _ = hosts
    go(a)
    a.url = server.bare("s3cret")
    a.serve()
    a.log.wait("run `graced queue init`")
    queue = a.status()["pools"]["jobs"]["queue"]
    assert ("queue init" in queue["trouble"], queue["waiting"]) == (True, None)
    assert (queue["engine"], queue["lease_left"]) == (server.scheme, None)
    status = a.run("queue", "status")
    assert (status.returncode, "queue init" in status.stderr) == (1, True)
    a.demand("queue", "init")
    a.log.wait("queue jobs: .* is open")
    a.demand("queue", "init")  # again, as after an upgrade
    id = a.submitted("politely")
    a.until(lambda: a.job(id)["state"] == "done")
    [queue] = json.loads(a.demand("queue", "status", "--json")).values()
    assert (queue["engine"], queue["counts"]["done"]) == (server.scheme, 1)
    assert [host["taken"] for host in queue["hosts"]] == [0]
    assert f", daemon {a.status()['name']}: 0 in hand, lease good" in a.demand("queue", "status")
    assert "function" in a.demand("queue", "init", "--print").lower()
    a.demand("check", "--show")
    assert "s3cret" not in a.said() + json.dumps(a.status()) + a.demand("check", "--show")
    a.send(signal.SIGTERM)
    a.ended(0)
    assert json.loads(a.demand("queue", "status", "--json"))["jobs"]["hosts"] == []
    alone = int(a.demand("submit", "--json", "1"))  # without a daemon
    assert a.job(alone)["state"] == "waiting"
