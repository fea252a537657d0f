"""Servers of our own for queues: PostgreSQL and Redis, which commit as durably as they can.

Each is in a folder of its own, listens where it is told, and no other one is touched.
"""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.stage import Trouble
from graced.queue.postgresql.setup import make as make_postgresql
from graced.queue.redis.setup import make as make_redis

DEADLINE = 60.0  # seconds; only failures get here


class Server:
    """One server; a context manager that leaves nothing behind."""

    name = ""
    port = 0
    program = ""

    def __init__(self, host: str = "127.0.0.1") -> None:
        """Make its folder; it does not run yet."""
        self.host = host
        self.port = _free_port(host)
        self.folder = Path(tempfile.mkdtemp(prefix="graced-server-", dir="/tmp"))
        self.process: subprocess.Popen[bytes] | None = None
        self._as: list[str] = []
        if os.geteuid() == 0:  # a PostgreSQL is not run by root
            user = pwd.getpwnam("postgres" if self.name == "postgresql" else "nobody")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}"]
            self._as.append("--clear-groups")

    def command(self) -> list[str]:
        """Return its command line."""
        raise NotImplementedError

    def url(self) -> str:
        """Return the URL of its queues."""
        raise NotImplementedError

    def make(self) -> None:
        """Make there what graced needs."""
        raise NotImplementedError

    def empty(self) -> None:
        """Have no queue there, of anybody."""
        raise NotImplementedError

    def durable(self, durable: bool) -> None:
        """Commit as durably as it can, or not: what only prepares a run need not be."""
        raise NotImplementedError

    def requests(self) -> int:
        """Return how often it has been asked something."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        with (self.folder / "log").open("ab") as log:
            line = [*self._as, *self.command()]
            self.process = subprocess.Popen(line, cwd=self.folder, stdout=log, stderr=log)
        end = time.monotonic() + DEADLINE
        while not self._accepts():
            if time.monotonic() > end or self.process.poll() is not None:
                raise Trouble(f"{self.name} does not start: {(self.folder / 'log').read_text()}")
            time.sleep(0.05)

    def _accepts(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 1):
            return True
        return False

    def stop(self, number: int) -> None:
        """End it by a signal."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(DEADLINE)

    def cpu(self) -> float:
        """Return the seconds of processor that all of its processes have used."""
        assert self.process is not None
        own, ticks = self.process.pid, 0
        for path in glob.glob("/proc/[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = Path(path).read_text().rpartition(") ")[2].split()
                mine = int(path.split("/")[2]) == own
                if mine or int(fields[1]) == own:
                    # Of the main process also what its ended children have used.
                    ticks += sum(int(field) for field in fields[11 : 15 if mine else 13])
        return ticks / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill() if self.name == "redis" else self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(1)
            if self.process.poll() is None:
                self.stop(3)  # SIGQUIT: PostgreSQL's immediate end
        shutil.rmtree(self.folder)


class PostgreSQL(Server):
    """Debian's, with `synchronous_commit=on`."""

    name = "postgresql"
    settings = (
        "max_connections=200",
        "shared_buffers=256MB",
        "max_wal_size=2GB",
        "autovacuum_naptime=10s",
    )

    def __init__(self, host: str = "127.0.0.1") -> None:
        """Make an empty cluster."""
        super().__init__(host)
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin") + glob.glob("/usr/pgsql-*/bin"))
        self.bin = os.path.dirname(shutil.which("initdb") or "") or (found[-1:] or [""])[0]
        if not self.bin:
            raise Trouble("no PostgreSQL is installed: apt install postgresql")
        line = [f"{self.bin}/initdb", "-D", "data", "-A", "trust", "-U", "graced", "-E", "UTF8"]
        subprocess.run([*self._as, *line], cwd=self.folder, check=True, capture_output=True)
        with (self.folder / "data" / "pg_hba.conf").open("a") as file:
            file.write("host all all 0.0.0.0/0 trust\n")

    def command(self) -> list[str]:
        """Return its command line."""
        where = ["-k", str(self.folder), "-h", self.host, "-p", str(self.port)]
        settings = [word for each in self.settings for word in ("-c", each)]
        return [f"{self.bin}/postgres", "-D", "data", *where, *settings]

    def url(self) -> str:
        """Return the URL of its queues."""
        return f"postgresql://graced@{self.host}:{self.port}/postgres"

    def make(self) -> None:
        """Make the tables."""
        make_postgresql(self.url())

    def sql(self, statement: str, database: str = "postgres") -> Any:
        """Run a statement; return the first value of its answer."""
        import psycopg

        address = f"postgresql://graced@{self.host}:{self.port}/{database}"
        with psycopg.connect(address, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return (cursor.fetchone() or [None])[0] if cursor.description else None

    def empty(self) -> None:
        """Have a new database."""
        self.sql("DROP DATABASE postgres WITH (FORCE)", "template1")
        self.sql("CREATE DATABASE postgres", "template1")
        self.make()

    def durable(self, durable: bool) -> None:
        """Set `synchronous_commit`; once it is on, have the tables looked after and on the disk."""
        self.sql(f"ALTER SYSTEM SET synchronous_commit = {'on' if durable else 'off'}")
        self.sql("SELECT pg_reload_conf()")
        if durable:
            self.sql("VACUUM ANALYZE")
            self.sql("CHECKPOINT")

    def requests(self) -> int:
        """Return how many transactions there were; each is a round trip, or a part of one."""
        self.sql("SELECT pg_stat_force_next_flush()")
        said = "xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'postgres'"
        return int(self.sql(f"SELECT {said}", "template1"))


class Redis(Server):
    """With an append-only file that is synced before each answer."""

    name = "redis"

    def command(self) -> list[str]:
        """Return its command line."""
        program = shutil.which("redis-server") or shutil.which("valkey-server")
        if program is None:
            raise Trouble("no Redis is installed: apt install redis-server")
        words = f"--bind {self.host} --port {self.port} --protected-mode no --appendonly yes"
        return [program, *words.split(), "--appendfsync", "always", "--save", ""]

    def url(self) -> str:
        """Return the URL of its queues."""
        return f"redis://{self.host}:{self.port}/0"

    def make(self) -> None:
        """Load the functions."""
        make_redis(self.url())

    def ask(self, *words: str) -> Any:
        """Run a command."""
        import redis

        with redis.Redis(self.host, self.port) as client:
            return client.execute_command(*words)

    def empty(self) -> None:
        """Have no keys; the functions stay."""
        self.ask("FLUSHALL")

    def durable(self, durable: bool) -> None:
        """Set `appendfsync`."""
        self.ask("CONFIG", "SET", "appendfsync", "always" if durable else "no")

    def requests(self) -> int:
        """Return how many calls of functions there were; each is a round trip."""
        return int(self.ask("INFO", "commandstats").get("cmdstat_fcall", {"calls": 0})["calls"])


SERVERS: dict[str, type[Server]] = {"postgresql": PostgreSQL, "redis": Redis}


@contextlib.contextmanager
def serving(name: str, host: str = "127.0.0.1") -> Iterator[Server]:
    """Run a server of a kind, with all that graced needs, for the length of a block."""
    with SERVERS[name](host) as server:
        server.start()
        made = time.monotonic() + DEADLINE
        while True:  # a port is open a moment before the server answers
            try:
                server.make()
                break
            except Exception:
                if time.monotonic() > made:
                    raise
                time.sleep(0.2)
        yield server


def _free_port(host: str) -> int:
    with socket.socket() as sock:
        sock.bind((host, 0))
        return int(sock.getsockname()[1])
