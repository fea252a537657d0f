"""A worker's life: real processes, real signals; each promise of the contract's section 6."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from zygote_harness import Child, ZygoteHarness, until

from graced import Worker, WorkerInterrupt
from graced.host import process
from graced.host.scoreboard import Ack, ExitKind, Phase, Wants

IDLE = """
class W(Worker):
    def setup(self): say("setup")
    def step(self): say("waits"); say("waited", self.wait(None))
    def teardown(self): say("teardown")
"""


def interrupt(child: Child) -> None:
    """Send SIGINT as the main process does: again and again until it is acknowledged."""
    repeat(child, signal.SIGINT, Ack.DRAIN_IN_SETUP)


def drain(child: Child) -> None:
    """Send SIGTERM in the same way: one that comes just before a system call is not heard there."""
    repeat(child, signal.SIGTERM, Ack.DRAIN)


def repeat(child: Child, number: int, ack: int, beat: float = 0.02) -> None:
    import select

    pidfd = os.pidfd_open(child.pid)
    end = time.monotonic() + 30
    while child.record.ack < ack:
        assert time.monotonic() < end, f"not acknowledged: {child.record.ack}"
        if not process.signal_pidfd(pidfd, number):
            break
        if select.select([pidfd], [], [], beat)[0]:
            break
    os.close(pidfd)


def gated(harness: ZygoteHarness, code: str) -> str:
    """Return code in which GO is the name of a file that the test makes when it is time."""
    return code.replace("GO", repr(str(harness.home / "go")))


def go(harness: ZygoteHarness) -> None:
    """Let what waits in :func:`gated` code go on: after the signals that were sent before."""
    (harness.home / "go").touch()


def left(child: Child, status: int = 0) -> int:
    """Wait for a planned end, and return how it was."""
    assert child.ended() == process.Exit(child.pid, os.CLD_EXITED, status)
    assert child.record.phase == Phase.LEFT
    return child.record.left


# Rounds


def test_a_life_from_setup_to_teardown(harness: ZygoteHarness) -> None:
    child = harness.worker(IDLE).ready()
    assert child.record.pid == child.pid
    harness.feed.wait("waits")
    child.send(signal.SIGTERM)
    assert left(child) == ExitKind.DRAINED
    harness.feed.take()
    assert harness.feed.lines == ["setup", "waits", "waited True", "teardown"]
    assert child.record.ack == Ack.DRAIN
    assert (child.record.rounds, child.record.good, child.record.errors) == (1, 1, 0)


def test_what_a_worker_knows_of_itself(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def __init__(self):
            self.early = (self.pool, self.slot)
        def setup(self):
            say(self.early, self.pool, self.slot, self.generation, self.options["a"], self.draining)
        def step(self): self.wait(None)
        def teardown(self): say(self.draining)
    """
    harness.fork(code, options={"a": [1, 2]})
    one, two = harness.spawn(2)
    one.ready(), two.ready()
    harness.feed.wait("('jobs', 0) jobs 0 1 [1, 2] False")
    harness.feed.wait("('jobs', 1) jobs 1 1 [1, 2] False")
    two.send(signal.SIGTERM)
    harness.feed.wait("True")


