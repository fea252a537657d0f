"""Asynchronous workers for the tests of the running daemon; they say on the FIFO what they do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time

from sample_workers import say

from graced import AsyncJobWorker, AsyncWorker, Job


class Jobs(AsyncJobWorker):
    """Does what the payload says; `gate` in the options is a file that opens it."""

    crowd = 0
    all_there: asyncio.Event

    async def setup(self) -> None:
        self.all_there = asyncio.Event()
        say("setup", type(asyncio.get_running_loop()).__module__)

    async def handle(self, job: Job) -> object:
        say("begin", job.id, job.attempt)
        what = job.payload["do"]
        try:
            result = await getattr(self, what)(job.payload)
        except asyncio.CancelledError:
            say("cut", job.id)
            raise
        say("end", job.id)
        return result

    async def gated(self, payload: dict[str, object]) -> str:
        self.progress(0.5, str(payload.get("at", "")))
        while not os.path.exists(self.options["gate"]):
            await asyncio.sleep(0.005)
        return "through"

    async def until_drained(self, payload: dict[str, object]) -> bool:
        return await self.wait()

    async def meet(self, payload: dict[str, int]) -> int:
        """Return only if so many jobs are in hand at once."""
        self.crowd += 1
        if self.crowd == payload["count"]:
            self.all_there.set()
        await self.all_there.wait()
        return self.crowd

    async def hangs(self, payload: dict[str, object]) -> None:
        await asyncio.sleep(3600)

    async def extended(self, payload: dict[str, object]) -> str:
        """Take longer than the round_timeout that the test gives, as it may."""
        await asyncio.gather(self.wait(0.1), self.wait(1))
        self.extend(30)
        with self.critical(30):
            await asyncio.sleep(0.5)
        await asyncio.sleep(0.5)
        await self.wait(0.5)
        return "in time"

    async def blocks(self, payload: dict[str, object]) -> None:
        time.sleep(3600)

    async def blocks_in_section(self, payload: dict[str, object]) -> None:
        with self.critical(0.5):
            await asyncio.sleep(0.4)
            time.sleep(3600)

    async def goes_on(self, payload: dict[str, object]) -> None:
        with self.critical(30):
            await asyncio.sleep(0.4)
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)

    async def forgets(self, payload: dict[str, object]) -> None:
        async def lost() -> None:
            raise LookupError("nobody awaits this")

        task = asyncio.create_task(lost())
        await asyncio.sleep(0.01)
        assert task.done()

    async def logs(self, payload: dict[str, object]) -> None:
        for _ in range(3):
            self.log.info("about %s", payload["name"])
            await asyncio.sleep(0)

    async def leaves(self, payload: dict[str, object]) -> None:
        sys.exit(7)

    async def teardown(self) -> None:
        say("teardown")


class Steps(AsyncWorker):
    """Waits in its rounds, beside a task that goes on over them."""

    async def setup(self) -> None:
        self.beats = 0
        self.beat = asyncio.create_task(self.go_on())
        read, self.write = os.pipe()
        self.read = os.fdopen(read)
        if self.options.get("hangs"):
            say("hangs")
            try:
                await asyncio.sleep(3600)
            finally:
                say("cleaned up")

    async def go_on(self) -> None:
        try:
            while True:
                await asyncio.sleep(0.001)
                self.beats += 1
        finally:
            say("stopped")

    async def step(self) -> None:
        assert not await self.wait_for(self.read, 0.01)
        os.write(self.write, b"x")
        assert await self.wait_for(self.read, 30)
        os.read(self.read.fileno(), 1)
        say("waits")
        try:
            drained = await self.wait(self.options.get("seconds"))
        finally:
            say("out")
        say("woken", drained)
        if self.options.get("raises"):
            raise ValueError("a step that raises")

    async def teardown(self) -> None:
        assert self.beats
        await asyncio.sleep(0.01)
        say("teardown", await self.wait(30))


class Company(AsyncWorker):
    """Waits in several tasks at once: one of the first round, and some of the second."""

    async def setup(self) -> None:
        self.pipes = [os.pipe(), os.pipe()]
        self.first: asyncio.Task[None] | None = None

    async def hear(self, number: int) -> None:
        assert await self.wait_for(self.pipes[number][0])
        say("heard", number)

    async def write(self) -> None:
        for _, write in self.pipes:
            os.write(write, b"x")

    async def step(self) -> None:
        if self.first is None:
            self.first = asyncio.create_task(self.hear(0))
            await asyncio.sleep(0)
        else:
            await asyncio.gather(self.hear(1), self.hear(1), self.wait(), self.write())


class Loop(AsyncWorker):
    """Has a loop of its own."""

    async def run(self) -> None:
        while not self.draining:
            say("round")
            await self.wait(30)
