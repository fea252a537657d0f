"""The queue's own time, while the wall clock is set forward and back."""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from keeper_harness import DEADLINE, KeeperHarness, await_news, settle, take

from graced.queue import server, timing
from graced.queue.job import Postponed
from graced.queue.policy import Policy
from graced.queue.sqlite import offline
from graced.queue.terms import Terms
from graced.queue.worker_end import WorkerEnd
from graced.settings import Pool, Retry

HOUR = 3_600_000


class Walls:
    """The wall clock of this process and those it forks; ``bell`` is what tells of steps."""

    def __init__(self, bell: Path) -> None:
        self._offset = mmap.mmap(-1, 8)
        self.bell = bell
        os.mkfifo(bell)
        self._rope = os.open(bell, os.O_RDWR | os.O_NONBLOCK)
        self.armed = mmap.mmap(-1, 8)

    def close(self) -> None:
        os.close(self._rope)

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.offset

    @property
    def offset(self) -> int:
        return int(struct.unpack("q", self._offset[:])[0])

    def set(self, by: int) -> None:
        self._offset[:] = struct.pack("q", self.offset + by)
        os.write(self._rope, b"!")


class BellTimer:
    """A timer that knows of no time: only of steps."""

    walls: Walls

    def __init__(self) -> None:
        self._fd = os.open(self.walls.bell, os.O_RDWR | os.O_NONBLOCK)

    def fileno(self) -> int:
        return self._fd

    def set(self, at_ms: int) -> None:
        self.walls.armed[:] = struct.pack("q", at_ms)

    def clear(self) -> None:
        os.read(self._fd, 100)


@pytest.fixture
def walls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Walls]:
    walls = Walls(tmp_path / "bell")
    monkeypatch.setattr(timing, "wall_ms", walls.wall_ms)
    yield walls
    walls.close()


@pytest.fixture
def harness(
    tmp_path: Path, walls: Walls, monkeypatch: pytest.MonkeyPatch
) -> Iterator[KeeperHarness]:
    monkeypatch.setattr(server, "WallTimer", BellTimer)
    monkeypatch.setattr(BellTimer, "walls", walls, raising=False)
    with KeeperHarness(tmp_path, Policy(retry=Retry(0.01, 2.0, 0.1))) as harness:
        yield harness


def test_a_queues_time_never_goes_back_and_follows_forward(walls: Walls) -> None:
    clock = timing.Clock()
    before = clock.now()
    walls.set(-HOUR)
    back = clock.now()
    assert before <= back < before + HOUR
    assert abs(clock.wall(back) - walls.wall_ms()) < 60_000, "shown as people's clocks are now"
    walls.set(2 * HOUR)
    assert clock.now() >= before + HOUR
    walls.set(-HOUR)
    clock.at_least(before + 9 * HOUR)
    assert clock.now() >= before + 9 * HOUR


def test_set_back_an_hour_a_job_without_delay_is_taken_at_once(
    harness: KeeperHarness, walls: Walls
) -> None:
    harness.start()
    client = harness.client()
    early = list(client.submit(["1", "2"]))
    worker = harness.worker(1)
    walls.set(-HOUR)
    first = take(worker)
    late = list(client.submit(["3"]))
    worker.settle(first, Postponed("{}", 0.0), more=True)
    order = [first.id]
    for _ in range(3):
        job = take(worker)
        order.append(job.id)
        settle(worker, job)
    assert order[:2] == early
    assert sorted(order[2:]) == sorted([early[0], *late]), "who waits longest comes first"
    listed = client.jobs(None, 0, 10)
    assert all(abs(job["submitted"] * 1000 - walls.wall_ms()) < HOUR / 2 for job in listed)
    assert abs(first.submitted * 1000 - walls.wall_ms()) < HOUR / 2


def test_set_forward_a_delayed_job_is_due_at_once(harness: KeeperHarness, walls: Walls) -> None:
    harness.start()
    harness.client().submit(["1"], Terms(1800.0))
    worker = harness.worker(1)
    worker.ask()
    worker.receive()
    while struct.unpack("q", walls.armed[:])[0] < walls.wall_ms():
        harness.counts()  # until it has gone to sleep for it
    walls.set(HOUR)
    assert take(worker).payload == 1


def test_set_back_while_no_keeper_runs(harness: KeeperHarness, walls: Walls) -> None:
    harness.start()
    client = harness.client()
    client.submit(["1"])
    worker = harness.worker(1)
    worker.settle(take(worker), Postponed("{}", 0.5), more=False)
    harness.counts()
    harness.kill()
    walls.set(-HOUR)
    with closing(offline.FileEnd(harness.file, Pool("jobs"))) as end:
        end.submit(["2"])
        assert all(abs(j["due"] * 1000 - walls.wall_ms()) < HOUR / 2 for j in end.jobs(None, 0, 9))
    harness.start()
    assert {woken(harness.worker(n), walls) for n in (2, 3)} == {1, 2}


def woken(worker: WorkerEnd, walls: Walls) -> object:
    """Wait for a job of a keeper whose timer has to be rung."""
    end = time.monotonic() + DEADLINE
    worker.ask()
    while (job := worker.receive()) is None:
        assert time.monotonic() < end, "no job came"
        walls.set(0)
        await_news(worker, time.monotonic() + 0.1)
    return job.payload
