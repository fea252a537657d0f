"""Job workers for the tests of the running daemon; each says on the event FIFO what it does."""

from __future__ import annotations

import _thread
import fcntl
import os
import signal
import subprocess
import sys
import time

from sample_workers import say

from graced import Discard, Job, JobWorker, Retry
from graced.queue import worker_end
from graced.queue.job import Done


class Counting(JobWorker):
    """Says that it began and ended a job; takes `seconds` for it."""

    def handle(self, job: Job) -> object:
        say("begin", job.id, job.attempt)
        time.sleep(self.options.get("seconds", 0))
        say("end", job.id, job.attempt)
        return {"slot": self.slot}


class UntilDrained(JobWorker):
    """Says that it began and ended a job; ends it when it is to drain."""

    def handle(self, job: Job) -> None:
        say("begin", job.id, job.attempt)
        while not self.draining:
            time.sleep(0.01)
        say("end", job.id, job.attempt)


class Exact(JobWorker):
    """Appends to a file that a job began and ended: 1,000 jobs a second leave the FIFO alone."""

    def handle(self, job: Job) -> None:
        self._note("b", job)
        time.sleep(0.005)
        self._note("e", job)

    def _note(self, what: str, job: Job) -> None:
        fd = os.open(self.options["file"], os.O_WRONLY | os.O_APPEND)
        os.write(fd, f"{what} {job.id} {os.getpid()} {time.monotonic_ns()}\n".encode())
        os.close(fd)


class NotAsked(Discard):
    """As many write it: without a word to its base."""

    def __init__(self) -> None:
        self.since = time.time()


class NotYet(Retry):
    """The same."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __str__(self) -> str:
        return f"not yet: {self.what}"


class Various(JobWorker):
    """Ends a job in the way that it says."""

    def handle(self, job: Job) -> object:  # noqa: C901  # a table
        say("handle", job.id, job.attempt)
        match job.payload:
            case "raise":
                raise ValueError("this job raises")
            case "retry":
                if job.attempt == 1:
                    raise Retry(after=0.2)
                return job.attempt
            case "late":
                raise Retry(0, "not there yet")
            case "much later":
                raise Retry(after=10**40)
            case "altered":
                retry = Retry(1)
                retry.after = 1e30
                raise retry
            case "long":
                raise Discard("x" * (9 << 20))
            case "garbled":
                worker_end.NUMBERS[Done] = 99
            case "discard":
                raise Discard("nobody needs it")
            case "caught":
                raise Discard(ValueError("of no use"))  # type: ignore[arg-type]  # seen in the wild
            case "bare discard":
                raise NotAsked
            case "bare retry":
                raise NotYet("the disk is away")
            case "object":
                return object()
            case "nan":
                return float("nan")
            case "exit":
                sys.exit(3)
            case "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hang":
                time.sleep(600)
            case {"sh": str(script)}:
                subprocess.run(["sh", "-c", script], check=False)
            case "interrupt":
                _thread.interrupt_main()
                time.sleep(600)
            case "kill -INT":
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(600)
            case "KeyboardInterrupt":
                raise KeyboardInterrupt
            case "child":
                child = subprocess.Popen(["sleep", "600"])
                say("child", child.pid)
                time.sleep(600)
        return job.payload


class Stubborn(JobWorker):
    """Cleans up when it is interrupted, and says so."""

    def handle(self, job: Job) -> None:
        say("begin", job.id, job.attempt)
        try:
            time.sleep(600)
        finally:
            say("cleaned", job.id)


class AsTold(JobWorker):
    """Says that it begins a job, and does what the payload says: "stuck", "long", or nothing."""

    def handle(self, job: Job) -> object:
        say("begin", job.id, job.attempt, job.token)
        self.progress(0.4, f"page {job.id} of 10")
        if job.payload == "stuck":
            sum(range(10**12))  # in C, where no interrupt is heard
        if job.payload == "long":
            time.sleep(600)
        if job.payload == "gate":
            while not os.path.exists(self.options["gate"]):
                time.sleep(0.01)
        return job.payload


class Locking(JobWorker):
    """Holds a lock of its job's for as long as its process may work on it; says begin and end.

    The payload says how: politely, in a critical section, or with all signals blocked.
    """

    def handle(self, job: Job) -> str:
        fd = os.open(f"{self.options['locks']}/{job.id}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("overlap", job.id, job.token)
            raise
        say("begin", job.id, job.token, self.options["host"])
        if job.payload == "blocked":
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        if job.payload == "critical":
            with self.critical(600):
                self._work(job.id)
        else:
            self._work(job.id)
        say("end", job.id, job.token, self.options["host"])
        os.close(fd)
        return str(self.options["host"])

    def _work(self, id: int) -> None:
        places = [f"{self.options['locks']}/{name}" for name in ("go", f"go-{id}")]
        while not any(map(os.path.exists, places)):
            time.sleep(0.01)
