"""One job is one address: does it answer?"""

import asyncio
import time
from typing import Any

from graced import AsyncJobWorker, Discard, Job


class Reachable(AsyncJobWorker):
    """The payload is ``{"host": …, "port": …}``; the result, the seconds that it took."""

    async def handle(self, job: Job) -> dict[str, Any]:
        """Do one job; as many as the pool's `concurrency` says are in hand at once."""
        # What is raised is logged, and the job tried again later; Discard gives it up at once.
        match job.payload:
            case {"host": str(host), "port": int(port)}:
                begun = time.monotonic()
            case _:
                raise Discard(f'write {{"host": …, "port": …}}, not {job.payload!r}')
        _, writer = await asyncio.open_connection(host, port)
        writer.close()
        seconds = round(time.monotonic() - begun, 3)
        self.log.info("%s:%d answers after %.3f s", host, port, seconds)
        return {"seconds": seconds}
