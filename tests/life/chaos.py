"""Workers that write random words into their record, and random bytes into all they have open.

By mistake, not by malice: none of them kills, and none looks for another's memory. The main
process answers `status` all the while. Run by itself, it goes on for as long as you like:

    PYTHONPATH=tests python tests/life/chaos.py [SECONDS] [SEED]
"""

from __future__ import annotations

import os
import random
import select
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graced import Job, JobWorker, Worker

if TYPE_CHECKING:
    from daemon_harness import Daemon

PATIENCE = 30.0  # seconds that an answer may take on a machine that is busy with all this
WORST = (0, 1, -1, 2**16, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63))
SMALL = 64  # bytes of most of what is written


class Mess:
    """The random acts of one process, by seed."""

    def __init__(self, worker: Worker) -> None:
        self._record = worker._graced.writer.record
        self._random = random.Random(f"{worker.options['seed']} {os.getpid()}")

    def make(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._words()
            self._bytes()
            time.sleep(0.001)  # others have the machine, too

    def _words(self) -> None:
        chance = self._random
        for _ in range(chance.randrange(1, 40)):
            word = chance.choice(
                (*WORST, chance.getrandbits(63), time.monotonic_ns(), os.getppid())
            )
            self._record.words[chance.randrange(len(self._record.words))] = word
        text = self._record._text
        for _ in range(8):
            text[chance.randrange(len(text))] = chance.randrange(256)

    def _bytes(self) -> None:
        chance = self._random
        for name in os.listdir("/proc/self/fd"):
            data = chance.randbytes(chance.choice((1, 7, 8, SMALL, SMALL, 4096)))
            try:
                os.set_blocking(int(name), chance.random() < 0.5)
                if select.select([], [int(name)], [], 0)[1]:
                    os.write(int(name), data[: select.PIPE_BUF])
            except (OSError, ValueError):  # it can't be written to, or is closed by now
                pass


class Chaos(Worker):
    """Makes a mess in each of its rounds."""

    def step(self) -> None:
        Mess(self).make(0.1)
        self.wait(0)


class ChaosJobs(JobWorker):
    """Makes one in its jobs: it has a connection to the keeper, and a lock."""

    def handle(self, job: Job) -> None:
        Mess(self).make(0.1)


def configure(daemon: Daemon, seed: int) -> Daemon:
    short = {"drain_timeout": "1s", "stop_timeout": "1s", "round_timeout": "5s"}
    often = {"backoff": {"first": "10ms", "limit": "100ms"}, "options": {"seed": seed}}
    jobs = {"max_attempts": 1_000_000, "retry": {"first": "10ms", "limit": "100ms"}}
    here = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    return daemon.configure(
        {
            "calm": {"worker": "sample_workers:Ticks"},
            "chaos": {"worker": "chaos:Chaos", "workers": 2, "path": here, **short, **often},
            "jobs": {"worker": "chaos:ChaosJobs", "path": here, **short, **often, **jobs},
        },
        max_lease="2s",
    )


def live(daemon: Daemon, seconds: float) -> float:
    """Ask for the status again and again; return how long the slowest answer took."""
    from graced.control.client import Connection

    for _ in range(3):
        daemon.run("submit", "--pool", "jobs", "--json", "1")
    worst, rounds, before = 0.0, 0, 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        asked = time.monotonic()
        with Connection(str(daemon.short / "run" / "control.sock"), PATIENCE) as connection:
            status: dict[str, Any] = connection.call("status")["status"]
        worst = max(worst, time.monotonic() - asked)
        calm = status["pools"]["calm"]
        assert calm["deaths"] == 0, status
        rounds = calm["workers"][0]["rounds"]
        assert rounds >= before, "a record of another was written to"
        before = rounds
        time.sleep(0.05)
    assert rounds > 0
    return worst


def stop(daemon: Daemon) -> None:
    daemon.send(signal.SIGTERM)
    daemon.ended()
    assert daemon.process is not None
    assert daemon.process.returncode in (0, 1), daemon.log  # 1: somebody had to be killed
    daemon.nothing_left()


def main() -> None:
    from daemon_harness import Daemon

    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as home, Daemon(Path(home)) as daemon:
        configure(daemon, seed).start().ready()
        try:
            worst = live(daemon, seconds)
        finally:
            Path(f"/tmp/chaos-{seed}.log").write_text(str(daemon.log), errors="backslashreplace")
        deaths = {name: pool["deaths"] for name, pool in daemon.status()["pools"].items()}
        stop(daemon)
    print(f"{seconds:.0f} s, the slowest answer took {worst * 1000:.0f} ms; deaths: {deaths}")


if __name__ == "__main__":
    main()
