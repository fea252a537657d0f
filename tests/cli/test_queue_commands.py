"""`graced queue`: each server is asked, whatever the others say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graced.cli import main
from graced.queue.sqlite.offline import FileEnd
from graced.settings import Pool

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


def test_of_a_file_it_is_told_what_is_in_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"state_dir": str(tmp_path), "pools": {"a": {}, "b": {}}}))
    assert main.main(["queue", "status", "-c", str(path)]) == 1
    assert "there is no queue yet" in capfd.readouterr().err
    file = FileEnd(f"{tmp_path}/a.db", Pool("a"))
    file.submit(['"1"'] * 2)
    file.stream(['"1"'] * 3)
    file.close()
    assert main.main(["queue", "status", "--json", "-c", str(path)]) == 0
    told = json.loads(capfd.readouterr().out)
    counts = {"waiting": 5, "taken": 0, "done": 0, "dead": 0, "paused": False}
    assert {name: queue["counts"] for name, queue in told.items()} == {"a": counts}
