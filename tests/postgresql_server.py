"""A PostgreSQL of the tests' own: in a folder of its own, on a Unix socket and a port of loopback.

It ends with the tests, and no other server on this machine is touched.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from ports import free_port

if TYPE_CHECKING:
    import psycopg

DEADLINE = 60  # seconds; only reached by a failure
SETTINGS = (
    "fsync=off",  # nobody pulls the plug of a test
    "max_connections=40",
    "shared_buffers=16MB",
    "autovacuum_naptime=5s",
    "log_min_messages=warning",
)


class PostgreSQL:
    """One server. Each queue of a test is in a schema of its own."""

    scheme = "postgresql"

    def __init__(self, bin: str, folder: str) -> None:
        self._bin = bin
        self.folder = folder
        self.port = free_port()
        self._schemas = 0
        self._as = _unprivileged(folder)

    def run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self._as, f"{self._bin}/{program}", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=self.folder,
            timeout=DEADLINE,
            check=False,
        )
        assert done.returncode == 0, done.stdout.decode()

    def make(self) -> None:
        self.run("initdb", "-D", "data", "-A", "trust", "-U", "graced", "--no-sync", "-E", "UTF8")

    def start(self) -> None:
        words = [f"-k {self.folder} -p {self.port} -h 127.0.0.1", *(f"-c {s}" for s in SETTINGS)]
        # What it prints goes to a file: pg_ctl would wait for the end of a pipe.
        self.run("pg_ctl", "-D", "data", "-l", "log", "-w", "-s", "-o", " ".join(words), "start")

    def stop(self, how: str = "fast") -> None:
        self.run("pg_ctl", "-D", "data", "-w", "-s", "-m", how, "stop")

    def url(self, schema: str | None = None, **parameters: str) -> str:
        """Return the URL of a schema, by default one that nobody has had."""
        if schema is None:
            self._schemas += 1
            schema = f"s{self._schemas}"
        words = [f"schema={schema}", *(f"{name}={value}" for name, value in parameters.items())]
        return f"postgresql://graced@127.0.0.1:{self.port}/postgres?{'&'.join(words)}"

    def bare(self, password: str) -> str:
        """Return the URL, with a password, of a schema that is not there yet."""
        return self.url(password=password)

    def made(self) -> str:
        """Return the URL of a new schema that has all tables."""
        from graced.queue.postgresql.setup import make

        url = self.url()
        make(url)
        return url

    def connect(self, *, autocommit: bool = False) -> psycopg.Connection[Any]:
        """Connect as anybody would, with psycopg."""
        import psycopg

        address = f"postgresql://graced@127.0.0.1:{self.port}/postgres"
        return psycopg.connect(address, autocommit=autocommit)

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement."""
        with self.connect(autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """Run a server. Skips where none is installed."""
    pytest.importorskip("psycopg", exc_type=ImportError)
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin") + glob.glob("/usr/pgsql-*/bin"))
    bin = os.path.dirname(shutil.which("initdb") or "") or (found[-1] if found else "")
    if not bin:
        pytest.skip("no PostgreSQL server is installed")
    folder = tempfile.mkdtemp(prefix="graced-pg-", dir="/tmp")  # a socket's path is short
    try:
        server = PostgreSQL(bin, folder)
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged(folder: str) -> list[str]:
    """Return what makes a command run as a user that a server lets itself be run by."""
    if os.geteuid() != 0:
        return []
    import pwd

    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        user = pwd.getpwnam("nobody")
    os.chown(folder, user.pw_uid, user.pw_gid)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
