"""Tasks of procrastinate for the test of its recipe, with a connector in memory and a job in it."""

from __future__ import annotations

import asyncio
import os

import procrastinate
from procrastinate.testing import InMemoryConnector
from procrastinate_tasks import Tasks
from sample_workers import say

app = procrastinate.App(connector=InMemoryConnector())


@app.task
async def gated() -> None:
    say("begin")
    while not os.path.exists(os.environ["GATE"]):
        await asyncio.sleep(0.005)
    say("end")


class WithOne(Tasks):
    async def setup(self) -> None:
        await super().setup()
        await gated.defer_async()
