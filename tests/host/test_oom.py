"""Whose death a counted kill for want of memory was."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from graced.host.oom import DEATH_TIMEOUT_S, OomKills
from graced.host.process import Exit

KILLED = Exit(pid=7, code=os.CLD_KILLED, status=signal.SIGKILL)


class Kernel:
    """A control group's counter, and what is said of deaths at a time of the test's."""

    def __init__(self, file: Path) -> None:
        self.now = 1000.0
        self.count = 0
        self.file = file
        self.kill(0)
        self.kills = OomKills(str(file))

    def kill(self, more: int = 1) -> None:
        self.count += more
        self.file.write_text(f"low 3\noom 4\noom_kill {self.count}\noom_group_kill 0\n")

    def took(self, exit: Exit = KILLED, *, ours: bool = False) -> bool:
        return self.kills.took(exit, self.now, ours=ours)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path / "memory.events")


def test_a_kill_is_one_death(kernel: Kernel) -> None:
    assert not kernel.took()
    kernel.kill()
    assert kernel.took()
    assert not kernel.took()


def test_several_kills_are_as_many_deaths(kernel: Kernel) -> None:
    kernel.kill(2)
    assert [kernel.took(), kernel.took(), kernel.took()] == [True, True, False]


def test_what_was_counted_before_is_nobody_s(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path / "memory.events")
    kernel.kill(3)
    kernel.kills = OomKills(str(kernel.file))
    assert not kernel.took()


@pytest.mark.parametrize(
    "exit",
    [
        Exit(pid=7, code=os.CLD_EXITED, status=signal.SIGKILL),
        Exit(pid=7, code=os.CLD_KILLED, status=signal.SIGTERM),
        Exit(pid=7, code=os.CLD_DUMPED, status=signal.SIGSEGV),
    ],
)
def test_another_s_death_leaves_a_kill_to_one_who_takes_a_while_to_die(
    kernel: Kernel, exit: Exit
) -> None:
    kernel.kill()
    assert not kernel.took(exit)
    kernel.now += DEATH_TIMEOUT_S
    assert kernel.took()


def test_a_kill_that_nobody_dies_of_is_forgotten(kernel: Kernel) -> None:
    kernel.kill()  # of a process that we never see
    assert not kernel.took(Exit(pid=7, code=os.CLD_EXITED, status=1))
    kernel.now += DEATH_TIMEOUT_S + 0.001
    assert not kernel.took()
    kernel.kill()
    assert kernel.took()


def test_whom_we_have_killed_did_not_die_of_hunger(kernel: Kernel) -> None:
    kernel.kill()
    assert not kernel.took(ours=True)
    assert kernel.took()


def test_a_counter_that_goes_away_and_comes_back_counts_nothing_twice(kernel: Kernel) -> None:
    kernel.kill(5)
    assert kernel.took()
    kernel.now += DEATH_TIMEOUT_S + 1
    kernel.file.rename(kernel.file.with_suffix(".gone"))
    assert not kernel.took()
    kernel.kill(0)
    assert not kernel.took()
