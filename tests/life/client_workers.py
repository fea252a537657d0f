"""Workers for the tests of graced.Queue in a running daemon."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from sample_workers import pass_gate

from graced import Job, JobWorker


class Asks(JobWorker):
    """Does what its job says, at the pools of its own daemon."""

    def handle(self, job: Job) -> Any:
        return getattr(self, job.payload)()

    def chain(self) -> Any:
        other = self.queue("echo")
        return other.wait(other.submit({"from": self.pool}), 60)

    def own(self) -> int:
        return self.queue().submit("environment")

    def forked(self) -> list[int]:
        queue = self.queue("echo")
        read, write = os.pipe()
        first = queue.submit(1)
        pid = os.fork()
        if pid == 0:
            os.write(write, str(queue.submit(2)).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        os.close(write)
        with os.fdopen(read) as answer:
            return [first, int(answer.read()), queue.submit(3)]

    def shell(self) -> str:
        words = ["submit", "--pool", "echo", "--wait", "--json", "[4]"]
        line = [sys.executable, "-m", "graced", *words]
        return subprocess.run(line, capture_output=True, text=True, check=True, cwd="/").stdout

    def environment(self) -> dict[str, str]:
        self.log.warning("looking\nat two lines")
        return {name: value for name, value in os.environ.items() if name.startswith("GRACED_")}

    def steps(self) -> str:
        self.progress(0.4, "page 4 of 10")
        pass_gate(self.options)
        return "ten pages"

    def forever(self) -> None:
        self.log.info("waiting")
        self.queue().wait(self.queue().submit("own", delay=3600))


    def slowly(self) -> None:
        def payloads() -> Iterator[int]:
            yield 1
            self.progress(0.5)
            time.sleep(3600)

        self.queue().submit_many(payloads())


class Echo(JobWorker):
    def handle(self, job: Job) -> Any:
        self.log.info("echo of %s", job.payload)
        return job.payload


class Notes(JobWorker):
    """Appends each payload to a file."""

    def handle(self, job: Job) -> None:
        fd = os.open(self.options["file"], os.O_WRONLY | os.O_APPEND)
        os.write(fd, f"{job.payload}\n".encode())
        os.close(fd)
