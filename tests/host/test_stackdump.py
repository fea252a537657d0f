"""Stacks, written by faulthandler to a window for each record."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from graced.host import stackdump as st
from graced.host.process import in_child
from graced.host.stackdump import (
    MAX_DUMP_BYTES,
    MAX_TEXT_CHARS,
    WINDOW_BYTES,
    Stacks,
    above_our_own,
    arranged,
)


@pytest.fixture
def windows() -> Iterator[Stacks]:
    made = Stacks.create()
    yield made
    made.close()


def run(work: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        in_child(work)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def write(windows: Stacks, record: int, text: bytes, times: int = 1) -> None:
    def work() -> None:
        fd = windows.reserve()
        windows.open_at(fd, record)
        for _ in range(times):
            os.write(fd, text)
            st.rewind(fd, record)

    assert run(work) == 0


def test_a_window_is_empty_at_first(windows: Stacks) -> None:
    assert windows.read(0) == ""
    windows.clear(4095)
    assert windows.read(4095) == ""


def test_windows_are_apart(windows: Stacks) -> None:
    write(windows, 3, b"three")
    write(windows, 1, b"one")
    assert [windows.read(n) for n in range(5)] == ["", "one", "", "three", ""]


def test_a_cleared_window_is_empty(windows: Stacks) -> None:
    write(windows, 2, b"x" * 5000)
    windows.clear(2)
    assert windows.read(2) == ""
    write(windows, 2, b"short")
    assert windows.read(2) == "short"


def test_each_stack_begins_at_the_windows_start(windows: Stacks) -> None:
    write(windows, 1, b"again", times=3)
    assert windows.read(1) == "again"


def test_what_never_rewound_is_read_all_the_same(windows: Stacks) -> None:
    """A process stuck in C code runs no Python handler: its next stack follows the last."""

    def work() -> None:
        fd = windows.reserve()
        windows.open_at(fd, 1)
        os.write(fd, b"first " * 2000)
        windows.clear(1)
        os.write(fd, b"second")

    assert run(work) == 0
    assert windows.read(1) == "second"
    windows.clear(1)
    assert windows.read(1) == ""


def test_siblings_write_with_offsets_of_their_own(windows: Stacks) -> None:
    one, two = windows.reserve(), windows.reserve()
    windows.open_at(one, 1)
    windows.open_at(two, 2)
    os.write(one, b"one")
    os.write(two, b"two")
    os.close(one)
    os.close(two)
    assert (windows.read(1), windows.read(2)) == ("one", "two")


def test_a_crash_leaves_its_stack(windows: Stacks) -> None:
    def crash() -> None:
        fd = windows.reserve()
        faulthandler.enable(file=fd)
        windows.open_at(fd, 7)
        os.kill(os.getpid(), signal.SIGSEGV)

    assert run(crash) == -signal.SIGSEGV
    assert "in crash" in windows.read(7)


def test_the_last_window_does_not_reach_beyond(windows: Stacks) -> None:
    write(windows, 0, b"y" * (WINDOW_BYTES + 10))
    assert windows.read(0).startswith("yyy")
    assert f"{WINDOW_BYTES - MAX_TEXT_CHARS} more characters are left out" in windows.read(0)


def test_what_is_no_stack_costs_little_to_leave_out(windows: Stacks) -> None:
    """A worker that wrote nonsense there held the main process up for seconds."""
    write(windows, 1, b"Thread 0x1 (most recent call first):\n" + os.urandom(1 << 20) * 16)
    began = time.process_time()
    assert len(windows.read(1)) < 200
    assert time.process_time() - began < 1.0


def test_nothing_is_allocated_before_it_is_written(windows: Stacks) -> None:
    write(windows, 4000, b"x")
    assert os.fstat(windows.fileno()).st_blocks * 512 < 1 << 20


def test_frames_of_our_own_are_left_out() -> None:
    text = (
        "Thread 0x1 (most recent call first):\n"
        '  File "/usr/lib/python3/threading.py", line 5 in wait\n'
        "\n"
        "Current thread 0x2 (most recent call first):\n"
        '  File "/srv/app/work.py", line 5 in step\n'
        '  File "/usr/lib/graced/workers/runtime.py", line 303 in guarded\n'
        '  File "/usr/lib/graced/workers/base.py", line 213 in live\n'
        '  File "/usr/lib/graced/supervisor/loop.py", line 90 in run\n'
    )
    assert above_our_own(text) == text.partition('  File "/usr/lib/graced')[0]
    waiting = '  File "/x/graced/workers/runtime.py", line 1 in wait_for\n'
    live = '  File "/x/graced/workers/base.py", line 2 in live\n'
    assert above_our_own(waiting + live) == waiting


def dump(*threads: str, frames: int = 3, head: str = "") -> str:
    blocks = []
    for name in threads:
        lines = [
            f'  File "/srv/{name.split()[0]}{"x" * 50}.py", line {n} in f' for n in range(frames)
        ]
        blocks.append("\n".join([f"{name} (most recent call first):", *lines]))
    return head + "\n\n".join(blocks) + "\n"


def test_the_current_thread_is_told_first_and_whole() -> None:
    names = [f"Thread 0x{n}" for n in range(60)]
    text = dump(*names, "Current thread 0x99", frames=80)
    told = arranged(text)
    assert told.startswith(dump("Current thread 0x99", frames=80))
    assert "Thread 0x0 (most" in told
    assert len(told) < MAX_TEXT_CHARS + 100
    assert told.endswith(" more are left out)\n")
    few = dump("Thread 0x1", "Current thread 0x99", "Thread 0x2")
    assert arranged(few) == dump("Current thread 0x99", "Thread 0x1", "Thread 0x2")


def test_a_crash_is_told_before_its_stack_and_that_before_others() -> None:
    head = "Fatal Python error: Segmentation fault\n\n"
    told = arranged(
        dump("Thread 0x1", "Current thread 0x2", head=head) + "\nExtension modules: a\n"
    )
    assert told == dump("Current thread 0x2", "Thread 0x1", head=head) + "\nExtension modules: a\n"


def test_threads_that_were_not_printed_are_said() -> None:
    assert "no more than 100 threads" in arranged(dump("Thread 0x1") + "\n...\n")


def test_the_largest_dump_stays_in_its_window(windows: Stacks) -> None:
    write(windows, 1, b"z" * MAX_DUMP_BYTES)
    assert windows.read(2) == ""
    windows.clear(1)
    assert windows.has_room(1)
    write(windows, 1, b"z" * (WINDOW_BYTES - MAX_DUMP_BYTES + 1))  # as if it had not gone back
    windows.clear(1)
    assert not windows.has_room(1)
    windows.reuse(1)
    assert windows.has_room(1)
