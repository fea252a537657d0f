"""Workers for the tests of the running daemon: each says on the event FIFO what it does.

A line is written whole or not at all, whoever else writes: `time pid words…`.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time

from graced import SocketWorker, Worker


def say(*words: object) -> None:
    """Report to the test."""
    line = f"{time.monotonic():.6f} {os.getpid()} {' '.join(map(str, words))}\n"
    fd = os.open(os.environ["EVENTS"], os.O_RDWR | os.O_CLOEXEC)  # blocks for no reader
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


class Idle(Worker):
    """Waits for ever, and says when it begins and ends."""

    def setup(self) -> None:
        say("setup", self.pool, self.slot, self.generation)

    def step(self) -> None:
        say("woken", self.wait(3600))

    def teardown(self) -> None:
        say("teardown", self.slot)


class Waits(Idle):
    """Says when it is in its round, to wait for ever."""

    def step(self) -> None:
        say("waits", self.slot)
        say("woken", self.wait(3600))


class Silent(Worker):
    """Waits for ever without a word."""

    def step(self) -> None:
        self.wait(3600)


class Rounds(Idle):
    """Works in rounds of `seconds`; a half one is a `begin` without its `end`."""

    def step(self) -> None:
        say("begin", self.slot)
        time.sleep(self.options.get("seconds", 2))
        say("end", self.slot)


class Gated(Idle):
    """Works in rounds that end when the test opens its `gate`."""

    def step(self) -> None:
        say("begin", self.slot)
        pass_gate(self.options)
        say("end", self.slot)


def pass_gate(options: dict[str, str]) -> None:
    """Wait until somebody has opened the FIFO for writing."""
    os.close(os.open(options["gate"], os.O_RDONLY | os.O_CLOEXEC))


class Ticks(Idle):
    """Ends a round every 10 ms."""

    def step(self) -> None:
        self.wait(0.01)


class Counts(Idle):
    """Ends a round every millisecond; says at its end how many there were."""

    rounds = 0

    def step(self) -> None:
        self.rounds += 1
        self.wait(0.001)

    def teardown(self) -> None:
        say("teardown", self.slot, self.rounds)


class SlowSetup(Idle):
    """Is ready after `seconds`."""

    def setup(self) -> None:
        say("setting-up", self.slot)
        time.sleep(self.options.get("seconds", 20))
        super().setup()


class GatedSetup(Idle):
    """Is ready when the test opens its `gate`."""

    def setup(self) -> None:
        say("setting-up", self.slot)
        pass_gate(self.options)
        super().setup()


class Deaf(Idle):
    """Blocks every signal in a round without end."""

    def step(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        say("deaf", self.slot)
        while True:
            time.sleep(1)


class Hog(Idle):
    """Never lets the interpreter look at signals again."""

    def step(self) -> None:
        say("hog", self.slot)
        sum(itertools.repeat(0, 10**12))


class Raises(Idle):
    """Raises in every round; says so."""

    def step(self) -> None:
        say("raising", self.slot)
        raise ValueError("no such luck")


class FailsBeyondFirst(Silent):
    """The first of its generation is well, no other is."""

    def setup(self) -> None:
        if self.slot:
            raise RuntimeError("only one of us")


class ExitsInStep(Idle):
    """Is gone as soon as it is ready."""

    def step(self) -> None:
        os._exit(3)


class FailsInSetup(Idle):
    """Never becomes ready."""

    def setup(self) -> None:
        say("failing")
        raise RuntimeError("no database at db.example:5432")


class ExitsInSetup(Idle):
    """Leaves in setup, without an exception that could be caught."""

    def setup(self) -> None:
        say("exiting")
        os._exit(7)


class Dies(Idle):
    """Does to itself what `how` says, in the first life of its slot."""

    def step(self) -> None:
        how = self.options["how"]
        marker = f"{self.options['marks']}/{self.slot}"
        if not os.path.exists(marker):
            open(marker, "x").close()
            say("dying")
            if how == "exit":
                os._exit(self.options["code"])
            os.kill(os.getpid(), getattr(signal, how))
        self.wait(3600)


class Lease(Idle):
    """Works `seconds` under a lease of `lease` seconds."""

    def step(self) -> None:
        with self.critical(self.options.get("lease", 60)):
            say("begin", self.slot)
            time.sleep(self.options.get("seconds", 2))
            say("leased", self.slot)
        say("after", self.slot)
        time.sleep(30)
        say("end", self.slot)


class DeafLease(Idle):
    """Holds a lease far shorter than its work, and hears nothing."""

    def step(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        with self.critical(self.options["lease"]):
            say("begin", self.slot)
            time.sleep(60)


class Parent(Idle):
    """Has a child in its process group that survives whatever its parent does."""

    def setup(self) -> None:
        code = "import signal, time; signal.pthread_sigmask(0, range(1, 30)); time.sleep(3600)"
        child = subprocess.Popen([sys.executable, "-c", code])
        say("child", child.pid)
        super().setup()


class Looper(Idle):
    """Has a loop of its own."""

    def run(self) -> None:
        say("loop begins")
        while not self.draining:
            say("turn", self.wait(3600))
        say("loop over")


class AsyncioLooper(Idle):
    """Has an event loop of its own, which takes the signal that asks it to leave."""

    def run(self) -> None:
        import asyncio

        async def main() -> None:
            over = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
            say("loop begins")
            await over.wait()

        asyncio.run(main())
        say("loop over", self.draining)


class Environment(Idle):
    """Tells what it has got: variables, identity, descriptors."""

    def setup(self) -> None:
        say("env", os.environ.get("COLOUR"), os.environ.get("NOTIFY_SOCKET"))
        say("ids", os.getuid(), os.getgid(), os.environ.get("HOME"))
        say("groups", *os.getgroups())
        say("leads", os.getpgrp() == os.getpid(), os.getppid())
        say("stdin", os.readlink("/proc/self/fd/0"))
        fds = [(fd, _target(fd)) for fd in sorted(map(int, os.listdir("/proc/self/fd")))]
        say("fds", *(f"{fd}={target}" for fd, target in fds if target))
        super().setup()


def _target(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").replace(" ", "_")
    except OSError:
        return ""


class StubbornTeardown(Idle):
    """Takes `seconds` to clean up, and must not be disturbed in it."""

    def teardown(self) -> None:
        say("tearing", self.slot)
        time.sleep(self.options.get("seconds", 1))
        super().teardown()


class CatchesInterrupt(Rounds):
    """Says how often an interrupt comes to it."""

    def step(self) -> None:
        from graced import WorkerInterrupt

        try:
            say("begin", self.slot)
            time.sleep(60)
        except WorkerInterrupt:
            say("interrupted")
            time.sleep(0.5)
            say("cleaned")
            raise


class Greeter(SocketWorker):
    """Tells each caller who answers, after `seconds`, and takes what he says."""

    def setup(self) -> None:
        say("setup", self.pool, self.slot, self.generation)

    def handle(self, connection: socket.socket, address: object) -> None:
        connection.settimeout(30)
        said = connection.recv(100)
        if said == b"raise":
            raise ValueError("as asked")
        if said in (b"wait", b"hang", b"spin"):
            say("waiting")
        if said == b"spin":
            sum(itertools.repeat(0, 10**12))
        time.sleep(60 if said == b"hang" else self.options.get("seconds", 0))
        connection.sendall(f"{os.getpid()} {self.generation} {said.decode()}".encode())

    def teardown(self) -> None:
        say("teardown", self.slot)
