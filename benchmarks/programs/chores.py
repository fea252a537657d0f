"""Workers for jobs."""

import time

from say import handled, say

from graced import Job, JobWorker


class Nothing(JobWorker):
    """Does nothing, and counts."""

    def handle(self, job: Job) -> None:
        handled()


class Telling(JobWorker):
    """Says when a job begins."""

    def setup(self) -> None:
        say(b"ready")

    def handle(self, job: Job) -> None:
        say(b"begin")


class Busy(Telling):
    """Never ends its first job."""

    def handle(self, job: Job) -> None:
        say(b"begin")
        time.sleep(3600)
