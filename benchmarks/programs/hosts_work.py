"""The worker of the hosts' chaos: each job holds a lock of its own and writes down that it ran.

Every line is written whole: ``begin|end|overlap N ID TOKEN HOST``.
"""

import fcntl
import os
import time

from graced import Job, JobWorker


class Locked(JobWorker):
    """Works for a while, under the job's lock, which all hosts share."""

    def setup(self) -> None:
        """Open what is written to."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        self.records = os.open(f"{self.options['home']}/records", flags)

    def handle(self, job: Job) -> list[int]:
        """Return the job's number and the token of this hand-out."""
        path = f"{self.options['home']}/locks/{job.payload['n']}"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            self.note("begin", job)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.note("overlap", job)
            if job.payload["critical"]:
                with self.critical(60):
                    time.sleep(job.payload["seconds"])
            else:
                time.sleep(job.payload["seconds"])
            self.note("end", job)
        finally:
            os.close(lock)
        return [job.payload["n"], job.token]

    def note(self, what: str, job: Job) -> None:
        """Write down what happens to a job."""
        line = f"{what} {job.payload['n']} {job.id} {job.token} {self.options['host']}\n"
        os.write(self.records, line.encode())
