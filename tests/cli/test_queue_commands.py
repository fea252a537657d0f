"""`graced queue`: each server is asked, whatever the others say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graced.cli import main

pytest.importorskip("redis")
HERE = "redis://:s3cret@127.0.0.1:1/0"
THERE = "redis://:s3cret@127.0.0.1:2/0"


@pytest.fixture
def config(tmp_path: Path) -> str:
    """Return the file of a daemon with queues on two servers that are not there."""
    path = tmp_path / "config.yaml"
    pool = {"worker": "graced.workers:Command"}
    pools = {"a": {**pool, "queue": HERE}, "b": {**pool, "queue": THERE}}
    path.write_text(json.dumps({"pools": pools}))
    return str(path)


@pytest.mark.parametrize("action", ["init", "status"])
def test_each_server_is_told_of(
    action: str, config: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["queue", action, "-c", config]) == 1
    told = capfd.readouterr().err
    assert ("127.0.0.1:1/0: " in told, "127.0.0.1:2/0: " in told) == (True, True)
    assert "s3cret" not in told


def test_what_servers_need_is_printed_once(config: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.main(["queue", "init", "--print", "-c", config]) == 0
    assert capfd.readouterr().out.count("#!lua name=") == 1
