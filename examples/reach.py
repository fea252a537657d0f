"""Measure how long hosts take to answer, hundreds at once: one job is `host:port`, a JSON text.

    pools:
      reach:
        worker: reach:Reach
        path: [examples]
        concurrency: 500
        round_timeout: 10s

    $ graced submit --pool reach --wait --json '"127.0.0.1:22"'
    {"ms": 0.4}

A host that refuses is asked again later; one that does not answer within `round_timeout` as well.
"""

from __future__ import annotations

import asyncio
import time

from graced import AsyncJobWorker, Discard, Job, Retry

AGAIN_S = 60.0  # seconds until a host that refuses is asked again


class Reach(AsyncJobWorker):
    """One job is one address. ``options``: ``again``, in seconds."""

    async def handle(self, job: Job) -> dict[str, float]:
        host, colon, port = str(job.payload).rpartition(":")
        if not colon or not port.isdecimal():
            raise Discard(f"write host:port, not {job.payload!r}")
        began = time.monotonic()
        try:
            _reader, writer = await asyncio.open_connection(host, int(port))
        except OSError as error:
            again = float(self.options.get("again", AGAIN_S))
            raise Retry(again, f"{job.payload}: {error.strerror or error}") from None
        took = time.monotonic() - began
        writer.close()
        self.log.info("%s answers", job.payload)
        return {"ms": round(took * 1000, 1)}
