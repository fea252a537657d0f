"""The workers of the chaos: each job holds a lock of its own and writes down that it ran.

Every line is written whole: ``begin|end|overlap POOL ID ATTEMPT N PID``.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time

from graced import Discard, Job, JobWorker, Retry, Worker

HOME = os.environ["CHAOS_HOME"]


def note(what: str, job: Job) -> None:
    """Write down what happens to a job."""
    line = f"{what} jobs {job.id} {job.attempt} {job.payload['n']} {os.getpid()}\n"
    fd = os.open(f"{HOME}/records", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    os.write(fd, line.encode())
    os.close(fd)


class Jobs(JobWorker):
    """Does what the job says, under the job's lock."""

    def handle(self, job: Job) -> object:
        """Return the job's number."""
        lock = os.open(f"{HOME}/locks/jobs-{job.id}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                note("overlap", job)
            note("begin", job)
            perform(self, job, lock)
            note("end", job)
        finally:
            os.close(lock)
        return job.payload["n"]


def perform(worker: Jobs, job: Job, lock: int) -> None:
    """Do what the job says."""
    seconds = job.payload["seconds"]
    match job.payload["do"]:
        case "child":  # of the worker's process group, and it holds the lock
            subprocess.run(["sleep", str(seconds)], pass_fds=[lock], check=False)
        case "lease":
            with worker.critical(5):
                time.sleep(seconds)
        case "hang":  # beyond round_timeout
            time.sleep(3600)
        case "raise":
            raise ValueError("chaos: a job that always raises")
        case "flaky" if job.attempt == 1:
            raise ValueError("chaos: a job that raises once")
        case "retry" if job.attempt == 1:
            raise Retry(0.2, "chaos: not yet")
        case "discard":
            raise Discard("chaos: nobody needs it")
        case "exit":
            os._exit(9)
        case "segv":
            os.kill(os.getpid(), signal.SIGSEGV)
        case _:
            time.sleep(seconds)


class Loop(Worker):
    """Works in short rounds, with waits between them."""

    def setup(self) -> None:
        """Be ready."""

    def step(self) -> None:
        """Work a little, wait a little."""
        time.sleep(0.02)
        self.wait(0.2)
