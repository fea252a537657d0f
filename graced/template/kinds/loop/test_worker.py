"""The worker by itself, and in the daemon."""

import sys
from collections.abc import Callable

import pytest
from graced.testing import Daemon, worker

from my_app.worker import DiskWatch


def test_it_warns_above_the_limit(caplog: pytest.LogCaptureFixture) -> None:
    with worker(DiskWatch, {"limit": 0, "every": 0}) as one:
        one.step()
    assert "/ is " in caplog.text
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_it_looks_again(daemon: Callable[..., Daemon]) -> None:
    running = daemon(
        "config.yaml", "pools.watch.options.every=0.01", command=(sys.executable, "-m", "my_app")
    )
    running.log.wait(r"/: \d+\.\d % of 90 %|/ is \d+\.\d % full", 3)
    assert running.stop() == 0
