"""The worker, in the daemon."""

import socket
import sys
from collections.abc import Callable

import pytest
from graced import JobDead
from graced.testing import Daemon


def test_many_at_once(daemon: Callable[..., Daemon]) -> None:
    running = daemon("config.yaml", command=(sys.executable, "-m", "my_app"))
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        address = {"host": "127.0.0.1", "port": server.getsockname()[1]}
        for number in [running.submit(address) for _ in range(20)]:
            assert running.wait(number)["seconds"] >= 0
    with pytest.raises(JobDead, match="write"):
        running.wait(running.submit("nowhere"))
    assert running.stop() == 0