def test_a_drain_finishes_the_round(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def step(self):
            say("begin")
            while not self.draining: time.sleep(60)   # a signal ends the sleep's slice
            say("end")
        def teardown(self): say("teardown")
    """
    code = code.replace("time.sleep(60)", "time.sleep(0.01)")
    child = harness.worker(code).ready()
    harness.feed.wait("begin")
    child.send(signal.SIGTERM)
    assert left(child) == ExitKind.DRAINED
    harness.feed.take()
    assert harness.feed.lines == ["begin", "end", "teardown"]


def test_a_round_that_raises_is_logged_and_the_worker_stays(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        n = 0
        def step(self):
            self.n += 1
            if self.n < 3: raise ValueError(f"bad {self.n}")
            if self.n == 3: raise KeyboardInterrupt
            say("well")
            self.wait(None)
    """
    child = harness.worker(code).ready()
    harness.feed.wait("well")
    assert child.record.errors == 3
    log = harness.log()
    assert "ValueError: bad 1" in log
    assert "ValueError: bad 2" in log
    assert "KeyboardInterrupt" in log
    assert "users.py" in log
    child.send(signal.SIGTERM)
    assert left(child) == ExitKind.DRAINED
    assert (child.record.rounds, child.record.good) == (4, 1)
    assert child.record.text == ""


def test_too_many_errors_in_a_row_end_it(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        n = 0
        def step(self):
            self.n += 1
            if self.n != 3: raise ValueError(f"bad {self.n}")
        def teardown(self): say("teardown")
    """
    child = harness.worker(code, max_errors=3)
    assert left(child, 1) == ExitKind.MAX_ERRORS
    last = "step() raised ValueError: bad 6"
    assert child.record.text == f"3 rounds in a row raised, the last: {last}"
    harness.feed.wait("teardown")


def test_leaving_by_oneself(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def step(self): sys.exit(3)
        def teardown(self): say("teardown")
    """
    child = harness.worker(code)
    assert left(child, 3) == ExitKind.DIED
    assert child.record.text == "step() called sys.exit(3)"
    harness.feed.wait("teardown")


def test_an_older_error_is_not_told_as_why_it_leaves(harness: ZygoteHarness) -> None:
    code = """
    class Mute(Exception):
        def __str__(self): sys.exit(3)
    class W(Worker):
        errors = [Mute(), ValueError("old")]
        def step(self): raise self.errors.pop()
    """
    child = harness.worker(code)
    assert left(child, 3) == ExitKind.DIED
    assert child.record.text == "run() called sys.exit(3)"


def test_phases_and_clock_of_a_round(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def step(self):
            say("busy"); self.go()
            self.wait(None)
        def go(self):
            while not os.path.exists(GO): time.sleep(0.001)
    """
    before = time.monotonic_ns()
    child = harness.worker(gated(harness, code), round_timeout=50.0).ready()
    harness.feed.wait("busy")
    record = child.record
    assert record.phase == Phase.BUSY
    assert before < record.round_started < time.monotonic_ns()
    assert record.deadline == record.round_started + 50_000_000_000
    go(harness)
    until(lambda: record.phase == Phase.READY, "waiting")
    until(lambda: record.round_started == 0, "no round")  # stored after the phase


def test_without_a_limit_a_round_has_no_deadline(harness: ZygoteHarness) -> None:
    child = harness.worker("class W(Worker):\n    def step(self): say('x'); time.sleep(60)").ready()
    harness.feed.wait("x")
    assert child.record.deadline == 0


def test_the_rounds_clock_stands_still_in_wait(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def step(self):
            record = self._graced.writer.record
            started, deadline = record.round_started, record.deadline
            before = time.monotonic_ns()
            self.wait(0.2)
            waited = time.monotonic_ns() - before
            stood = record.deadline - deadline
            say(190e6 <= stood <= waited, record.round_started - started == stood)
            say(self._graced.writer.phase)
            self.wait(None)
    """
    harness.worker(code, round_timeout=5.0)
    harness.feed.wait("True True")
    harness.feed.wait(f"{Phase.BUSY}")


def test_a_round_can_be_extended_and_that_is_told(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def step(self):
            self.extend(1000)
            say("extended")
            time.sleep(60)
    """
    child = harness.worker(code).ready()
    harness.feed.wait("extended")
    left_ns = child.record.deadline - time.monotonic_ns()
    assert 900e9 < left_ns < 1000e9
    # There was no deadline, so the main process, which slept for ever, has to be told.
    harness.until(lambda: child.record.deadline, "the deadline")


def test_it_rings_when_it_turns_busy_if_it_was_asked_to(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def step(self):
            os.read(self.options["fd"], 1)
        def setup(self): pass
    """
    reader, writer = os.pipe()
    code = """
    class W(Worker):
        def step(self):
            say("round")
            self.wait_for(self.options["fd"], None)
            os.read(self.options["fd"], 1)
    """
    harness.write(code)
    os.set_inheritable(reader, True)
    child = nursery_with_fd(harness, code, reader).ready()
    harness.feed.wait("round")
    until(lambda: child.record.phase == Phase.READY, "waiting")
    harness.rang()
    os.write(writer, b"x")
    harness.feed.wait("round", 2)
    until(lambda: child.record.phase == Phase.READY, "waiting")
    assert harness.rang() == []
    child.record.ring_busy += 1
    os.write(writer, b"x")
    harness.feed.wait("round", 3)
    until(lambda: child.record.phase == Phase.READY, "waiting")
    assert harness.rang() == [child.id]
    child.record.ring_good += 1
    os.write(writer, b"x")
    harness.feed.wait("round", 4)
    assert harness.rang() == [child.id]
    os.write(writer, b"x")
    harness.feed.wait("round", 5)
    assert harness.rang() == []
    os.close(reader)
    os.close(writer)


def nursery_with_fd(harness: ZygoteHarness, code: str, fd: int) -> Child:
    """Start a worker that has one more descriptor: zygotes keep those of the events only."""
    path = f"/proc/{os.getpid()}/fd/{fd}"
    opened = f'self.options = {{"fd": os.open({path!r}, os.O_RDONLY)}}'
    setup = f"\n    options = None\n    def setup(self): {opened}\n"
    import textwrap

    return harness.worker(textwrap.dedent(code) + setup)


# Being replaced


def test_max_rounds_asks_for_a_replacement_and_goes_on(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def step(self):
            say("round")
            self.wait(0.001)
    """
    child = harness.worker(code, max_rounds=3).ready()
    child.until(lambda record: record.wants == Wants.MAX_ROUNDS, "wants")
    assert child.record.rounds >= 3
    harness.feed.wait("round", 6)
    child.send(signal.SIGTERM)
    assert left(child) == ExitKind.DRAINED


def test_max_rss_asks_for_a_replacement(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def step(self):
            self.wait(0.001)
    """
    child = harness.worker(code, max_rss=1 << 20).ready()
    child.until(lambda record: record.wants == Wants.MAX_RSS_AT_ONCE, "wants")


def test_max_rss_is_told_apart_from_one_that_nobody_can_keep(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def step(self):
            self.wait(0.01)
            writer = self._graced.writer
            if writer._rss_seen: type(writer)._rss = lambda _: 1 << 40  # it has grown
    """
    child = harness.worker(code, max_rss=1 << 39).ready()
    child.until(lambda record: record.wants == Wants.MAX_RSS, "wants")


def test_a_small_worker_is_left_alone(harness: ZygoteHarness) -> None:
    code = "class W(Worker):\n    def step(self):\n        say('round'); self.wait(0.001)"
    child = harness.worker(code, max_rss=1 << 40).ready()
    harness.feed.wait("round", 5)
    assert child.record.wants == Wants.NOTHING


def test_recycle_asks_for_a_replacement_once(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def step(self):
            self.recycle(); self.recycle()
            self.wait(None)
    """
    child = harness.worker(code).ready()
    child.until(lambda record: record.wants == Wants.RECYCLE, "wants")
    assert child.record.phase != Phase.LEFT


# setup() and teardown()


def test_a_setup_that_raises(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def step(self): self.wait(None)
        def setup(self): raise ValueError("no\\nluck")
        def teardown(self): say("teardown")
    """
    child = harness.worker(code)
    assert left(child, 1) == ExitKind.SETUP_FAILED
    assert child.record.text == "setup() raised ValueError: no luck"
    assert child.record.ready_at == 0
    harness.feed.take()
    assert harness.feed.lines == []
    assert "Traceback" in harness.log()


def test_a_setup_that_raises_what_has_a_reason_of_its_own(harness: ZygoteHarness) -> None:
    """As urllib's URLError has, and that is no text."""
    child = harness.worker("""
    import urllib.error
    class W(Worker):
        def setup(self): raise urllib.error.URLError(OSError("no route"))
        def step(self): pass
    """)
    assert child.ended().status == 1
    assert child.record.text == "setup() raised URLError: <urlopen error no route>"


def test_a_constructor_that_raises_is_a_setup_that_raises(harness: ZygoteHarness) -> None:
    child = harness.worker(
        "class W(Worker):\n    def step(self): pass\n    def __init__(self): 1 / 0"
    )
    assert left(child, 1) == ExitKind.SETUP_FAILED
    assert "ZeroDivisionError" in child.record.text


def test_an_error_that_cannot_be_printed(harness: ZygoteHarness) -> None:
    code = """
    class Bad(Exception):
        def __str__(self): raise RuntimeError
    class W(Worker):
        def step(self): self.wait(None)
        def setup(self): raise Bad
    """
    child = harness.worker(code)
    assert left(child, 1) == ExitKind.SETUP_FAILED
    assert child.record.text == "setup() raised Bad: (its str() raised RuntimeError)"


def test_leaving_in_setup(harness: ZygoteHarness) -> None:
    child = harness.worker(
        "class W(Worker):\n    def step(self): pass\n    def setup(self): sys.exit('enough')"
    )
    assert left(child, 1) == ExitKind.DIED
    assert child.record.text == "setup() called sys.exit('enough')"


@pytest.mark.parametrize("how", ["raise OSError('gone')", "sys.exit(5)"])
def test_a_teardown_that_raises_is_still_planned(harness: ZygoteHarness, how: str) -> None:
    code = f"""
    class W(Worker):
        def step(self): self.wait(None)
        def teardown(self): {how}
    """
    child = harness.worker(code).ready()
    child.send(signal.SIGTERM)
    assert left(child) == ExitKind.TEARDOWN_RAISED
    assert child.record.text.startswith("teardown() ")
    assert "OSError: gone" in harness.log() or "teardown() called sys.exit(5)" in harness.log()


def test_a_drain_in_setup_is_an_interrupt(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def step(self): self.wait(None)
        def setup(self):
            try:
                say("setup"); nap()
            finally:
                say("cleaned")
        def teardown(self): say("teardown")
    """
    child = harness.worker(code)
    harness.feed.wait("setup")
    repeat(child, signal.SIGTERM, Ack.DRAIN)
    assert left(child) == ExitKind.INTERRUPTED
    assert child.record.ack == Ack.DRAIN_IN_SETUP
    harness.feed.take()
    assert harness.feed.lines == ["setup", "cleaned"]


def test_a_drain_in_a_wait_in_setup_is_an_interrupt(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def step(self): self.wait(None)
        def setup(self):
            try: say("setup"); self.wait(None)
            except WorkerInterrupt: say("interrupted"); raise
    """
    child = harness.worker(code)
    harness.feed.wait("setup")
    child.send(signal.SIGTERM)
    assert left(child) == ExitKind.INTERRUPTED
    harness.feed.wait("interrupted")


def test_a_setup_may_wait(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def setup(self): say(self.wait(0.01), self._graced.writer.phase)
        def step(self): self.wait(None)
    """
    harness.worker(code).ready()
    harness.feed.wait(f"False {Phase.SETUP}")


def test_a_setup_that_swallows_the_interrupt_gets_no_rounds(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def setup(self):
            try: say("setup"); nap()
            except BaseException: pass
        def step(self): say("step")
        def teardown(self): say("teardown")
    """
    child = harness.worker(code)
    harness.feed.wait("setup")
    repeat(child, signal.SIGTERM, Ack.DRAIN)
    assert left(child) == ExitKind.INTERRUPTED
    harness.feed.take()
    assert harness.feed.lines == ["setup", "teardown"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_wait_in_teardown_is_over_at_once(harness: ZygoteHarness, number: int) -> None:
    code = """
    class W(Worker):
        def step(self): self.wait(None)
        def teardown(self): say(self.wait(3600), self.wait(None))
    """
    child = harness.worker(code).ready()
    child.send(number)
    assert left(child) == (ExitKind.DRAINED if number == signal.SIGTERM else ExitKind.INTERRUPTED)
    harness.feed.wait("True True")


def test_wait_in_the_teardown_of_one_that_leaves_by_itself_is_over_at_once(
    harness: ZygoteHarness,
) -> None:
    code = """
    class W(Worker):
        def run(self): pass
        def teardown(self): say(self.wait(None))
    """
    child = harness.worker(code)
    assert left(child) == ExitKind.RETURNED
    harness.feed.wait("True")


# wait()


def test_wait_times_out(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def step(self):
            before = time.monotonic()
            woken = self.wait(0.05)
            say(woken, 0.05 <= time.monotonic() - before)
            say(self.wait(0), self.wait(-1))
            self.wait(None)
    """
    harness.worker(code).ready()
    harness.feed.wait("False True")
    harness.feed.wait("False False")


def test_other_signals_do_not_end_a_wait(harness: ZygoteHarness) -> None:
    child = harness.worker(IDLE).ready()
    until(lambda: child.record.phase == Phase.READY and process.state(child.pid) == "S", "asleep")
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT, signal.SIGCHLD):
        child.send(number)
    child.until(lambda record: record.stacks == 1, "stacks")
    until(lambda: process.state(child.pid) == "S", "asleep again")
    child.send(signal.SIGTERM)
    assert left(child) == ExitKind.DRAINED
    harness.feed.take()
    assert harness.feed.lines == ["setup", "waits", "waited True", "teardown"]


def test_wait_hears_though_user_code_took_the_wakeup_descriptor(harness: ZygoteHarness) -> None:
    code = """
    import socket
    class W(Worker):
        def setup(self):
            self.ours, theirs = socket.socketpair()
            theirs.setblocking(False)
            self.ours.setblocking(False)
            self.theirs = theirs
            signal.set_wakeup_fd(theirs.fileno())
        def step(self):
            self.wait(0.01)
            say(signal.set_wakeup_fd(self.theirs.fileno()) == self.theirs.fileno())
            say(self.wait(None))
    """
    child = harness.worker(code).ready()
    harness.feed.wait("True")
    until(lambda: process.state(child.pid) == "S", "asleep")
    child.send(signal.SIGTERM)
    assert left(child) == ExitKind.DRAINED
    harness.feed.wait("True", 2)


def test_wait_survives_a_wakeup_descriptor_that_was_closed(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def setup(self):
            reader, writer = os.pipe()
            os.set_blocking(writer, False)
            signal.set_wakeup_fd(writer)
            os.close(writer)
        def step(self):
            say(self.wait(0.01), self.wait(0.01))
            self.wait(None)
    """
    harness.worker(code).ready()
    harness.feed.wait("False False")


def test_other_threads_can_wait_too(harness: ZygoteHarness) -> None:
    code = """
    import threading
    class W(Worker):
        def setup(self):
            self.threads = [threading.Thread(target=self.other) for _ in range(3)]
            for thread in self.threads: thread.start()
        def other(self):
            say("other", self.wait(0.01))
            say("other", self.wait(None))
        def step(self): self.wait(None)
        def teardown(self):
            for thread in self.threads: thread.join()
    """
    child = harness.worker(code).ready()
    harness.feed.wait("other False", 3)
    child.send(signal.SIGTERM)
    assert left(child) == ExitKind.DRAINED
    harness.feed.wait("other True", 3)


def test_no_drain_is_lost_between_look_and_sleep(harness: ZygoteHarness) -> None:
    """One signal only, at any moment of a loop that waits again and again."""
    code = """
    class W(Worker):
        def step(self):
            say("on")
            for _ in range(100000):
                if self.wait(0): return
            self.wait(None)
    """
    harness.fork(code)
    rng = random.Random(1)
    for _ in range(30):
        child = harness.spawn()[0].ready()
        end = time.monotonic() + rng.random() * 0.02
        while time.monotonic() < end:
            pass
        child.send(signal.SIGTERM)
        assert left(child) == ExitKind.DRAINED
        harness.scoreboard.release(child.index)


# wait_for()


WAITS_FOR = """
import socket
class W(Worker):
    def setup(self): self.ours, self.theirs = socket.socketpair()
    def step(self):
        PLACE
    def teardown(self): say("teardown", self.wait_for(self.ours), self.wait_for(self.ours, 3600))
"""


def test_wait_for_says_whether_a_descriptor_is_readable(harness: ZygoteHarness) -> None:
    code = WAITS_FOR.replace(
        "PLACE",
        """
        say("nothing", self.wait_for(self.ours, 0.01), self.wait_for(self.ours.fileno(), -1))
        self.theirs.send(b"x")
        say("something", self.wait_for(self.ours), self.wait_for(self.ours, 0), self.ours.recv(9))
        self.theirs.close()
        say("end", self.wait_for(self.ours), self.ours.recv(9))
        say("waits", self.wait_for(os.pipe()[0]))
    """,
    )
    child = harness.worker(code).ready()
    harness.feed.wait("end True b''")
    until(lambda: child.record.phase == Phase.READY and process.state(child.pid) == "S", "asleep")
    assert child.record.round_started == 0  # the round's clock stands still
    child.send(signal.SIGTERM)
    assert left(child) == ExitKind.DRAINED
    harness.feed.take()
    assert harness.feed.lines == [
        "nothing False False",
        "something True True b'x'",
        "end True b''",
        "waits False",
        "teardown False False",
    ]


def test_an_interrupt_in_wait_for(harness: ZygoteHarness) -> None:
    child = harness.worker(WAITS_FOR.replace("PLACE", 'say("waits"); self.wait_for(self.ours)'))
    harness.feed.wait("waits")
    until(lambda: child.record.phase == Phase.READY and process.state(child.pid) == "S", "asleep")
    child.send(signal.SIGINT)  # once is enough, as in wait()
    assert left(child) == ExitKind.INTERRUPTED
    harness.feed.wait("teardown False False")


def test_wait_for_in_another_thread(harness: ZygoteHarness) -> None:
    code = WAITS_FOR.replace(
        "PLACE",
        """
        import threading
        thread = threading.Thread(target=self.other)
        thread.start()
        self.wait()
        thread.join()
    def other(self):
        say("nothing", self.wait_for(self.ours, 0.01))
        self.theirs.send(b"x")
        say("something", self.wait_for(self.ours), self.ours.recv(9))
        say("waits", self.wait_for(self.ours))
    """,
    )
    child = harness.worker(code).ready()
    harness.feed.wait("something True b'x'")
    child.send(signal.SIGTERM)
    assert left(child) == ExitKind.DRAINED
    harness.feed.wait("nothing False")
    harness.feed.wait("waits False")


@pytest.mark.parametrize("fd", ["theirs", "other thread"])
def test_a_descriptor_that_was_waited_for_ends_no_other_wait(fd: str) -> None:
    """Nor does it make one spin, or one of the same number that was opened since."""
    import threading

    worker = Worker()
    worker._graced.wakeup.open()
    reader, writer = os.pipe()
    os.write(writer, b"x")
    before = time.thread_time()
    if fd == "theirs":
        assert worker.wait_for(reader)
    else:
        thread = threading.Thread(target=worker.wait_for, args=[reader])
        thread.start()
        thread.join()
    assert not worker.wait(0.3)
    assert time.thread_time() - before < 0.15  # it slept
    again = os.dup(writer)
    assert not worker.wait_for(again, 0.01)
    worker._graced.wakeup.close()
    for number in (reader, writer, again):
        os.close(number)


@pytest.mark.parametrize(
    ("fd", "seconds", "error", "said"),
    [
        (None, None, TypeError, "a descriptor, or what has a fileno.., .*; not NoneType"),
        ("3", None, TypeError, "not str"),
        (True, None, TypeError, "not bool"),
        (1.0, None, TypeError, "not float"),
        (-1, None, ValueError, "not -1"),
        (1 << 40, None, ValueError, "not 1099511627776"),
        (900, None, OSError, "descriptor 900: it is closed"),
        (0, "1", TypeError, "seconds must be a number, not str"),
        (0, float("nan"), ValueError, "NaN"),
    ],
)
def test_what_cannot_be_waited_for(
    fd: object, seconds: object, error: type[Exception], said: str
) -> None:
    import threading

    worker = Worker()
    worker._graced.wakeup.open()
    with pytest.raises(error, match=said):
        worker.wait_for(fd, seconds)  # type: ignore[arg-type]
    told: list[BaseException] = []

    def elsewhere() -> None:
        try:
            worker.wait_for(fd, seconds)  # type: ignore[arg-type]
        except BaseException as wrong:  # noqa: BLE001
            told.append(wrong)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert [type(each) for each in told] == [error]
    assert not worker.wait(0)
    worker._graced.wakeup.close()


# Interrupts


def test_an_interrupt_ends_a_round(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def step(self):
            try:
                say("begin"); nap()
            except Exception: say("not an exception")
            finally: say("cleaned")
        def teardown(self): say("teardown")
    """
    child = harness.worker(code).ready()
    harness.feed.wait("begin")
    interrupt(child)
    assert left(child) == ExitKind.INTERRUPTED
    harness.feed.take()
    assert harness.feed.lines == ["begin", "cleaned", "teardown"]
    assert child.record.ack == Ack.INTERRUPT
    assert child.record.errors == 0


def test_an_interrupt_in_wait(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def step(self):
            try: say("waits"); self.wait(None)
            except WorkerInterrupt: say("interrupted"); raise
        def teardown(self): say("teardown")
    """
    child = harness.worker(code).ready()
    harness.feed.wait("waits")
    until(lambda: child.record.phase == Phase.READY and process.state(child.pid) == "S", "asleep")
    child.send(signal.SIGINT)  # once is enough: wait() raises by itself
    assert left(child) == ExitKind.INTERRUPTED
    harness.feed.take()
    assert harness.feed.lines == ["waits", "interrupted", "teardown"]


def test_an_interrupt_during_a_drain(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def step(self): say("begin"); nap()
        def teardown(self): say("teardown")
    """
    child = harness.worker(code).ready()
    harness.feed.wait("begin")
    drain(child)
    assert child.record.ack == Ack.DRAIN
    interrupt(child)
    assert left(child) == ExitKind.INTERRUPTED
    harness.feed.wait("teardown")


def test_who_swallows_the_interrupt_gets_no_second(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def step(self):
            try: say("begin"); nap()
            except BaseException: say("swallowed")
            for _ in range(50): time.sleep(0.005)
            self.wait(10)
            with self.critical(10): pass
            say("end")
        def teardown(self): say("teardown")
    """
    child = harness.worker(code).ready()
    harness.feed.wait("begin")
    repeat(child, signal.SIGINT, Ack.INTERRUPT)  # one alone may come right before the sleep
    harness.feed.wait("swallowed")
    for _ in range(20):
        child.send(signal.SIGINT)
        os.sched_yield()
    assert left(child) == ExitKind.INTERRUPTED
    harness.feed.take()
    assert harness.feed.lines == ["begin", "swallowed", "end", "teardown"]


def test_an_interrupt_lost_in_a_callback_is_raised_again(harness: ZygoteHarness) -> None:
    """What a weak reference's callback raises is printed and forgotten by Python."""
    code = """
    import weakref
    class Thing: pass
    def spin(_):
        say("in callback")
        end = time.monotonic() + 60  # until it is interrupted
        while time.monotonic() < end: pass
        say("not interrupted")
    class W(Worker):
        def step(self):
            thing = Thing()
            ref = weakref.ref(thing, spin)
            del thing
            say("after")
            while True: time.sleep(0.001)
        def teardown(self): say("teardown")
    """
    child = harness.worker(code).ready()
    harness.feed.wait("in callback")
    child.send(signal.SIGINT)
    harness.feed.wait("after")
    assert child.record.ack == Ack.NONE
    interrupt(child)
    assert left(child) == ExitKind.INTERRUPTED
    harness.feed.take()
    assert harness.feed.lines == ["in callback", "after", "teardown"]


def test_an_interrupt_keeps_out_of_del(harness: ZygoteHarness) -> None:
    code = """
    class Thing:
        def __del__(self):
            try:
                say("in del")
                while not os.path.exists(GO): pass
                say("whole")
            except BaseException as error: say("BROKEN", error)
    class W(Worker):
        def step(self):
            Thing()
            try:
                say("after")
                while True: time.sleep(0.001)
            except WorkerInterrupt: say("interrupted"); raise
    """
    child = harness.worker(gated(harness, code)).ready()
    harness.feed.wait("in del")
    child.send(signal.SIGINT)
    go(harness)
    harness.feed.wait("after")
    interrupt(child)
    assert left(child) == ExitKind.INTERRUPTED
    harness.feed.take()
    assert harness.feed.lines == ["in del", "whole", "after", "interrupted"]


def test_a_teardown_is_never_interrupted(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def step(self): say("begin"); self.wait(None)
        def teardown(self):
            say("teardown")
            with self.critical(1): time.sleep(0.01)
            while not os.path.exists(GO): time.sleep(0.001)
            self.wait(0.01)
            say("whole")
    """
    child = harness.worker(gated(harness, code)).ready()
    harness.feed.wait("begin")
    child.send(signal.SIGTERM)
    harness.feed.wait("teardown")
    for _ in range(50):
        child.send(signal.SIGINT)
        os.sched_yield()
    child.until(lambda record: record.ack == Ack.INTERRUPT, "ack")  # so the sender may stop
    go(harness)
    assert left(child) == ExitKind.DRAINED or child.record.left == ExitKind.INTERRUPTED
    harness.feed.take()
    assert harness.feed.lines == ["begin", "teardown", "whole"]


def test_users_own_interrupts_are_ordinary_errors(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        n = 0
        def step(self):
            self.n += 1
            if self.n == 1: raise WorkerInterrupt
            say("well"); self.wait(None)
    """
    child = harness.worker(code).ready()
    harness.feed.wait("well")
    assert child.record.errors == 1


# Critical sections


LEASED = """
class W(Worker):
    def step(self):
        say("begin")
        with self.critical(60):
            while not os.path.exists(GO): time.sleep(0.001)
            say("inside")
        say("after")
        time.sleep(60)
    def teardown(self): say("teardown")
"""


def test_a_critical_section_is_not_interrupted_but_then(harness: ZygoteHarness) -> None:
    child = harness.worker(gated(harness, LEASED)).ready()
    harness.feed.wait("begin")
    until(lambda: child.record.lease_until, "the lease")
    seen = time.monotonic_ns()
    child.send(signal.SIGINT)  # once: the end of the section raises by itself
    lasted = time.monotonic_ns() - seen
    go(harness)
    assert left(child) == ExitKind.INTERRUPTED
    harness.feed.take()
    assert harness.feed.lines == ["begin", "inside", "teardown"]
    assert child.record.leased >= lasted
    assert child.record.lease_until == 0


def test_a_section_in_another_thread_leaves_the_interrupt_to_the_main_one(
    harness: ZygoteHarness,
) -> None:
    code = """
    import threading
    class W(Worker):
        def step(self):
            thread = threading.Thread(target=self.section)
            thread.start()
            try: time.sleep(60)
            finally: thread.join()
        def section(self):
            with self.critical(60):
                say("begin")
                while not os.path.exists(GO): time.sleep(0.001)
            say("after")
        def teardown(self): say("teardown")
    """
    child = harness.worker(gated(harness, code)).ready()
    harness.feed.wait("begin")
    child.send(signal.SIGINT)
    go(harness)
    assert left(child) == ExitKind.INTERRUPTED
    harness.feed.take()
    assert sorted(harness.feed.lines) == ["after", "begin", "teardown"]


def test_a_lease_is_seen_and_its_end_is_told(harness: ZygoteHarness) -> None:
    child = harness.worker(gated(harness, LEASED)).ready()
    harness.feed.wait("begin")
    until(lambda: child.record.lease_until, "the lease")
    since, end = child.record.lease_since, child.record.lease_until
    assert end - since == 60_000_000_000
    drain(child)
    assert child.record.ack == Ack.DRAIN
    go(harness)
    child.until(lambda record: record.lease_until == 0, "the lease's end")  # by a ring


def test_a_lease_beyond_the_longest_is_refused_and_holds_nothing(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def step(self):
            for seconds in (3600.001, 1e300, float("inf")):
                try:
                    with self.critical(seconds): say("leased")
                except ValueError as error: say("refused", error)
            with self.critical(3600):
                with self.critical(3600): say("longest")
            say("left", self._graced.writer.record.lease_until)
            self.wait()
    """
    child = harness.worker(code).ready()
    harness.feed.wait("left 0")
    first, *_ = told = harness.feed.lines
    assert "max_lease" in first
    assert "3600 seconds" in first
    assert [line.split()[0] for line in told] == ["refused"] * 3 + ["longest", "left"]
    drain(child)


def test_an_overlong_lease_holds_no_longer_than_it_said(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def step(self):
            with self.critical(0.1):
                say("inside"); nap()
        def teardown(self): say("teardown")
    """
    child = harness.worker(code).ready()
    harness.feed.wait("inside")
    interrupt(child)
    assert left(child) == ExitKind.INTERRUPTED
    assert 100_000_000 <= child.record.leased <= 101_000_000
    harness.feed.wait("teardown")


def test_sections_may_be_nested(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def step(self):
            with self.critical(30):
                with self.critical(60): say("inner", self._graced.writer.record.lease_until > 0)
                say("outer", self._graced.writer.record.lease_until > 0)
                os.kill(os.getpid(), signal.SIGINT)
                say("still")
            say("never")
        def teardown(self): say("teardown", self._graced.writer.record.lease_until)
    """
    child = harness.worker(code).ready()
    assert left(child) == ExitKind.INTERRUPTED
    harness.feed.take()
    assert harness.feed.lines == ["inner True", "outer True", "still", "teardown 0"]


def test_wait_in_a_section_hears_a_drain_but_no_interrupt(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def step(self):
            with self.critical(60):
                say("waiting"); say(self.wait(None)); say("inside")
            say("never")
    """
    child = harness.worker(code).ready()
    harness.feed.wait("waiting")
    child.send(signal.SIGINT)
    assert left(child) == ExitKind.INTERRUPTED
    harness.feed.take()
    assert harness.feed.lines == ["waiting", "True", "inside"]


def test_a_section_that_raises_and_an_interrupt(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def step(self):
            try:
                with self.critical(60):
                    os.kill(os.getpid(), signal.SIGINT)
                    raise ValueError("inside")
            except WorkerInterrupt as error: say(repr(error.__context__)); raise
    """
    child = harness.worker(code).ready()
    assert left(child) == ExitKind.INTERRUPTED
    harness.feed.wait("ValueError('inside')")


# A run() of one's own


def test_a_loop_of_ones_own(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def run(self):
            while not self.draining:
                say("turn", self._graced.writer.phase)
                self.wait(None)
        def teardown(self): say("teardown")
    """
    child = harness.worker(code).ready()
    harness.feed.wait(f"turn {Phase.BUSY}")
    child.send(signal.SIGTERM)
    assert left(child) == ExitKind.DRAINED
    harness.feed.wait("teardown")
    assert child.record.rounds == 0


def test_a_loop_of_ones_own_is_interrupted(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def run(self):
            try: say("run"); nap()
            finally: say("cleaned")
        def teardown(self): say("teardown")
    """
    child = harness.worker(code).ready()
    harness.feed.wait("run")
    interrupt(child)
    assert left(child) == ExitKind.INTERRUPTED
    harness.feed.take()
    assert harness.feed.lines == ["run", "cleaned", "teardown"]


def test_a_loop_that_calls_the_given_one(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def run(self):
            say("before"); super().run(); say("after")
        def step(self): self.wait(None)
    """
    child = harness.worker(code).ready()
    harness.feed.wait("before")
    until(lambda: child.record.phase == Phase.READY, "waiting")
    child.send(signal.SIGTERM)
    assert left(child) == ExitKind.DRAINED
    harness.feed.wait("after")
    assert child.record.rounds == 1


def test_a_loop_that_ends_unasked(harness: ZygoteHarness) -> None:
    child = harness.worker("class W(Worker):\n    def run(self): pass")
    assert left(child) == ExitKind.RETURNED
    assert child.record.text == "run() returned"


def test_a_loop_that_raises(harness: ZygoteHarness) -> None:
    child = harness.worker("class W(Worker):\n    def run(self): raise LookupError('lost')")
    assert left(child, 1) == ExitKind.DIED
    assert child.record.text == "run() raised LookupError: lost"
    assert "LookupError: lost" in harness.log()


def test_asyncio_in_a_loop_of_ones_own(harness: ZygoteHarness) -> None:
    code = """
    import asyncio
    class W(Worker):
        def run(self): asyncio.run(self.main())
        async def main(self):
            over = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
            say("running")
            await over.wait()
            say("over")
    """
    child = harness.worker(code).ready()
    harness.feed.wait("running")
    child.send(signal.SIGTERM)
    child.ended()
    harness.feed.wait("over")


# Event loops


@pytest.mark.parametrize(
    "main",
    [
        "say('running'); await asyncio.sleep(60)",
        "await self.spin()",
        "await asyncio.gather(self.spin(), asyncio.sleep(60))",
        """async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self.spin()); tasks.create_task(asyncio.sleep(60))""",
        "asyncio.get_running_loop().call_soon(self.block); await asyncio.sleep(60)",
    ],
)
@pytest.mark.parametrize("where", ["setup", "step", "run"])
def test_an_interrupt_gets_out_of_an_event_loop(
    harness: ZygoteHarness, main: str, where: str
) -> None:
    code = f"""
    import asyncio
    class W(Worker):
        def step(self): self.wait(None)
        def {where}(self): asyncio.run(self.main())
        async def main(self):
            try:
                {main}
            finally: say("cleaned")
        async def spin(self):
            say("running")
            while True: time.sleep(0.001); await asyncio.sleep(0)
        def block(self):
            say("running")
            while True: time.sleep(0.001)
        def teardown(self): say("teardown")
    """
    child = harness.worker(code)
    harness.feed.wait("running")
    interrupt(child)
    assert left(child) == ExitKind.INTERRUPTED
    harness.feed.take()
    assert harness.feed.lines == ["running", "cleaned", "teardown"][: 2 if where == "setup" else 3]
    assert child.record.errors == 0
    assert child.record.text == ""


GROUPS = """
class W(Worker):
    def step(self):
        try: say("begin"); self.wait(None)
        except WorkerInterrupt as error:
            {0}
    def teardown(self): say("teardown")
"""


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("raise BaseExceptionGroup('g', [error]) from None", ""),
        ("raise BaseExceptionGroup('g', [BaseExceptionGroup('h', [error])]) from None", ""),
        ("raise KeyboardInterrupt", ""),
        ("raise RuntimeError('a loop of its own') from error", ""),
        ("raise BaseExceptionGroup('g', [OSError('lost too'), error])", "lost too"),
        ("raise OSError('lost too')", "lost too"),
        ("sys.exit(130)", "step() called sys.exit(130) when it was interrupted"),
    ],
)
def test_what_an_interrupt_has_become_is_one(harness: ZygoteHarness, how: str, told: str) -> None:
    child = harness.worker(GROUPS.format(how)).ready()
    harness.feed.wait("begin")
    child.send(signal.SIGINT)
    assert left(child) == ExitKind.INTERRUPTED
    harness.feed.wait("teardown")
    assert child.record.errors == 0
    assert told in harness.log()
    assert bool(told) == bool(harness.log())


def test_an_interrupt_that_hits_as_a_wait_looks_for_a_drain_is_raised(
    harness: ZygoteHarness,
) -> None:
    code = """
    import os, signal
    from graced.workers.runtime import Runtime
    asked = Runtime.leaving.fget
    def hit(runtime):
        os.kill(os.getpid(), signal.SIGINT)
        return asked(runtime)
    class W(Worker):
        def step(self):
            Runtime.leaving = property(hit)
            try: say(f"wait: {self.wait(None)}")
            except WorkerInterrupt: say("interrupt")
    """
    child = harness.worker(code)
    assert left(child) == ExitKind.INTERRUPTED
    harness.feed.wait("interrupt")


def test_an_interrupt_reaches_the_code_of_another_stack() -> None:
    """As a greenlet's: no frame of ours is above it."""
    import sys

    from graced.workers.runtime import _is_user_code

    frame = sys._getframe()
    assert _is_user_code(frame)
    assert not _is_user_code(None)


def test_trio_cancels_its_tasks_when_interrupted(harness: ZygoteHarness) -> None:
    pytest.importorskip("trio")
    code = """
    import trio
    class W(Worker):
        def step(self): trio.run(self.main)
        async def main(self):
            try:
                async with trio.open_nursery() as tasks:
                    tasks.start_soon(trio.sleep, 60)
                    say("running")
            finally: say("cleaned")
        def teardown(self): say("teardown")
    """
    child = harness.worker(code).ready()
    harness.feed.wait("running")
    interrupt(child)
    assert left(child) == ExitKind.INTERRUPTED
    harness.feed.take()
    assert harness.feed.lines == ["running", "cleaned", "teardown"]
    assert child.record.errors == 0


ASYNCIO_TERM = """
import asyncio
class W(Worker):
    def {0}(self):
        asyncio.run(self.main())
        say("draining", self.draining, self.wait(0))
    async def main(self):
        over = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
        say("running")
        await over.wait()
    def teardown(self):
        os.kill(os.getpid(), signal.SIGTERM)  # asyncio has left it to the default: the end
        say("teardown")
"""


@pytest.mark.parametrize("where", ["step", "run"])
def test_a_loop_that_took_the_signal_has_drained(harness: ZygoteHarness, where: str) -> None:
    child = harness.worker(ASYNCIO_TERM.format(where)).ready()
    harness.feed.wait("running")
    child.record.told = 1  # as the main process does before it sends the signal
    child.send(signal.SIGTERM)
    assert left(child) == ExitKind.DRAINED
    harness.feed.take()
    assert harness.feed.lines == ["running", "draining True True", "teardown"]
    assert child.record.ack == Ack.DRAIN


LEAVES = """
class W(Worker):
    def setup(self): signal.signal(signal.{0}, self.on_signal)
    def on_signal(self, number, frame): {1}
    def {2}(self):
        try: say("begin"); nap()
        finally: say("cleaned")
    def teardown(self): say("teardown")
"""


@pytest.mark.parametrize("where", ["step", "run"])
@pytest.mark.parametrize(
    ("number", "how", "end"),
    [
        ("SIGTERM", "sys.exit(0)", ExitKind.DRAINED),
        ("SIGTERM", "sys.exit()", ExitKind.DRAINED),
        ("SIGTERM", "sys.exit(3)", ExitKind.DIED),
        ("SIGINT", "raise KeyboardInterrupt", ExitKind.INTERRUPTED),
    ],
)
def test_a_handler_of_ones_own_that_leaves_as_it_was_asked_to(
    harness: ZygoteHarness, where: str, number: str, how: str, end: int
) -> None:
    child = harness.worker(LEAVES.format(number, how, where)).ready()
    harness.feed.wait("begin")
    child.record.told = 1 if number == "SIGTERM" else 2
    child.send(getattr(signal, number))
    assert left(child, 3 if end == ExitKind.DIED else 0) == end
    harness.feed.take()
    assert harness.feed.lines == ["begin", "cleaned", "teardown"]
    assert child.record.errors == 0


@pytest.mark.parametrize("how", ["sys.exit(0)", "raise KeyboardInterrupt"])
def test_who_was_not_asked_to_leave_has_died_or_erred(harness: ZygoteHarness, how: str) -> None:
    child = harness.worker(LEAVES.format("SIGTERM", how, "step"), max_errors=1).ready()
    harness.feed.wait("begin")
    child.send(signal.SIGTERM)
    child.ended()
    assert child.record.left in (ExitKind.OWN_HANDLER, ExitKind.MAX_ERRORS)


def test_a_worker_hears_again_what_a_loop_of_a_round_has_heard(harness: ZygoteHarness) -> None:
    code = """
    import asyncio
    class W(Worker):
        def step(self):
            asyncio.run(self.main())
            say("waits")
        async def main(self):
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, print)
        def teardown(self): say("teardown")
    """
    code = code.replace('say("waits")', "self.step = self.rest").replace(
        "def teardown", "def rest(self): say('waits'); self.wait(None)\n        def teardown"
    )
    child = harness.worker(code).ready()
    harness.feed.wait("waits")
    child.send(signal.SIGINT)
    assert left(child) == ExitKind.INTERRUPTED
    harness.feed.wait("teardown")


# The log


def test_the_log_is_standard_logging_in_the_daemons(harness: ZygoteHarness) -> None:
    code = """
    import warnings
    class W(Worker):
        def step(self): self.wait(None)
        def setup(self):
            self.log.info("set up %s", 17)
            self.log.debug("not shown")
            warnings.warn("a warning")
            say("told")
    """
    harness.worker(code)
    harness.feed.wait("told")
    lines = [line for line in harness.log().splitlines() if "set up 17" in line]
    assert len(lines) == 1
    assert "jobs/0" in lines[0]
    assert "not shown" not in harness.log()
    assert "a warning" in harness.log()


def test_logging_imported_in_the_zygote_knows_the_slot(harness: ZygoteHarness) -> None:
    code = """
    import logging
    logging.getLogger("mine").warning("imported")
    class W(Worker):
        def step(self): self.wait(None)
        def setup(self):
            logging.getLogger("mine").warning("hello")
            say("told")
    """
    harness.fork(code)
    harness.spawn(2)
    harness.feed.wait("told", 2)
    text = harness.log()
    assert "imported" in text
    assert "jobs/0" in next(line for line in text.splitlines() if "jobs/0" in line)
    hello = sorted(line.split("[")[0].split()[-1] for line in text.splitlines() if "hello" in line)
    assert hello == ["jobs/0", "jobs/1"]


HANDLERS = """
import logging, logging.config
class Sees(logging.Handler):
    def emit(self, record):
        place = (record.pool, record.slot, record.generation)
        say("saw", record.levelname, record.getMessage(), repr(record.exc_info[1]), *place)
class Breaks(logging.Handler):
    def emit(self, record): raise RuntimeError("no network")
CONFIGURED
class W(Worker):
    def step(self): self.wait(None)
    def WHERE(self, *_):
        try:
            self.recycle()
            raise ValueError("as asked")
        finally:
            say("raised")
"""
CONFIGS = {
    "none": "",
    "added": "logging.root.addHandler(Sees())",
    "its own": "logging.basicConfig(handlers=[Sees()], force=True)",
    "dictConfig": """
logging.getLogger("jobs").info("known")
logging.config.dictConfig({"version": 1, "handlers": {"h": {"()": Sees}},
    "root": {"handlers": ["h"], "level": "INFO"}})
""",
    "to the log": "logging.basicConfig(force=True, stream=open(LOG, 'a'), format='%(message)s')",
    "none left": "logging.root.handlers.clear()",
    "broken": "logging.basicConfig(handlers=[Sees(), Breaks()], force=True)",
    "off": "logging.basicConfig(handlers=[Sees()], force=True); logging.disable(logging.CRITICAL)",
}


@pytest.mark.parametrize("config", CONFIGS)
def test_what_a_round_raises_is_seen_by_handlers_and_is_once_in_the_log(
    harness: ZygoteHarness, config: str
) -> None:
    code = HANDLERS.replace("CONFIGURED", CONFIGS[config]).replace("WHERE", "step")
    code = code.replace("LOG", repr(str(harness.home / "log")))
    child = harness.worker(code, max_errors=1)
    assert left(child, 1) == ExitKind.MAX_ERRORS
    harness.feed.take()
    sees = "Sees" in CONFIGS[config] and config != "off"
    seen = ["saw ERROR step() raised ValueError('as asked') jobs 0 1"]
    assert harness.feed.lines == ["raised", *(seen if sees else [])]
    log = harness.log()
    assert log.count("step() raised") == 1, log
    assert log.count("\nValueError: as asked" if config == "to the log" else "ValueError: ") == 1
    assert ("RuntimeError: no network" in log) == (config == "broken")


@pytest.mark.parametrize("where", ["setup", "run", "teardown"])
def test_what_else_is_raised_is_seen_by_handlers(harness: ZygoteHarness, where: str) -> None:
    code = HANDLERS.replace("CONFIGURED", CONFIGS["its own"]).replace("WHERE", where)
    child = harness.worker(code)
    if where == "teardown":
        child.ready().send(signal.SIGTERM)
    child.ended()
    harness.feed.take()
    seen = f"saw ERROR {where}() raised ValueError('as asked') jobs 0 1"
    assert harness.feed.lines == ["raised", seen]
    assert harness.log().count("ValueError: as asked") == 1


def test_a_handler_of_logging_that_blocks_is_within_its_round(harness: ZygoteHarness) -> None:
    code = """
    import logging
    class Blocks(logging.Handler):
        def emit(self, record): say("blocks"); time.sleep(60)
    class W(Worker):
        def setup(self): logging.getLogger().addHandler(Blocks())
        def step(self): raise ValueError("as asked")
        def teardown(self): say("teardown")
    """
    child = harness.worker(code, round_timeout=50.0).ready()
    harness.feed.wait("blocks")
    assert child.record.phase == Phase.BUSY
    assert child.record.deadline
    interrupt(child)
    assert left(child) == ExitKind.INTERRUPTED
    harness.feed.take()
    assert harness.feed.lines == ["blocks", "teardown"]
    assert harness.log().count("raised") == 1


def test_what_raises_is_told_though_no_logger_can_be_had(harness: ZygoteHarness) -> None:
    code = """
    import logging
    class W(Worker):
        def setup(self): logging.Logger.manager = None
        def step(self): raise ValueError("as asked")
    """
    assert left(harness.worker(code, max_errors=1), 1) == ExitKind.MAX_ERRORS
    assert harness.log().count("ValueError: as asked") == 1


def test_a_traceback_that_is_too_long_keeps_its_end(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def step(self): raise ValueError("x" * 100_000 + "the end")
    """
    harness.worker(code, max_errors=1).ended()
    log = harness.log()
    assert "step() raised" in log
    assert "characters cut) … xxx" in log
    assert log.endswith("xthe end\n")


# Handlers and exit functions of the user's own


def test_a_handler_that_calls_the_one_before_it_drains(harness: ZygoteHarness) -> None:
    code = """
    import signal
    class W(Worker):
        def setup(self): self.before = signal.signal(signal.SIGTERM, self.on_term)
        def on_term(self, number, frame): say("mine"); self.before(number, frame)
        def step(self): say("waits"); say("woken", self.wait(None))
        def teardown(self): say("teardown")
    """
    child = harness.worker(code).ready()
    harness.feed.wait("waits")
    repeat(child, signal.SIGTERM, Ack.DRAIN)
    assert left(child) == ExitKind.DRAINED
    harness.feed.take()
    assert set(harness.feed.lines) == {"waits", "mine", "woken True", "teardown"}


def test_a_handler_of_ones_own_takes_the_drain_away_but_not_the_interrupt(
    harness: ZygoteHarness,
) -> None:
    code = """
    import signal
    class W(Worker):
        def setup(self): signal.signal(signal.SIGTERM, self.on_term)
        def on_term(self, number, frame): say("mine", self.draining)
        def step(self):
            try: say("waits"); self.wait(None)
            finally: say("cleaned")
        def teardown(self): say("teardown")
    """
    child = harness.worker(code).ready()
    harness.feed.wait("waits")
    for count in (1, 2):
        child.send(signal.SIGTERM)
        harness.feed.wait("mine False", count)
    assert child.record.ack < Ack.DRAIN
    repeat(child, signal.SIGINT, Ack.INTERRUPT)
    assert left(child) == ExitKind.INTERRUPTED
    harness.feed.take()
    assert harness.feed.lines[-2:] == ["cleaned", "teardown"]


def test_exit_functions_are_not_called_in_workers(harness: ZygoteHarness) -> None:
    code = """
    import atexit
    atexit.register(say, "exit function of the import")
    class W(Worker):
        def setup(self): atexit.register(say, "exit function of the worker")
        def step(self): self.wait(None)
        def teardown(self): say("teardown")
    """
    child = harness.worker(code).ready()
    child.send(signal.SIGTERM)
    assert left(child) == ExitKind.DRAINED
    harness.feed.take()
    assert harness.feed.lines == ["teardown"]


# Stacks


def test_a_stack_is_printed_and_told(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def step(self): self.deep()
        def deep(self):
            say("in")
            while True: time.sleep(0.01)  # a signal right before a long one would wait for its end
    """
    child = harness.worker(code).ready()
    harness.feed.wait("in")
    for count in (1, 2, 3):
        harness.stacks.clear(child.index)
        child.send(signal.SIGQUIT)
        child.until(lambda record, n=count: record.stacks == n, "stacks")  # type: ignore[misc]
        assert "in deep" in harness.stacks.read(child.index)
        assert harness.stacks.read(child.index).count("in deep") == 1
    child.send(signal.SIGTERM)


def test_a_stack_comes_even_while_c_code_holds_the_interpreter(harness: ZygoteHarness) -> None:
    code = """
    from itertools import chain, repeat
    class W(Worker):
        def step(self): self.stuck()
        def stuck(self):
            said = map(os.write, [int(os.environ["SAY"])], [b"in\\n"])  # when sum() begins
            sum(chain(said, repeat(0)))
    """
    child = harness.worker(code).ready()
    harness.feed.wait("in")
    child.send(signal.SIGQUIT)
    until(lambda: "in stuck" in harness.stacks.read(child.index), "the stack")
    assert child.record.stacks == 0


def test_a_crash_leaves_its_stack(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def step(self): self.crash()
        def crash(self): os.kill(os.getpid(), signal.SIGSEGV); time.sleep(60)
    """
    child = harness.worker(code).ready()
    assert child.ended().status == signal.SIGSEGV
    assert child.record.left == ExitKind.DIED
    assert "in crash" in harness.stacks.read(child.index)


THREADS = """
import threading
{2}
class W(Worker):
    def {0}(self):
        self.over = threading.Event()
        for n in range({1}):
            threading.Thread(target=self.deep, args=[60], daemon=True).start()
        say("set up")
        {3}
    def deep(self, n):
        if n: self.deep(n - 1)
        self.over.wait()
    def step(self): self.main_thread()
    def main_thread(self):
        say("in")
        while not os.path.exists(GO): time.sleep(0.01)
        {4}
"""


@pytest.mark.parametrize("count", [60, 120])
@pytest.mark.parametrize("how", ["asked", "crash"])
def test_the_main_threads_stack_is_never_lost(harness: ZygoteHarness, count: int, how: str) -> None:
    crash = "os.kill(os.getpid(), signal.SIGSEGV); time.sleep(60)"
    code = THREADS.format("setup", count, "", "", crash)
    child = harness.worker(gated(harness, code)).ready()
    harness.feed.wait("in")
    if how == "crash":
        go(harness)
        assert child.ended().status == signal.SIGSEGV
    else:
        child.send(signal.SIGQUIT)
        child.until(lambda record: record.stacks == 1, "stacks")
    told = harness.stacks.read(child.index)
    first = told.partition("in deep")[0]
    assert "in main_thread" in first
    assert ("in deep" in told) == (how == "asked" or count < 100)
    assert harness.stacks.read(child.index + 1) == ""


def test_the_main_threads_stack_is_there_where_a_round_has_just_begun_many(
    harness: ZygoteHarness,
) -> None:
    code = THREADS.format("begin", 120, "", "self.main_thread()", "").replace(
        "def step(self): self.main_thread()", "def step(self): self.begin()"
    )
    child = harness.worker(gated(harness, code)).ready()
    harness.feed.wait("in")
    child.send(signal.SIGQUIT)
    child.until(lambda record: record.stacks == 1, "stacks")
    told = harness.stacks.read(child.index)
    assert "in main_thread" in told.partition("in deep")[0]
    assert "in deep" in told


# Children of a worker


def test_a_crash_of_a_child_is_none_of_the_workers(harness: ZygoteHarness) -> None:
    """Its stack would be told as that of the worker's own death."""
    code = """
    class W(Worker):
        def step(self):
            pid = os.fork()
            if pid == 0: os.kill(os.getpid(), signal.SIGSEGV); time.sleep(60)
            say("status", os.waitpid(pid, 0)[1] & 0x7F)
            self.wait(None)
    """
    child = harness.worker(code).ready()
    harness.feed.wait(f"status {int(signal.SIGSEGV)}")
    assert harness.stacks.read(child.index) == ""


def test_a_forked_child_is_no_worker(harness: ZygoteHarness) -> None:
    code = """
    class W(Worker):
        def step(self):
            pid = os.fork()
            if pid == 0:
                say("child"); time.sleep(60); os._exit(0)
            say(pid)
            say("status", os.waitpid(pid, 0)[1])
            self.wait(None)
    """
    child = harness.worker(code).ready()
    harness.feed.wait("child")
    harness.feed.until(lambda: any(line.isdecimal() for line in harness.feed.lines), "a pid")
    pid = int(next(line for line in harness.feed.lines if line.isdecimal()))
    os.kill(pid, signal.SIGTERM)
    harness.feed.wait(f"status {signal.SIGTERM}")
    assert child.record.ack == Ack.NONE


def test_multiprocessing_can_end_its_children(harness: ZygoteHarness) -> None:
    code = """
    import multiprocessing
    def sleep(): time.sleep(60)
    class W(Worker):
        def step(self):
            child = multiprocessing.get_context("fork").Process(target=sleep)
            child.start(); child.terminate(); child.join()
            say("code", child.exitcode)
            self.wait(None)
    """
    harness.worker(code).ready()
    harness.feed.wait(f"code {-signal.SIGTERM}")


def test_what_a_worker_executes_has_ordinary_signals(harness: ZygoteHarness) -> None:
    code = """
    import subprocess
    class W(Worker):
        def step(self):
            code = ("import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []),"
                " [n for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN])")
            line = [sys.executable, "-S", "-c", code]
            said = subprocess.run(line, capture_output=True, text=True).stdout
            say(said.strip())
            self.wait(None)
    """
    harness.worker(code).ready()
    harness.feed.until(lambda: bool(harness.feed.lines), "an answer")
    blocked, ignored = harness.feed.lines[0].split("[")
    assert blocked.strip() == "set()"
    names = [name.split(":")[0] for name in ignored.split("<")[1:]]
    own = {"Signals.SIGPIPE", "Signals.SIGXFSZ"}  # the interpreter's
    assert set(names) <= own | {"Signals.SIGTTIN", "Signals.SIGTTOU"}  # or its output would stop it


# Outside of a daemon


def test_a_worker_can_be_used_without_a_daemon() -> None:
    class Mine(Worker):
        done = 0

        def step(self) -> None:
            with self.critical(1):
                self.done += 1
            self.extend(5)
            self.recycle()
            assert self.wait(0.001) is False

    mine = Mine()
    mine.setup()
    mine.step()
    mine.teardown()
    mine._graced.wakeup.close()
    assert (mine.done, mine.options, mine.draining) == (1, {}, False)


def test_interrupts_are_no_exceptions() -> None:
    assert not issubclass(WorkerInterrupt, Exception)


# Any moment


STRESSED = """
class Own(Exception): pass

class W(Worker):
    interrupts = 0
    where = ""

    def setup(self):
        try:
            say("setup")
            for _ in range(200): self.work()
        except WorkerInterrupt: self.saw("setup"); raise

    def step(self):
        try:
            for _ in range(5):
                self.work()
                self.wait(0)
                with self.critical(60):
                    self.where = "critical"
                    self.work()
                    self.where = ""
            self.wait(0.0005)
        except WorkerInterrupt:
            if self.where: say("BROKEN: in", self.where)
            self.saw("step")
            raise

    def work(self):
        for n in range(20): sum(range(n))

    def saw(self, where):
        self.interrupts += 1
        if self.interrupts > 1: say("BROKEN: twice")

    def teardown(self):
        say("teardown")
        try:
            end = time.monotonic() + 0.003
            while time.monotonic() < end: self.work(); self.wait(0)
            with self.critical(1): self.work()
        except BaseException as error: say("BROKEN: teardown", repr(error))
        say("whole")
"""


@pytest.mark.parametrize("seed", range(4))
def test_at_any_moment_an_interrupt_does_what_it_promises(
    harness: ZygoteHarness, seed: int
) -> None:
    """Hundreds of lives, interrupted again and again at random moments of each."""
    rng = random.Random(seed)
    harness.fork(STRESSED)
    ends = {ExitKind.INTERRUPTED: 0, ExitKind.DRAINED: 0}
    for _ in range(60):
        child = harness.spawn()[0]
        began = len(harness.feed.lines)
        spin(rng.choice([0, rng.random() * 0.001, rng.random() * 0.01]))
        if rng.random() < 0.5:
            send_quietly(child, signal.SIGTERM)
            spin(rng.random() * 0.004)
        repeat(child, signal.SIGINT, Ack.DRAIN_IN_SETUP, beat=rng.random() * 0.004)
        ends[left(child)] += 1
        harness.feed.take()
        said = harness.feed.lines[began:]
        assert not [line for line in said if "BROKEN" in line], said
        assert said.count("teardown") == said.count("whole")
        assert (said.count("whole") == 1) == (child.record.ready_at > 0 or "whole" in said)
        harness.scoreboard.release(child.index)
    assert ends[ExitKind.INTERRUPTED] > 10, ends
    assert "Traceback" not in harness.log()


def send_quietly(child: Child, number: int) -> None:
    try:
        child.send(number)
    except ProcessLookupError:
        pass


def spin(seconds: float) -> None:
    """Let some time pass at full speed: a random moment is what is wanted, not an event."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
