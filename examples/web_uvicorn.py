"""An ASGI application (Starlette, FastAPI, Django, …) served by uvicorn on the pool's sockets.

    pools:
      web:
        worker: web_uvicorn:Web
        path: [examples, src]
        workers: cpus
        listen: tcp://127.0.0.1:8000
        drain_timeout: 30s
        options: {app: "shop.web:app", uvloop: true}

The application is imported and started up in `setup()`: if that fails, a reload is refused. A drain
takes no more connections and finishes what has been asked; callers meanwhile reach other workers.
"""

from __future__ import annotations

import asyncio

import uvicorn

from graced import AsyncWorker


class Web(AsyncWorker):
    """``options``: ``app``, ``uvloop``."""

    async def setup(self) -> None:
        config = uvicorn.Config(self.options["app"], log_config=None)
        config.load()
        self.server = uvicorn.Server(config)
        self.server.lifespan = config.lifespan_class(config)
        self.listening = [each.dup() for each in self.sockets]
        await self.server.startup(sockets=self.listening)
        if self.server.should_exit:
            raise RuntimeError("the application has not started up; what it said is above")

    async def run(self) -> None:
        serving = asyncio.create_task(self.server.main_loop())
        await self.wait()
        self.server.should_exit = True
        await serving
        await self.server.shutdown(sockets=self.listening)
