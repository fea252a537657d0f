"""The worker by itself, and at the daemon's socket."""

import socket
import sys
from collections.abc import Callable
from pathlib import Path

from graced.testing import Daemon, worker

from my_app.worker import Daytime


def test_daytime() -> None:
    client, server = socket.socketpair()
    with client, server, worker(Daytime) as one:
        one.handle(server, "test")
        assert client.recv(100).endswith(b"-UTC\r\n")


def test_a_reload_refuses_nobody(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    listen = f"pools.daytime.listen=unix://{tmp_path}/daytime.sock"
    running = daemon("config.yaml", listen, command=(sys.executable, "-m", "my_app"))
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{tmp_path}/daytime.sock")
            assert client.makefile().readline().endswith("-UTC\n")
        running.reload()
    assert running.stop() == 0
