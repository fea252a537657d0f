"""What the recipes' workers serve and consume in their tests: it stops in the middle at a gate."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from redis_stream import Consumer
from sample_workers import say


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An ASGI application: half an answer, and the rest when the gate is open."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            say("started up")
            await send({"type": "lifespan.startup.complete"})
        say("shut down")
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"half ", "more_body": True})
    say("half", scope["path"])
    while scope["path"] == "/gated" and not os.path.exists(os.environ["GATE"]):
        await asyncio.sleep(0.005)
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})


async def broken(scope: dict[str, Any], receive: Any, send: Any) -> None:
    message = "this application never starts up"
    await send({"type": "lifespan.startup.failed", "message": message})


class Gated(Consumer):
    async def handle(self, number: str, fields: dict[str, str]) -> None:
        say("begin", fields["n"])
        while not os.path.exists(os.environ["GATE"]):
            await asyncio.sleep(0.005)
        say("end", fields["n"])
