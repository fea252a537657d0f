"""The daemon as it is run: its own command, and both configurations."""

import subprocess
import sys
from collections.abc import Callable

import pytest
from graced.testing import Daemon

COMMAND = (sys.executable, "-m", "my_app")


def test_it_starts_reloads_and_stops(daemon: Callable[..., Daemon]) -> None:
    running = daemon("config.yaml", command=COMMAND)
    assert running.status()["ready"]
    running.reload()
    assert running.status()["generation"] == 2
    assert running.stop() == 0


@pytest.mark.parametrize("config", ["config.yaml", "packaging/config.yaml"])
def test_configurations_are_right(config: str) -> None:
    assert subprocess.call([*COMMAND, "check", "-c", config]) == 0
