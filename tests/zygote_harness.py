"""A main process without a core: real zygotes and workers, watched through bell and scoreboard.

For tests of what is below the supervisor. The test process is the parent; user code says what it
does by writing lines to a pipe.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graced import settings
from graced.host import process
from graced.host.channel import Channel, ChannelClosed
from graced.host.scoreboard import Phase, Scoreboard, WorkerRecord
from graced.host.stackdump import Stacks
from graced.log.logger import Log
from graced.log.output import Output
from graced.log.sinks import sink_of
from graced.zygote.fork import fork
from graced.zygote.plan import ZygotePlan

DEADLINE = 30.0  # seconds; only a failure reaches it

# nap(): a minute in slices, since a signal that comes just before a sleep is heard after it. On one
# line: tests know the numbers of those that follow.
PRELUDE = """
from __future__ import annotations
import os, signal, sys, time; nap = lambda: [time.sleep(0.01) for _ in range(6000)]
from graced import Worker, WorkerInterrupt

def say(*words):
    os.write(int(os.environ["SAY"]), (" ".join(map(str, words)) + "\\n").encode())
"""


def until(ready: Callable[[], Any], what: str) -> Any:
    """Ask until the answer is true. For what sends no event: /proc, and other processes' ends."""
    end = time.monotonic() + DEADLINE
    while not (answer := ready()):
        assert time.monotonic() < end, f"{what}: not in {DEADLINE} s"
        os.sched_yield()
    return answer


class Feed:
    """Lines that come through a pipe."""

    def __init__(self) -> None:
        self._end, self.fd = os.pipe()
        os.set_blocking(self._end, False)
        self._rest = b""
        self.lines: list[str] = []

    def take(self) -> None:
        """Read what is there."""
        try:
            while data := os.read(self._end, 65536):
                *lines, self._rest = (self._rest + data).split(b"\n")
                self.lines += [line.decode() for line in lines]
        except BlockingIOError:
            pass

    def wait(self, line: str, count: int = 1) -> None:
        """Wait until a line has come `count` times."""
        self.until(lambda: self.lines.count(line) >= count, f"{count} times {line!r}")

    def until(self, enough: Callable[[], bool], what: str) -> None:
        """Wait for lines until it is enough."""
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        end = time.monotonic() + DEADLINE
        self.take()
        while not enough():
            left = end - time.monotonic()
            assert left > 0, f"{what}: not in {DEADLINE} s; said: {self.lines[-20:]}"
            poll.poll(left * 1000)
            self.take()

    def close(self) -> None:
        os.close(self._end)
        os.close(self.fd)


