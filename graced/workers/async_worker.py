"""The AsyncWorker class that users subclass: its methods are coroutines, in a loop of its own.

How a worker lives is in :mod:`.runtime`, its event loop in :mod:`.event_loop`.
"""

from __future__ import annotations

from graced.host.scoreboard import Phase
from graced.workers.base import Worker
from graced.workers.event_loop import EventLoop
from graced.workers.record import sane
from graced.workers.runtime import descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import Any

    from graced.workers.runtime import HasFileno


class Asynchronous(Worker):
    """What asynchronous workers have in common."""

    _is_async = True
    __loop: EventLoop | None = None

    async def setup(self) -> None:
        """Prepare, in the new process. The worker is ready when this returns."""

    async def teardown(self) -> None:
        """Clean up, after a drain and after an interrupt, if setup() had returned."""

    async def wait(self, seconds: float | None = None) -> bool:  # type: ignore[override]
        """Sleep for `seconds`, or without limit; return True at once when asked to drain.

        Meanwhile the round's clock stands still. In ``teardown()`` it returns True at once: use
        :func:`asyncio.sleep` there.
        """
        seconds = None if seconds is None else sane(seconds)
        if self._graced.writer.phase > Phase.BUSY:
            return True
        with self._waiting():
            return await self._event_loop.sleep(seconds)

    async def wait_for(  # type: ignore[override]
        self, fd: int | HasFileno, seconds: float | None = None
    ) -> bool:
        """Sleep until `fd` is readable: True; False when the time is over or a drain asked for."""
        number = descriptor(fd)
        seconds = None if seconds is None else sane(seconds)
        if self._graced.writer.phase > Phase.BUSY:
            return False
        with self._waiting():
            return await self._event_loop.readable(number, seconds)

    def _waiting(self) -> AbstractContextManager[None]:
        """Let the round's clock stand still."""
        return self._event_loop.waiting()

    @property
    def _event_loop(self) -> EventLoop:
        if self.__loop is None:
            wanted = self.options.get("uvloop") is True
            self.__loop = EventLoop(self._graced, uvloop=wanted)
        return self.__loop

    def _as_call(self, method: Callable[..., Any]) -> Callable[..., Any]:
        return self._event_loop.caller(method)

    def _close(self) -> None:
        self._event_loop.close()


class AsyncWorker(Asynchronous):
    """What one worker does in an event loop. Name the subclass in ``config.yaml``."""

    _asks_for = "step(self)"

    async def step(self) -> None:
        """Do one round. Called again and again; what it raises is logged, and the worker stays."""
        raise NotImplementedError(f"{type(self).__name__} has neither step() nor run()")
