"""The worker by itself, and jobs through the daemon's queue."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from graced import Discard
from graced.testing import Daemon, worker

from my_app.worker import Digest

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_digest(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with worker(Digest) as one:
        assert one.handle(str(tmp_path / "empty")) == {"sha256": EMPTY, "bytes": 0}
        with pytest.raises(Discard):
            one.handle(42)


def test_a_job_outlives_a_crash(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    running = daemon("config.yaml", command=(sys.executable, "-m", "my_app"))
    number = running.submit(str(tmp_path / "late"), delay=1)
    (tmp_path / "late").touch()
    running.kill()
    running.ended()
    running.start()
    assert running.wait(number) == {"sha256": EMPTY, "bytes": 0}
