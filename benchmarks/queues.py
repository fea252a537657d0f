"""Queues on a disk: who takes part in the rows on jobs, and how each queue is filled.

Every one commits durably: SQLite with `synchronous=FULL`, which huey calls `fsync` and litequeue
has to be told.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contenders import PROGRAMS, Case, Contender, Graced, base_environment, configure

PAYLOAD = "null"


class Queue(Contender):
    """A peer's queue and its consumers, by a program of ours that can also fill it."""

    program = ""

    def command(self, case: Case, home: Path) -> list[str]:
        """Return the command line of so many consumers."""
        return [self.python, str(PROGRAMS / self.program), "consume", str(case.workers)]

    def environment(self, case: Case) -> dict[str, str]:
        """Say where the queue is."""
        return {**super().environment(case), "QUEUE": str(case.pool["queue"])}

    def run(self, case: Case, word: str, count: int) -> str:
        """Have its program do something else; return what that printed."""
        line = [self.python, str(PROGRAMS / self.program), word, str(count)]
        env = {**base_environment(), **self.environment(case), "EVENTS": "/dev/null"}
        done = subprocess.run(line, env=env, check=True, capture_output=True, text=True)
        return done.stdout


class HueyQueue(Queue):
    """huey's own consumer, with processes for workers."""

    name = "huey"
    program = "queue_huey.py"

    def command(self, case: Case, home: Path) -> list[str]:
        """Return its consumer's command line; without the two lines it logs for each task."""
        line = [self.python, "-m", "huey.bin.huey_consumer", "queue_huey.huey"]
        return [*line, "-q", "-n", "-k", "process", "-w", str(case.workers)]


class PersistQueue(Queue):
    """https://pypi.org/project/persist-queue/: threads, for its processes would share jobs."""

    name = "persist-queue"
    program = "queue_persist.py"


class LiteQueue(Queue):
    """https://pypi.org/project/litequeue/"""

    name = "litequeue"
    program = "queue_lite.py"


class ServedQueue(Queue):
    """A peer whose queue is on a server."""

    program = "queue_servers.py"

    def __init__(self, name: str, server: str, *packages: str) -> None:
        self.name, self.server, self.packages = name, server, packages

    def command(self, case: Case, home: Path) -> list[str]:
        """Return the command line of so many consumers; dramatiq has its own."""
        if self.name != "dramatiq":
            return super().command(case, home)
        line = [self.python, "-m", "dramatiq", "queue_servers", "--threads", "1"]
        return [*line, "--processes", str(case.workers)]

    def environment(self, case: Case) -> dict[str, str]:
        """Say which one it is."""
        return {**super().environment(case), "PEER": self.name}


HUEY = HueyQueue()
QUEUES: list[Queue] = [HUEY, PersistQueue(), LiteQueue()]
SERVED = [
    ServedQueue("procrastinate", "postgresql", "psycopg[binary]"),
    ServedQueue("pgqueuer", "postgresql", "asyncpg"),
    ServedQueue("rq", "redis"),
    ServedQueue("dramatiq", "redis", "redis"),
    ServedQueue("arq", "redis"),
    ServedQueue("saq", "redis", "redis"),
]


class Pantry:
    """Filled queues, each made once and copied for every run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def serve(self, who: Contender, count: int) -> Iterator[str]:
        """Provide the address of a queue with so many jobs; it is gone after the block."""
        kept = self._folder / f"{who.name}-{count}"
        if not kept.exists():
            kept.mkdir()
            fill(who, kept / "queue.db", count)
        with tempfile.TemporaryDirectory(dir=self._folder) as copy:
            shutil.copytree(kept, copy, dirs_exist_ok=True)
            yield _address(who, Path(copy) / "queue.db")


@contextmanager
def pantry() -> Iterator[Pantry]:
    """Keep filled queues for the length of a block."""
    with tempfile.TemporaryDirectory(prefix="graced-queues-") as folder:
        yield Pantry(Path(folder))


def _address(who: Contender, file: Path) -> str:
    return f"sqlite:///{file}" if isinstance(who, Graced) else str(file)


def fill(who: Contender, file: Path, count: int) -> None:
    """Let so many jobs wait in a queue."""
    case = Case(pool={"queue": _address(who, file)}, worker="chores:Nothing")
    if isinstance(who, Queue):
        who.run(case, "fill", count)
        return
    assert isinstance(who, Graced)
    with tempfile.TemporaryDirectory() as home:
        line = [*who.script(), "submit", "-c", str(configure(case, Path(home))), "--json", "-"]
        env = {**base_environment(), **who.environment(case)}
        lines = (PAYLOAD + "\n") * count
        subprocess.run(line, input=lines, text=True, env=env, check=True, capture_output=True)
