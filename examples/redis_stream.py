"""Consume a Redis stream: each entry once, again if its worker died before it was acknowledged.

    pools:
      orders:
        worker: redis_stream:Consumer
        path: [examples]
        workers: 4
        options: {redis: "redis://localhost", stream: orders}

A drain finishes the entries that have been read. What a worker had that died is claimed by another
one after `idle` (60 s), which has to be longer than any entry takes.
"""

from __future__ import annotations

import os
from typing import Any

import redis.asyncio
from redis.exceptions import ResponseError

from graced import AsyncWorker

BLOCK_MS = 1000  # that a round waits for entries: a drain waits no longer for it


class Consumer(AsyncWorker):
    """One round is a batch. ``options``: ``redis``, ``stream``, ``group``, ``idle`` (seconds)."""

    async def setup(self) -> None:
        self.redis = redis.asyncio.Redis.from_url(self.options["redis"], decode_responses=True)
        self.stream = str(self.options["stream"])
        self.group = str(self.options.get("group", self.pool))
        self.name_there = f"{self.pool}-{self.slot}-{os.getpid()}"
        try:
            await self.redis.xgroup_create(self.stream, self.group, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):  # it is there already
                raise

    async def step(self) -> None:
        idle = int(float(self.options.get("idle", 60)) * 1000)
        found = await self.redis.xautoclaim(
            self.stream, self.group, self.name_there, min_idle_time=idle, count=10
        )
        entries = found[1]
        if not entries:
            read: Any = await self.redis.xreadgroup(
                self.group, self.name_there, {self.stream: ">"}, count=10, block=BLOCK_MS
            )
            entries = [entry for _, some in read for entry in some]
        for number, fields in entries:
            await self.handle(number, fields)
            await self.redis.xack(self.stream, self.group, number)

    async def handle(self, number: str, fields: dict[str, str]) -> None:
        """Do something with one entry. Override it; what it raises leaves the entry to others."""
        self.log.info("%s: %s", number, fields)

    async def teardown(self) -> None:
        await self.redis.aclose()
