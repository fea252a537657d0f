"""The timer that is told when the wall clock is set: what the kernel says of it."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from graced.host.walltimer import BootTimer, WallTimer


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def is_readable(timer: WallTimer, seconds: float) -> bool:
    return bool(select.select([timer.fileno()], [], [], seconds)[0])


def test_it_is_readable_at_its_moment_and_not_before() -> None:
    timer = WallTimer()
    timer.set(wall_ms() + 3_600_000)
    assert not is_readable(timer, 0)
    at = wall_ms() + 50
    timer.set(at)
    assert is_readable(timer, 60)
    assert wall_ms() >= at
    timer.clear()
    assert not is_readable(timer, 0)
    timer.set(1)
    assert is_readable(timer, 60), "what is past is due"
    os.close(timer.fileno())


@pytest.mark.skipif(shutil.which("faketime") is None, reason="no faketime")
@pytest.mark.parametrize("kind", ["WallTimer", "BootTimer"])
def test_what_is_past_is_due_where_libfaketime_shifts_the_clock(kind: str) -> None:
    code = (
        f"import select; from graced.host.walltimer import {kind}; timer = {kind}();"
        " timer.set(1); assert select.select([timer], [], [], 60)[0]"
    )
    line = ["faketime", "-f", "+30y", sys.executable, "-c", code]
    for more in ({}, {"FAKETIME_DONT_FAKE_MONOTONIC": "1"}):
        subprocess.run(line, env={**os.environ, **more}, check=True)


def test_the_kernel_will_tell_it_of_a_clock_that_is_set() -> None:
    """Nobody may set the clock here: this is what the kernel has been asked for."""
    timer = WallTimer()
    timer.set(wall_ms() + 3_600_000)
    info = dict(
        line.split(":", 1)
        for line in Path(f"/proc/self/fdinfo/{timer.fileno()}").read_text().splitlines()
    )
    assert int(info["clockid"]) == time.CLOCK_REALTIME
    assert int(info["settime flags"], 8) == 0b11, "absolute, and cancelled when the clock is set"
    os.close(timer.fileno())


def test_a_boot_timer_goes_by_the_clock_that_a_suspend_does_not_stop() -> None:
    timer = BootTimer()
    try:
        due = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000 + 30
        timer.set(due)
        assert select.select([timer], [], [], 60)[0]
        assert time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000 >= due
        timer.clear()
        assert not select.select([timer], [], [], 0)[0]
    finally:
        timer.close()
