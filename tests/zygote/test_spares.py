"""Spares: workers born before they are needed, and what becomes of them."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from zygote_harness import DEADLINE, Feed, ZygoteHarness, until

from graced.host import process
from graced.host.scoreboard import Left, Phase
from graced.zygote import spares

IDLE = """
class W(Worker):
    def setup(self): say("setup", self.slot)
    def step(self): self.wait(None)
    def teardown(self): say("teardown", self.slot)
"""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no spare be given up because the machine had to wait."""
    monkeypatch.setattr(spares, "PATIENCE", DEADLINE)


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[ZygoteHarness]:
    harness = ZygoteHarness(tmp_path)
    yield harness
    harness.close()
    until(lambda: not list_children(), "nobody is left")


def list_children() -> list[int]:
    """Return our children that live; those that are dead and nobody's are reaped."""
    while (exit := process.peek_exit()) is not None:
        process.reap(exit.pid)
    pid = os.getpid()
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        return [int(text) for text in children.read().split()]


def name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def spare() -> int:
    """Wait until there is a spare that sleeps; return its number."""
    found: int = until(
        lambda: next(
            (p for p in list_children() if name(p) == "graced-spare" and process.state(p) == "S"), 0
        ),
        "a spare",
    )
    return found


def test_a_spare_is_born_after_the_first_order_and_becomes_the_next_worker(
    harness: ZygoteHarness,
) -> None:
    harness.fork(IDLE, spare=True)
    first = harness.spawn()[0].ready()
    waiting = spare()
    assert os.getpgid(waiting) == harness.zygote, "it is part of its zygote"
    second = harness.spawn()[0].ready()
    assert second.pid == waiting
    assert os.getpgid(waiting) == waiting
    assert name(waiting) == "graced-worker"
    third = spare()
    assert third != waiting
    assert harness.spawn()[0].ready().pid == third
    for child in (first, second):
        child.send(signal.SIGTERM)
        assert child.ended().status == 0
        assert child.record.left == Left.DRAINED


def test_of_several_at_once_one_was_the_spare(harness: ZygoteHarness) -> None:
    harness.fork(IDLE, spare=True)
    harness.spawn()[0].ready()
    waiting = spare()
    assert harness.channel is not None
    children = [harness.claim() for _ in range(3)]
    orders = [(child.id, child.index, slot, 0, 0) for slot, child in enumerate(children)]
    harness.channel.send(("spawn", orders))
    assert harness.told() == ("spawned", [(children[0].id, waiting)])
    kind, births = harness.told()
    assert (kind, [who for who, _ in births]) == ("spawned", [c.id for c in children[1:]])
    for child in children:
        child.ready()
        child.pid = child.record.pid
        harness.living.add(child.pid)


def test_no_spare_before_there_was_a_worker(harness: ZygoteHarness) -> None:
    harness.fork(IDLE, spare=True)
    child = harness.spawn()[0].ready()
    waiting = spare()
    assert sorted(list_children()) == sorted([harness.zygote, child.pid, waiting])


def test_a_spare_has_the_descriptors_of_a_worker_and_no_others(harness: ZygoteHarness) -> None:
    harness.fork(IDLE, spare=True)
    born = harness.spawn()[0].ready()
    spare()
    waited = harness.spawn()[0].ready()
    spare()  # one that is born while the worker lives has none of its own
    again = harness.spawn()[0].ready()
    for child in (born, waited, again):
        child.until(lambda record: record.phase == Phase.READY, "it waits")
        until(lambda pid=child.pid: process.state(pid) == "S", "it sleeps")  # type: ignore[misc]
    assert kinds(waited.pid) == kinds(born.pid) == kinds(again.pid)


def kinds(pid: int) -> list[str]:
    folder = Path(f"/proc/{pid}/fd")
    return sorted(os.readlink(fd).split("[")[0].split("(")[0] for fd in folder.iterdir())


