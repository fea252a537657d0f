"""An asynchronous worker's event loop: how what the worker is asked reaches its tasks.

Signals raise nothing here: they wake the loop, in which the tasks are cancelled that are at work.
What those do, rounds or jobs, is in :mod:`.async_worker` and :mod:`.async_job_worker`. asyncio is
imported with this file, and by no other of graced's.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager
from contextvars import ContextVar

from graced.text import in_one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from types import FrameType
    from typing import Any

    from graced.workers.runtime import Runtime

MAX_NAMES = 5  # of tasks that stand at the same place
MAX_FRAMES = 100  # of one task
_NO_UVLOOP = (
    "options.uvloop is set, and uvloop is not installed: asyncio's loop is used;"
    " pip install 'graced[uvloop]', or apt install python3-uvloop"
)


class _Call:
    """A coroutine function that is called, a round say, with the tasks that it starts."""

    waits = 0  # of its tasks that wait
    pause: tuple[int, int | None] | None = None  # of its clock, meanwhile


_call: ContextVar[_Call | None] = ContextVar("graced_call", default=None)


class EventLoop:
    """One loop, for as long as its worker lives."""

    def __init__(self, runtime: Runtime, *, uvloop: bool) -> None:
        self._runtime = runtime
        self.loop = _new_loop(runtime, uvloop)
        self.draining = asyncio.Event()
        self.asked: list[Callable[[], None]] = []  # called when the worker has been asked to leave
        self._cut: Callable[[], object] | None = None  # cancels what is at work
        self._call: _Call | None = None  # what is at work
        self._knock = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.loop.add_reader(self._knock, self._look)
        self.loop.set_exception_handler(self._not_awaited)
        asyncio.set_event_loop(self.loop)
        runtime.on_asked = self.knock
        runtime.more_stacks = self._stacks

    def knock(self) -> None:
        """Have the loop look what the worker has been asked, from a signal handler, too."""
        os.eventfd_write(self._knock, 1)

    def caller(
        self,
        method: Callable[..., Coroutine[Any, Any, Any]],
        cut: Callable[[], object] | None = None,
    ) -> Callable[..., Any]:
        """Return a function that runs a coroutine function to its end.

        An interrupt calls `cut`, which by default cancels its task; then WorkerInterrupt is raised.
        """

        def call(*args: Any) -> Any:
            return self._run(method(*args), method.__name__, cut)

        call.__name__ = getattr(method, "__name__", type(method).__name__)
        return call

    def _run(
        self, coroutine: Coroutine[Any, Any, Any], name: str, cut: Callable[[], object] | None
    ) -> Any:
        runtime, call = self._runtime, _Call()
        token = _call.set(call)
        task = self.loop.create_task(coroutine, name=f"{name}()")
        _call.reset(token)
        before, self._cut, self._call = self._cut, cut or task.cancel, call
        self.knock()  # it may have been asked before
        try:
            return self.loop.run_until_complete(task)
        except (asyncio.CancelledError, Exception) as error:
            if runtime.raised is None:
                raise
            if not isinstance(error, asyncio.CancelledError):
                runtime.tell(f"{name}() raised when it was interrupted", error)
            raise runtime.raised from None
        finally:
            self._cut, self._call = before, None
            if call.waits:
                runtime.writer.resume(call.pause)
            if task.done() and not task.cancelled():
                task.exception()  # it is told here, if it has left the loop as well

    def _look(self) -> None:
        """See what the worker has been asked, in the loop."""
        try:
            os.eventfd_read(self._knock)
        except BlockingIOError:
            pass
        if self._runtime.leaving:
            self.draining.set()
        if self._cut is not None and self._runtime.take_interrupt():
            self._cut()
        for each in self.asked:
            each()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let the clock stand still of what is at work, while one of its tasks waits.

        A task that was started by something else, an earlier round say, has no say in that.
        """
        call, writer = _call.get(), self._runtime.writer
        if call is None or call is not self._call:
            yield
            return
        if not call.waits:
            call.pause = writer.pause()
        call.waits += 1
        try:
            yield
        finally:
            call.waits -= 1
            if not call.waits and call is self._call:
                writer.resume(call.pause)

    async def sleep(self, seconds: float | None) -> bool:
        """Sleep until the worker is asked to leave (True), or the time is over (False)."""
        try:
            async with asyncio.timeout(seconds):
                await self.draining.wait()
        except TimeoutError:
            return False
        return True

    async def readable(self, fd: int, seconds: float | None) -> bool:
        """Sleep until a descriptor is readable: True; the time is over or a drain asked: False."""
        ours = os.dup(fd)  # a loop has one reader for each, and others may wait for it, too
        found = self.loop.create_future()
        drained = self.loop.create_task(self.draining.wait())
        try:
            self.loop.add_reader(ours, _set, found)
            await asyncio.wait(
                (found, drained), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            self.loop.remove_reader(ours)
            os.close(ours)
            drained.cancel()
        return found.done()

    def close(self) -> None:
        """End what is left in the loop, as asyncio.run() does."""
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        ends = asyncio.gather(*tasks, return_exceptions=True)
        for task, ended in zip(tasks, self._quietly(ends), strict=False):
            if isinstance(ended, Exception):
                self._runtime.tell(f"task {task.get_name()} raised as it was cancelled", ended)
        self._quietly(self.loop.shutdown_asyncgens())
        self._tell_of_the_unseen()
        self._runtime.on_asked = self._runtime.more_stacks = None
        self.loop.remove_reader(self._knock)
        os.close(self._knock)
        self.loop.close()

    def _quietly(self, last: Any) -> Any:
        if asyncio.iscoroutine(last) or not last.done():
            return self.loop.run_until_complete(last)
        return last.result()

    def _tell_of_the_unseen(self) -> None:
        """Have tasks that ended badly say so: none awaits them any more, and the process ends."""
        import gc

        gc.collect()

    def _not_awaited(self, _loop: asyncio.AbstractEventLoop, about: dict[str, Any]) -> None:
        """Tell of what a task or a callback has raised that nothing awaits."""
        what = str(about.get("message") or "an error in the event loop")
        task, error = about.get("task") or about.get("future"), about.get("exception")
        if isinstance(error, (SystemExit, KeyboardInterrupt)):
            return  # it has left the loop, and is told there
        if isinstance(task, asyncio.Task):
            what = f"{what} ({task.get_name()})"
        if isinstance(error, BaseException):
            self._runtime.tell(what, error)
        else:
            self._runtime.log.error(what)

    def _stacks(self) -> str:
        """Return where each task stands, as faulthandler would write it; the same place once."""
        found: dict[str, list[str]] = {}
        for task in asyncio.all_tasks(self.loop):
            found.setdefault(_stack(task), []).append(task.get_name())
        return "".join(f"\n{_named(names)}:\n{stack}" for stack, names in found.items())


def _set(found: asyncio.Future[None]) -> None:
    if not found.done():
        found.set_result(None)


def _named(names: list[str]) -> str:
    names.sort()
    told = ", ".join(names[:MAX_NAMES])
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"Task {told}{more} (most recent call first)"


def _stack(task: asyncio.Task[Any]) -> str:
    frames = list(_frames(task.get_coro()))[:MAX_FRAMES]
    return "".join(
        f'  File "{frame.f_code.co_filename}", line {frame.f_lineno} in {frame.f_code.co_name}\n'
        for frame in reversed(frames)
    )


def _frames(awaited: Any) -> Iterator[FrameType]:
    """Yield the frames of a coroutine and of what it awaits, and so on."""
    while awaited is not None:
        frame = None
        for letter in ("cr", "gi", "ag"):
            frame = frame or getattr(awaited, f"{letter}_frame", None)
        if frame is not None:
            yield frame
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)


def _new_loop(runtime: Runtime, uvloop: bool) -> asyncio.AbstractEventLoop:
    """Return a loop; the one that runs, in a test without a daemon."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        pass
    if uvloop:
        try:
            from uvloop import new_event_loop
        except ImportError as error:
            absent = isinstance(error, ModuleNotFoundError)
            runtime.log.warning(_NO_UVLOOP if absent else f"uvloop: {in_one_line(error)}")
        else:
            made: asyncio.AbstractEventLoop = new_event_loop()
            return made
    return asyncio.new_event_loop()
