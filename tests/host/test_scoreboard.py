"""The scoreboard: records in memory that forked processes share."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.host import scoreboard as sb
from graced.host.scoreboard import Scoreboard, ScoreboardFull, WorkerRecord, fence

WORDS = [name for name, value in vars(WorkerRecord).items() if isinstance(value, sb._Word)]


def in_child(work: object) -> None:
    """Run something in a forked child, and wait for it."""
    pid = os.fork()
    if pid == 0:
        try:
            work()  # type: ignore[operator]
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def test_a_record_is_claimed_zeroed() -> None:
    board = Scoreboard(4)
    index = board.claim()
    record = board.record(index)
    record.pid, record.text = 17, "old"
    board.release(index)
    again = board.claim()
    assert again == index
    assert record.pid == 0
    assert board.record(again).text == ""


def test_records_are_never_handed_out_twice() -> None:
    board = Scoreboard(8)
    assert sorted(board.claim() for _ in range(8)) == list(range(8))


def test_a_full_board_says_so() -> None:
    board = Scoreboard(2)
    board.claim(), board.claim()
    with pytest.raises(ScoreboardFull, match="all 2 records"):
        board.claim()


def test_only_what_was_claimed_can_be_released() -> None:
    board = Scoreboard(2)
    with pytest.raises(KeyError):
        board.release(0)


def test_a_child_writes_and_its_parent_reads() -> None:
    board = Scoreboard(4)
    index = board.claim()

    def work() -> None:
        mine = board.record(index)
        mine.deadline = 2**62
        mine.text = "last words"

    in_child(work)
    assert board.record(index).deadline == 2**62
    assert board.record(index).text == "last words"


@pytest.mark.parametrize("name", WORDS)
def test_every_word_has_a_place_of_its_own(name: str) -> None:
    record = WorkerRecord.detached()
    setattr(record, name, 1)
    assert [word for word in WORDS if getattr(record, word)] == [name]
    assert record.text == ""


def test_neighbours_do_not_touch() -> None:
    board = Scoreboard(3)
    one, two, three = (board.record(i) for i in range(3))
    two.text = "x" * 5000
    for name in WORDS:
        setattr(two, name, -1)
    for other in (one, three):
        assert not any(getattr(other, name) for name in WORDS)
        assert other.text == ""


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=600))
def test_text_is_kept_or_cut_between_characters(text: str) -> None:
    record = WorkerRecord.detached()
    record.text = text
    if len(text.encode()) <= sb.TEXT_SIZE:
        assert record.text == text
    else:
        kept = record.text
        assert kept.endswith("…")
        assert text.startswith(kept[:-1])
        assert len(kept.encode()) > sb.TEXT_SIZE - 4


def test_text_takes_what_is_no_unicode() -> None:
    record = WorkerRecord.detached()
    record.text = "\udcff"
    assert record.text == "\\udcff"


def test_a_fence_never_blocks_a_signal_handler() -> None:
    """One that fences while the interrupted code is inside of fence() must not wait for it."""
    sb._lock.acquire()
    try:
        done = threading.Event()
        other = threading.Thread(target=lambda: (fence(), done.set()))
        other.start()
        assert done.wait(60)
    finally:
        sb._lock.release()
        other.join()  # the next test forks


def test_a_ring_that_is_asked_for_before_a_sleep_is_never_lost() -> None:
    """Ask-then-look here against store-then-look there: one of them sees the other's word."""
    board = Scoreboard(1)
    record = board.record(board.claim())
    rounds = 20000
    end = time.monotonic() + 5  # with one processor for both, a round takes two slices of it
    pid = os.fork()
    if pid == 0:
        try:
            mine = board.record(0)
            for n in range(1, rounds + 1):
                while mine.stacks < n:  # the starting shot
                    pass
                mine.deadline = n
                fence()
                mine.errors = mine.ring_busy
                mine.rounds = n
        finally:
            os._exit(0)
    missed, n = 0, 0
    while n < rounds and (n < 10 or time.monotonic() < end):
        n += 1
        record.stacks = n
        record.ring_busy = n
        fence()
        seen = record.deadline
        while record.rounds < n:
            pass
        missed += seen != n and record.errors != n
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert missed == 0