class Child:
    """A worker, as the main process knows it."""

    def __init__(self, harness: ZygoteHarness, id: int, index: int) -> None:
        self._nursery = harness
        self.id = id
        self.index = index
        self.record: WorkerRecord = harness.scoreboard.record(index)
        self.pid = 0

    def send(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def until(self, ready: Callable[[WorkerRecord], Any], what: str) -> None:
        """Wait for rings until the record says so."""
        self._nursery.until(lambda: ready(self.record), what)

    def ready(self) -> Child:
        """Wait until setup() has returned."""
        self.until(lambda record: record.ready_at, "ready")
        return self

    def ended(self) -> process.Exit:
        """Wait until it is gone, reap it, and say how it ended."""
        pidfd = os.pidfd_open(self.pid)
        assert select.select([pidfd], [], [], DEADLINE)[0], f"{self.pid} did not end"
        os.close(pidfd)
        found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        assert found is not None
        process.end_group(self.pid)
        process.reap(self.pid)
        self._nursery.living.discard(self.pid)
        return process.Exit(found.si_pid, found.si_code, found.si_status)


class ZygoteHarness:
    """One zygote and its workers."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.scoreboard = Scoreboard(512)
        self.stacks = Stacks.create()
        self.bell, self._bell_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.feed = Feed()
        self.living: set[int] = set()
        self.zygote = 0
        self.channel: Channel | None = None
        self._last_id = 0
        (home / "log").touch()
        process.become_subreaper()

    # -- zygote ----------------------------------------------------------------

    def write(self, code: str, name: str = "users") -> None:
        """Write a module of the user's."""
        (self.home / f"{name}.py").write_text(PRELUDE + textwrap.dedent(code))

    def fork(self, code: str | None = None, **pool: Any) -> tuple[Any, ...]:
        """Fork a zygote; return what it said first."""
        if code is not None:
            self.write(code)
        env = {"SAY": str(self.feed.fd), **pool.pop("env", {})}
        window = self.stacks.lend() if pool.pop("window", False) else None
        keys = {"worker": "users:W", "path": (str(self.home),), **pool}
        fd = os.open(self.home / "log", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        sink = sink_of(fd)
        plan = ZygotePlan(
            pool=settings.Pool("jobs", env=env, **keys),
            generation=1,
            scoreboard=self.scoreboard,
            bell=self._bell_end,
            stacks=self.stacks,
            main_pid=os.getpid(),
            log=Log(output=Output("info", "text", sink)),
            keep=(self.feed.fd,),
            window=window,
        )
        ours, logging.root.handlers = logging.root.handlers, []  # pytest's are not the child's
        if self.channel is not None:
            self.channel.close()
        try:
            self.zygote, self.channel = fork(plan)
        finally:
            logging.root.handlers = ours
            sink.close()
            os.close(fd)
        return self.told()

    def told(self) -> tuple[Any, ...]:
        """Return the zygote's next message."""
        assert self.channel is not None
        assert self.channel.wait(timeout=DEADLINE), "the zygote says nothing"
        message = self.channel.receive()
        assert message is not None
        return message

    def zygote_ended(self) -> process.Exit:
        """Wait until the zygote is gone."""
        found = os.waitid(os.P_PID, self.zygote, os.WEXITED)
        assert found is not None
        self.zygote = 0
        return process.Exit(found.si_pid, found.si_code, found.si_status)

    # -- workers ---------------------------------------------------------------

    def spawn(self, count: int = 1, max_rounds: int = 0, max_rss: int = 0) -> list[Child]:
        """SpawnOrder workers and wait until the zygote has told of them."""
        assert self.channel is not None
        children = [self.claim() for _ in range(count)]
        orders = [(c.id, c.index, slot, max_rounds, max_rss) for slot, c in enumerate(children)]
        self.channel.send(("spawn", orders))
        kind, told = self.told()
        assert kind == "spawned"
        pids = dict(told)
        for child in children:
            child.pid = pids[child.id]
            self.living.add(child.pid)
        return children

    def claim(self) -> Child:
        """Return a worker that has a record, but no process."""
        self._last_id += 1
        return Child(self, self._last_id, self.scoreboard.claim())

    def worker(self, code: str, **pool: Any) -> Child:
        """Fork a zygote and one worker."""
        limits = {key: pool.pop(key) for key in ("max_rounds", "max_rss") if key in pool}
        assert self.fork(code, **pool) == ("imported",)
        return self.spawn(**limits)[0]

    def until(self, ready: Callable[[], Any], what: str) -> None:
        """Sleep on the bell until it is so."""
        poll = select.poll()
        poll.register(self.bell, select.POLLIN)
        end = time.monotonic() + DEADLINE
        while not ready():
            left = end - time.monotonic()
            assert left > 0, f"{what}: not in {DEADLINE} s; the log: {self.log()}"
            poll.poll(left * 1000)
            self.rang()

    def rang(self) -> list[int]:
        """Return who has rung since."""
        try:
            data = os.read(self.bell, 65536)
        except BlockingIOError:
            return []
        return [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data), 8)]

    def log(self) -> str:
        """Return what was logged."""
        return (self.home / "log").read_text()

    # -- the end ----------------------------------------------------------------

    def close(self) -> None:
        """Leave nothing behind."""
        for pid in self.living:
            process.end_group(pid)
            os.waitpid(pid, 0)
        if self.zygote:
            os.kill(self.zygote, signal.SIGKILL)
            os.waitpid(self.zygote, 0)
        if self.channel is not None:
            self.channel.close()
        self.feed.close()
        os.close(self.bell)
        os.close(self._bell_end)
        self.stacks.close()
        process.refuse_orphans()


__all__ = ["ChannelClosed", "Child", "Phase", "ZygoteHarness", "until"]
