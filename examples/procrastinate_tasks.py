"""The tasks of a procrastinate app, in workers that graced starts, reloads and drains.

    pools:
      tasks:
        worker: procrastinate_tasks:Tasks
        path: [examples, src]
        workers: 2
        drain_timeout: 2m
        options: {app: "shop.tasks:app", concurrency: 20}

It stands in for the command `procrastinate worker`. A drain lets tasks finish; an interrupt cuts
them short.
"""

from __future__ import annotations

import asyncio
from importlib import import_module

from procrastinate import App

from graced import AsyncWorker


class Tasks(AsyncWorker):
    """``options``: ``app``, ``concurrency``."""

    async def setup(self) -> None:
        module, _, name = self.options["app"].partition(":")
        self.app: App = getattr(import_module(module), name)
        await self.app.open_async()

    async def run(self) -> None:
        concurrency = int(self.options.get("concurrency", 1))
        working = asyncio.create_task(
            self.app.run_worker_async(concurrency=concurrency, install_signal_handlers=False)
        )
        drained = asyncio.create_task(self.wait())
        await asyncio.wait((working, drained), return_when=asyncio.FIRST_COMPLETED)
        working.cancel()  # which has it finish what it has begun
        try:
            await working
        except asyncio.CancelledError:
            pass

    async def teardown(self) -> None:
        await self.app.close_async()
