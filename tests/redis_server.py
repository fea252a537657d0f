"""A Redis of the tests' own: in a folder of its own, on a Unix socket and a port of loopback.

It ends with the tests, and no other server on this machine is touched.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ports import free_port

DEADLINE = 60  # seconds; only reached by a failure


class Redis:
    """One server. Each queue of a test has a prefix of its own."""

    scheme = "redis"

    def __init__(self, program: str, folder: str) -> None:
        self._program = program
        self.folder = folder
        self.port = free_port()
        self._prefixes = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        words = f"--bind 127.0.0.1 --port {self.port} --unixsocket {self.folder}/sock --save"
        line = [self._program, *words.split(), "", "--dir", self.folder, "--appendonly", "yes"]
        with Path(self.folder, "log").open("ab") as log:
            self._process = subprocess.Popen([*line, *options], stdout=log, stderr=log)
        end = time.monotonic() + DEADLINE
        while not self._answers():
            assert time.monotonic() < end, Path(self.folder, "log").read_text()
            time.sleep(0.02)

    def _answers(self) -> bool:
        import redis

        try:
            return bool(self.run("PING"))
        except redis.RedisError:
            return False

    def stop(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def url(self, schema: str | None = None, **parameters: str) -> str:
        """Return the URL of a prefix, by default one that no queue has had."""
        if schema is None:
            self._prefixes += 1
            schema = f"s{self._prefixes}"
        words = [f"schema={schema}", *(f"{name}={value}" for name, value in parameters.items())]
        return f"redis://127.0.0.1:{self.port}/0?{'&'.join(words)}"

    def bare(self, password: str) -> str:
        """Return the URL of a user with a password, on a server that has no functions."""
        self.run("FUNCTION", "FLUSH")
        self.run("ACL", "SETUSER", "shop", "on", f">{password}", "~*", "&*", "+@all")
        return self.url().replace("redis://", f"redis://shop:{password}@")

    def made(self) -> str:
        """Return the URL of a new prefix on a server that has our function."""
        from graced.queue.redis.setup import make

        url = self.url()
        make(url)
        return url

    def run(self, *words: str, password: str | None = None) -> Any:
        """Run a command as anybody would, with redis-py."""
        import redis

        with redis.Redis(port=self.port, password=password, decode_responses=True) as client:
            return client.execute_command(*words)


@contextmanager
def redis(*options: str) -> Iterator[Redis]:
    """Run a server. Skips where none is installed."""
    pytest.importorskip("redis")
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        pytest.skip("no Redis server is installed")
    folder = tempfile.mkdtemp(prefix="graced-redis-", dir="/tmp")  # a socket's path is short
    try:
        server = Redis(program, folder)
        server.start(*options)
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
