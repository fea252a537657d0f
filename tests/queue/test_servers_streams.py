"""A long stream that does not come to its end is forgotten in steps: nobody waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import pytest

from graced.queue.policy import Policy
from graced.queue.postgresql import address as postgresql
from graced.queue.protocol import QueueError, StorageError
from graced.queue.redis import address as redis
from graced.queue.servers.engine import ServerEngine
from graced.queue.servers.link import HostName, Link, Turn
from graced.queue.terms import Terms
from graced.settings import Pool

STEP = 1000
LONG = 2 * STEP + 1


class Place:
    """A queue on a server, and how many jobs are kept there, whether anybody sees them or not."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        server = request.getfixturevalue(f"{request.param}_server")
        self.engine = ServerEngine(postgresql if request.param == "postgresql" else redis)
        self.url = server.made()
        schema = self.url.rpartition("=")[2]
        self.kept: Callable[[], int] = {
            "postgresql": lambda: server.sql(f"SELECT count(*) FROM {schema}.jobs")[0][0],
            "redis": lambda: len(server.run("KEYS", f"{schema}:*:job:*")),
        }[request.param]

    def link(self) -> Link:
        return self.engine.connect(self.engine.check_url(self.url), "jobs", "test")


@pytest.fixture(params=["postgresql", "redis"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    return Place(request)


def staged(link: Link) -> int:
    stream = link.open_stream()
    for count in (STEP, STEP, 1):
        assert len(link.stage(stream, ["1"] * count, Terms())) == count
    return stream


def test_that_of_a_client(place: Place) -> None:
    with closing(place.link()) as link:
        stream = staged(link)
        link.abort_stream(stream)
        assert place.kept() == LONG - STEP
        for too_late in (
            lambda: link.stage(stream, ["1"], Terms()),
            lambda: link.commit_stream(stream, Terms()),
        ):
            with pytest.raises((QueueError, StorageError), match="the stream is gone"):
                too_late()
        while link.maintain(60.0):
            pass
        assert place.kept() == link.counts()["waiting"] == 0


def test_that_of_a_host_which_is_not_heard_of(place: Place) -> None:
    with closing(place.link()) as gone, closing(place.link()) as other:
        gone.join(HostName("d1/jobs/1", "h1", "p1"), -1.0, Policy())
        other.join(HostName("d2/jobs/1", "h2", "p2"), 60.0, Policy())
        staged(gone)
        assert [e.host for e in other.turn(Turn(60.0, looks=True), Policy()).expired] == ["h1"]
        assert place.kept() == LONG - STEP
        while other.maintain(60.0):
            pass
        assert place.kept() == 0


def test_without_a_daemon_nothing_is_left(place: Place) -> None:
    def broken() -> Iterator[str]:
        yield from ["1"] * LONG
        raise ValueError

    with closing(place.engine.open_offline("", Pool("jobs", queue=place.url))) as client:
        with suppress(ValueError):
            client.stream(broken())
        assert place.kept() == 0
