"""URLs of queues on a server: what is read of them, and what is never shown."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys

import pytest

from graced.config.nodes import Mark
from graced.config.scalars import ConfigValueError
from graced.config.validators import queue
from graced.queue import engines
from graced.queue.address import QueueURLError
from graced.queue.engines import missing_library
from graced.queue.redis.address import check_url as check_redis
from graced.queue.servers import url

FULL = "postgresql://me:s3%21t@db.example:5432/shop?sslmode=require&password=other&queue=q&poll=1s"


def test_an_empty_query_is_none() -> None:
    assert url.read("postgresql://me:s3cret@h/d?", "").secrets == ("s3cret",)


def test_what_is_ours_is_taken_off_and_what_is_secret_is_hidden() -> None:
    found = url.read(FULL, "")
    assert found.library == (
        "postgresql://me:s3%21t@db.example:5432/shop?sslmode=require&password=other"
    )
    assert (found.queue, found.schema, found.poll) == ("q", "graced", 1.0)
    assert found.shown == url.shown(FULL)
    for secret in ("s3%21t", "s3!t", "other"):
        assert secret not in found.shown
        assert secret not in found.scrub(f"could not log in with {secret}")


@pytest.mark.parametrize("text", ["poll=0", "poll=soon", "queue=", "schema=pg_x", "schema="])
def test_parameters_that_cannot_be_are_refused_without_the_password(text: str) -> None:
    with pytest.raises(QueueURLError) as refused:
        url.read(f"postgresql://me:s3cret@h/d?{text}", "write another one")
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize("secret", ["a/s3cret", "s3cret?b", "a#s3cret", "s3cret@b", "1/s3cret@b?c"])
def test_a_password_that_should_be_quoted_is_hidden_and_refused(secret: str) -> None:
    wrong = f"postgresql://me:{secret}@h/d?user=a@b"
    with pytest.raises(QueueURLError, match="%40, %2F"):
        url.read(wrong, "")
    assert url.shown(wrong).startswith("postgresql://me:***@")
    assert "s3cret" not in url.shown(wrong)


@pytest.mark.parametrize(
    "plain",
    [
        "postgresql://h:5432/d?user=a@b",
        "postgresql://h1:5432,h2:5433/d",
        "postgresql://[::1]:5432/d?user=a@b",
        "postgresql://me@[::1]:5432/d",
        "redis://h:6379/0",
        "unix:///run/redis:1.sock?db=1",
        "sqlite:////srv/a:b@c.db",
    ],
)
def test_a_url_without_a_password_is_shown_as_it_is(plain: str) -> None:
    assert url.shown(plain) == plain


@pytest.mark.parametrize(
    "text",
    [
        "POSTGRESQL://u:s3cret@h/d",
        "postgresql://h/d?PASSWORD=s3cret",
        "postgresql://h/d?pass%77ord=s3cret",
        "sqlite://u:s3cret@h/d",
        "postgresql+psycopg://u:s3cret@h/d",
        "postgresql:/u:s3cret@h/d",
        "postgresql:u:s3cret@h/d",
        "rediss://h/0?ssl_password=s3cret",
    ],
)
def test_a_password_is_hidden_however_it_is_spelt(text: str) -> None:
    assert "s3cret" not in url.shown(text)


@pytest.mark.parametrize(
    ("mine", "anybodys"),
    [
        ("redis://h/0", "redis://h/0?queue=thumbs"),
        ("postgresql://h/d?schema=s", "postgresql://h/d?schema=s&queue=thumbs"),
        ("redis://h/0?queue=q", "redis://h/0?queue=q"),
    ],
)
def test_the_url_by_which_any_pool_has_a_queue_names_the_queue(mine: str, anybodys: str) -> None:
    assert engines.engine_of(mine).described(mine, "/s/thumbs.queue") == (mine, anybodys)


@pytest.mark.parametrize("place", ["h:port/0", "h:99999/0", "h/shop", "h/-1"])
def test_a_place_where_no_redis_can_be_is_refused(place: str) -> None:
    with pytest.raises(QueueURLError) as refused:
        check_redis(f"redis://:s3cret@{place}")
    assert "s3cret" not in str(refused.value)
    assert check_redis("redis://:s3cret@h:6379/3").queue is None
    assert check_redis("unix:///run/redis.sock?db=1").queue is None


def test_a_missing_library_is_said_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert missing_library("sqlite:///jobs.db") is None
    with pytest.raises(ConfigValueError) as refused:
        queue("postgresql://me:s3cret@h/d", Mark(None, 1, 1))  # type: ignore[arg-type]
    told = f"{refused.value} {refused.value.remedy}"
    assert "pip install 'graced[postgresql]'" in told
    assert "apt install python3-psycopg" in told
    assert "s3cret" not in told


@pytest.mark.parametrize(
    ("start", "server"),
    [
        ("postgresql:", "postgresql"),
        ("postgres:", "postgresql"),  # libpq takes both
        ("redis:", "redis"),
        ("rediss:", "redis"),
        ("unix:/", "redis"),
    ],
)
def test_who_takes_a_url(start: str, server: str) -> None:
    known = re.compile(f"^{engines.url_pattern()}$")  # as in the schema
    assert engines.server_of(f"{start}//h/d") == server
    assert known.search(f"{start}//h/d")
    assert not known.search(f"my {start}//h/d")


def test_a_psycopg_without_libpq_says_what_brings_one() -> None:
    pytest.importorskip("psycopg")
    code = "from graced.queue.postgresql.connection import client_library; client_library()"
    environ = {**os.environ, "PSYCOPG_IMPL": "none-such"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False
    )
    assert "psycopg finds no libpq; pip install 'psycopg[binary]', or" in done.stderr
