"""The program in the daemon."""

import os
import signal
import socket
import sys
import urllib.request
from collections.abc import Callable

from graced.testing import Daemon


def test_it_serves_and_is_started_again(daemon: Callable[..., Daemon]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    argv = f'["{sys.executable}", -m, http.server, --bind, 127.0.0.1, "{port}"]'
    running = daemon(
        "config.yaml",
        f"pools.web.options.argv={argv}",
        f"pools.web.options.ready=tcp://127.0.0.1:{port}",
        command=(sys.executable, "-m", "my_app"),
    )
    [worker] = running.status()["pools"]["web"]["workers"]
    os.kill(worker["pid"], signal.SIGKILL)
    running.until(lambda: running.status()["pools"]["web"]["deaths"] == 1 or None)
    running.until(lambda: running.status()["pools"]["web"]["ready"] == 1 or None)
    assert urllib.request.urlopen(f"http://127.0.0.1:{port}/").status == 200
    assert running.stop() == 0
