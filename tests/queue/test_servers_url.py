"""URLs of queues on a server: what is read of them, and what is never shown."""

from __future__ import annotations

import importlib.util

import pytest

from graced.config.nodes import Mark
from graced.config.scalars import ConfigValueError
from graced.config.validators import queue
from graced.queue.address import QueueURLError
from graced.queue.engines import missing_library
from graced.queue.servers import url

FULL = "postgresql://me:s3%21t@db.example:5432/shop?sslmode=require&password=other&queue=q&poll=1s"


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


def test_a_missing_library_is_said_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert missing_library("sqlite:///jobs.db") is None
    with pytest.raises(ConfigValueError) as refused:
        queue("postgresql://me:s3cret@h/d", Mark(None, 1, 1))  # type: ignore[arg-type]
    told = f"{refused.value} {refused.value.remedy}"
    assert "pip install 'graced[postgresql]'" in told
    assert "apt install python3-psycopg" in told
    assert "s3cret" not in told
