"""What the main process does with its children, in one turn of its loop."""

from __future__ import annotations

import os
import selectors
from collections.abc import Callable
from typing import Any, cast

import pytest

from graced.host.scoreboard import Scoreboard
from graced.host.stackdump import Stacks
from graced.log.logger import Log
from graced.supervisor.children import MAX_REAPED_A_TURN, PIPE_BYTES, Children, bell_rang
from graced.supervisor.monitor import ScoreboardMonitor


@pytest.fixture
def bell() -> Any:
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    yield read, write
    os.close(read)
    os.close(write)


def ring(worker: int) -> bytes:
    return worker.to_bytes(8, "little")


def test_each_who_rang_is_told_once(bell: tuple[int, int]) -> None:
    assert bell_rang(bell[0]) == []
    os.write(bell[1], ring(3) + ring(1) + ring(3))
    assert bell_rang(bell[0]) == [3, 1]


@pytest.mark.parametrize("stray", [1, 3, 8, 11])
def test_what_is_no_ring_hides_nobody(bell: tuple[int, int], stray: int) -> None:
    os.write(bell[1], b"\xff" * stray + ring(3))
    rang = bell_rang(bell[0])
    assert rang is None or -1 in rang
    os.write(bell[1], ring(4))
    assert bell_rang(bell[0]) == [4]


def test_who_rings_without_end_is_heard_in_bounds(bell: tuple[int, int]) -> None:
    """The loop has more to listen to: it read until the bell was silent, which it never was."""
    os.set_blocking(bell[1], True)
    os.write(bell[1], ring(5) * (PIPE_BYTES // 8))
    pid = os.fork()
    if pid == 0:
        while True:
            os.write(bell[1], ring(5) * 512)
    try:
        assert bell_rang(bell[0]) is None, "it comes back, and has all looked at"
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def test_a_flood_of_orphans_is_reaped_bit_by_bit() -> None:
    events: list[Any] = []
    children = Children(
        Scoreboard(1), cast("Stacks", None), ScoreboardMonitor(), selectors.DefaultSelector(),
        events.append,
        cast("Callable[..., Any]", None), {}, Log(fd=os.open(os.devnull, os.O_WRONLY)),
    )  # fmt: skip
    children.reap()  # what tests before have left is not of this flood
    dead = {os.fork() or os._exit(0) for _ in range(MAX_REAPED_A_TURN + 50)}
    for pid in dead:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    children.reap()
    left = {pid for pid in dead if os.path.exists(f"/proc/{pid}")}
    assert len(left) == 50
    assert children.more_to_reap
    children.reap()
    assert not children.more_to_reap
    assert not [pid for pid in dead if os.path.exists(f"/proc/{pid}")]