def test_a_spare_goes_with_its_zygote(harness: ZygoteHarness) -> None:
    harness.fork(IDLE, spare=True)
    child = harness.spawn()[0].ready()
    spare()
    os.kill(harness.zygote, signal.SIGKILL)  # it alone, not its group
    harness.zygote_ended()
    until(lambda: list_children() == [child.pid], "the spare is gone")


def test_a_spare_is_killed_with_its_zygotes_group(harness: ZygoteHarness) -> None:
    harness.fork(IDLE, spare=True)
    child = harness.spawn()[0].ready()
    os.kill(spare(), signal.SIGSTOP)  # it could not see an end of file
    process.end_group(harness.zygote)
    harness.zygote_ended()
    until(lambda: list_children() == [child.pid], "the spare is gone")


@contextlib.contextmanager
def bereaved(home: Path, prepare: Callable[[ZygoteHarness], int]) -> Iterator[int]:
    """Kill a main process whose zygote is stopped, so that it can tell nobody.

    Gives a pidfd of whom `prepare` names.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:

        def main() -> None:
            harness = ZygoteHarness(home)
            watched = prepare(harness)
            os.kill(harness.zygote, signal.SIGSTOP)
            until(lambda: process.is_stopped(harness.zygote), "stopped")
            os.write(writer, f"{watched} {harness.zygote}".encode())
            signal.pause()

        process.in_child(main)
    watched, zygote = (os.pidfd_open(int(text)) for text in os.read(reader, 100).split())
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    yield watched
    process.signal_pidfd(zygote, signal.SIGCONT)
    assert select.select([zygote], [], [], DEADLINE)[0]
    for fd in (watched, zygote, reader, writer):
        os.close(fd)


def test_a_spare_goes_with_the_main_process(tmp_path: Path) -> None:
    def prepare(harness: ZygoteHarness) -> int:
        harness.fork(IDLE, spare=True)
        harness.spawn()[0].ready()
        return spare()

    with bereaved(tmp_path, prepare) as waiting:
        assert select.select([waiting], [], [], DEADLINE)[0], "the spare is left"


def test_a_worker_that_was_a_spare_drains_after_the_main_process_s_death(tmp_path: Path) -> None:
    feed = Feed()

    def prepare(harness: ZygoteHarness) -> int:
        os.dup2(feed.fd, harness.feed.fd)
        harness.fork(IDLE, spare=True)
        harness.spawn()[0].ready()
        waiting = spare()
        assert harness.spawn()[0].ready().pid == waiting
        return waiting

    with bereaved(tmp_path, prepare) as worker:
        assert select.select([worker], [], [], DEADLINE)[0], "the worker is left"
        feed.wait("teardown 0", 2)  # the first worker's, and its own
    feed.close()


def test_signals_to_a_spare_are_meant_for_nobody(harness: ZygoteHarness) -> None:
    harness.fork(IDLE, spare=True)
    harness.spawn()[0].ready()
    waiting = spare()
    for number in (
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGHUP,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGRTMIN,
    ):
        os.kill(waiting, number)
    child = harness.spawn()[0].ready()
    assert child.pid == waiting
    assert not child.record.ack
    child.send(signal.SIGTERM)
    assert child.ended().status == 0
    assert child.record.left == Left.DRAINED


def test_a_signal_is_not_lost_once_it_has_a_number(harness: ZygoteHarness) -> None:
    harness.fork(IDLE, spare=True)
    assert harness.channel is not None
    harness.spawn()[0].ready()
    for _ in range(20):
        waiting = spare()
        child = harness.claim()
        harness.channel.send(("spawn", [(child.id, child.index, 0, 0, 0)]))
        child.pid = until(lambda c=child: c.record.pid, "a number")  # type: ignore[misc]
        os.kill(child.pid, signal.SIGTERM)
        assert child.pid == waiting
        harness.living.add(child.pid)
        assert harness.told() == ("spawned", [(child.id, child.pid)])
        child.until(lambda record: record.left, "left")
        assert child.ended().status == 0
        harness.scoreboard.release(child.index)


def test_a_spare_that_was_killed_is_replaced_by_a_birth(harness: ZygoteHarness) -> None:
    harness.fork(IDLE, spare=True)
    harness.spawn()[0].ready()
    for _ in range(5):
        waiting = spare()
        os.kill(waiting, signal.SIGKILL)
        until(lambda p=waiting: p not in list_children(), "it is reaped")  # type: ignore[misc]
        until(lambda: -1 not in guarded(harness.zygote), "its zygote lets go of it")
        child = harness.spawn()[0].ready()
        assert child.pid != waiting
        child.send(signal.SIGTERM)
        assert child.ended().status == 0


def test_more_workers_than_descriptors_one_after_the_other(harness: ZygoteHarness) -> None:
    """Whoever was a spare has the usual limit, and all are guarded."""
    code = """
    import resource
    class W(Worker):
        def setup(self): say("limit", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        def step(self): self.wait(None)
    """
    harness.fork(code, spare=True)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.prlimit(harness.zygote, resource.RLIMIT_NOFILE, (64, hard))
    harness.spawn()
    for _ in range(60):
        harness.spawn()[0].ready()
    harness.spawn(5)
    waiting = spare()
    assert harness.spawn()[0].pid == waiting
    harness.feed.wait("limit 64", 67)
    spare()
    assert guarded(harness.zygote).issuperset(harness.living)


def test_a_spare_that_is_stopped_is_given_up(
    harness: ZygoteHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    harness.fork(IDLE, spare=True)
    harness.spawn()[0].ready()
    waiting = spare()
    os.kill(waiting, signal.SIGSTOP)
    assert harness.spawn()[0].ready().pid != waiting
    assert waiting not in list_children()


def test_killed_while_it_takes_its_order_it_is_whole_or_another_is_born(
    harness: ZygoteHarness,
) -> None:
    harness.fork(IDLE, spare=True)
    assert harness.channel is not None
    harness.spawn()[0].ready()
    for step in range(40):
        waiting = spare()
        child = harness.claim()
        harness.channel.send(("spawn", [(child.id, child.index, 0, 0, 0)]))
        wait(step * 0.00004)
        os.kill(waiting, signal.SIGKILL)
        kind, births = harness.told()
        assert kind == "spawned"
        child.pid = dict(births)[child.id]
        if child.pid != waiting:
            assert child.record.pid == child.pid
            harness.living.add(child.pid)
            child.ready().send(signal.SIGTERM)
            child.ended()
        harness.scoreboard.release(child.index)


def parting(first: str) -> str:
    """Return code that does something first in whoever has his number, but not his group yet."""
    return (
        f"""
from graced.zygote import spares
leave_group = spares.os.setpgid
def setpgid(pid, group):
    if sys._getframe(2).f_code.co_name == "_become_worker":
        {first}
    leave_group(pid, group)
spares.os.setpgid = setpgid
"""
        + IDLE
    )


def test_a_signal_is_not_lost_before_it_has_a_group_of_its_own(harness: ZygoteHarness) -> None:
    harness.fork(parting("os.kill(os.getpid(), signal.SIGTERM)"), spare=True)
    harness.spawn()[0].ready()
    waiting = spare()
    child = harness.spawn()[0]
    assert child.pid == waiting
    assert child.ended().status == 0
    assert child.record.left == Left.INTERRUPTED


def test_a_worker_is_not_born_twice_if_it_died_and_was_reaped_meanwhile(
    harness: ZygoteHarness,
) -> None:
    """By then its record may be another's: a second one of that number nobody would know."""
    harness.fork(parting("time.sleep(60)"), spare=True)
    assert harness.channel is not None
    harness.spawn()[0].ready()
    waiting = spare()
    child = harness.claim()
    harness.channel.send(("spawn", [(child.id, child.index, 0, 0, 0)]))
    until(lambda: child.record.pid, "a number")
    os.kill(harness.zygote, signal.SIGSTOP)
    until(lambda: process.is_stopped(harness.zygote), "stopped")
    os.kill(waiting, signal.SIGKILL)
    os.waitpid(waiting, 0)
    harness.scoreboard.release(child.index)
    os.kill(harness.zygote, signal.SIGCONT)
    assert harness.told() == ("spawned", [(child.id, waiting)])


def test_workers_are_guarded_if_the_spare_died_after_they_were_ordered(
    harness: ZygoteHarness,
) -> None:
    """Its descriptor's number may be one of theirs, when its death is looked at."""
    harness.fork(IDLE, spare=True)
    assert harness.channel is not None
    harness.spawn()[0].ready()
    waiting = spare()
    os.kill(harness.zygote, signal.SIGSTOP)
    until(lambda: process.is_stopped(harness.zygote), "stopped")
    children = [harness.claim() for _ in range(12)]
    harness.channel.send(("spawn", [(c.id, c.index, n, 0, 0) for n, c in enumerate(children)]))
    os.kill(waiting, signal.SIGKILL)
    os.waitpid(waiting, 0)
    os.kill(harness.zygote, signal.SIGCONT)
    kind, births = harness.told()
    assert kind == "spawned"
    harness.living.update(pid for _, pid in births)
    spare()  # it is at rest again
    assert guarded(harness.zygote).issuperset(harness.living)


def guarded(zygote: int) -> set[int]:
    """Return of which processes a zygote has a pidfd; -1 for those that are reaped."""
    found = set()
    for fd in os.listdir(f"/proc/{zygote}/fdinfo"):
        with contextlib.suppress(FileNotFoundError):
            text = Path(f"/proc/{zygote}/fdinfo/{fd}").read_text()
            found.update(int(pid) for pid in re.findall(r"^Pid:\s+(-?\d+)", text, re.M))
    return found


def test_the_crash_of_a_spare_is_not_told_as_that_of_a_worker(harness: ZygoteHarness) -> None:
    harness.fork(IDLE, spare=True)
    first = harness.spawn()[0].ready()
    waiting = spare()
    os.kill(waiting, signal.SIGSEGV)
    until(lambda: waiting not in list_children(), "it is gone")
    assert first.index == 0
    assert harness.stacks.read(first.index) == ""
    second = harness.spawn()[0].ready()
    spare()
    third = harness.spawn()[0].ready()
    os.kill(third.pid, signal.SIGSEGV)
    assert third.ended().status == signal.SIGSEGV
    assert "Segmentation fault" in harness.stacks.read(third.index)
    assert harness.stacks.read(second.index) == ""


def test_a_zygote_killed_while_it_hands_over_leaves_nobody_unknown(harness: ZygoteHarness) -> None:
    """Whatever moment it is: who has no number when the main process looks never gets to work."""
    harness.write(IDLE)
    known = 0
    for step in range(25):
        harness.fork(spare=True)
        assert harness.channel is not None
        harness.spawn()[0].ready()
        first = harness.living.pop()
        waiting = spare()
        child = harness.claim()
        harness.channel.send(("spawn", [(child.id, child.index, 7, 0, 0)]))
        wait(step * 0.00004)
        if step == 24:  # all the others may have come too early
            until(lambda c=child: c.record.pid, "a number")  # type: ignore[misc]
        os.kill(harness.zygote, signal.SIGKILL)
        os.waitid(os.P_PID, harness.zygote, os.WEXITED | os.WNOWAIT)
        process.end_group(harness.zygote)  # as the main process does, before it looks
        harness.zygote_ended()
        number = child.record.pid
        assert number in (0, waiting)
        if number:
            known += 1
            process.end_group(number)
        until(lambda f=first: list_children() == [f], "nobody else is left")  # type: ignore[misc]
        process.end_group(first)
        until(lambda: not list_children(), "nobody is left")
        harness.channel.close()
        harness.scoreboard.release(child.index)
    harness.feed.take()
    assert harness.feed.lines.count("setup 7") <= known
    assert known


def wait(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
