"""Stacks of other processes, asked for by signal and waited for with a bound.

A worker that runs Python code rings when its stack is written; one stuck in C
code writes it without ringing; one with its signals blocked never answers.
Zygotes and keepers don't ring: they are looked after.
"""

from __future__ import annotations

import signal

from graced import clock
from graced.core.events import StackPrinted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.core.events import Event
    from graced.host.stackdump import Stacks, Window
    from graced.log.logger import Log
    from graced.supervisor.children import Children
    from graced.supervisor.monitor import ScoreboardMonitor

LOOK_EVERY_S = 0.5  # seconds until a worker that has not rung is looked at
MAX_LOOKS = 4  # how often, at a process that has not written anything yet
NO_ANSWER = "no answer: its signals are blocked, or it is stopped"
NO_ROOM = "its stack was printed too often while no Python code runs in it; it is still stuck"
ENDED = "it ended before it could answer"


class _Asked:
    """One worker that was asked for its stack."""

    __slots__ = ("done", "has_room", "index", "looks", "stuck", "until")

    def __init__(self, index: int, until: float) -> None:
        self.index = index
        self.looks = MAX_LOOKS
        self.until = until
        self.has_room = True  # for its stack
        self.stuck = False  # its stack is evidence, should it be killed
        self.done: list[Callable[[str], None]] = []


class _AskedHelper:
    """A zygote or a keeper that was asked for its stack."""

    __slots__ = ("looks", "until", "what", "window")

    def __init__(self, what: str, window: Window) -> None:
        self.what = what
        self.window = window
        self.looks = MAX_LOOKS
        self.until = clock.monotonic() + LOOK_EVERY_S


class StackCollector:
    """The stacks that are being waited for."""

    def __init__(
        self,
        stacks: Stacks,
        monitor: ScoreboardMonitor,
        children: Children,
        emit: Callable[[Event], None],
        label: Callable[[int], str],
        log: Log,
    ) -> None:
        self._label = label
        self._stacks = stacks
        self._monitor = monitor
        self._children = children
        self._emit = emit
        self._log = log
        self._asked: dict[int, _Asked] = {}
        self._helpers: dict[int, _AskedHelper] = {}
        self._late: set[int] = set()  # they may still ring for what was taken without waiting

    def next_deadline(self) -> float | None:
        """When to stop waiting for a stack, or None."""
        times = [asked.until for asked in self._asked.values()]
        times += [asked.until for asked in self._helpers.values()]
        return min(times, default=None)

    def living(self) -> dict[int, int]:
        """Return the workers that can be asked, and their pids."""
        return self._children.living()

    def ask(self, worker: int, done: Callable[[str], None]) -> None:
        """Ask a worker for its stack; ``done`` gets the text, in bounded time."""
        if self._children.pid(worker) is None:
            done(ENDED)
            return
        asked = self._asked.get(worker)
        if asked is None:
            asked = self._send(worker)
        asked.done.append(done)

    def rang(self, worker: int) -> None:
        """A worker rang: perhaps its stack is written, asked for by us or by hand."""
        if not self._monitor.new_stack(worker):
            return
        if worker in self._asked:
            self._finish(worker)
        elif worker in self._late:
            self._late.discard(worker)
        elif text := self._take(self._children.index(worker)):
            self._logger(self._label(worker))(text)

    def tick(self, now: float) -> None:
        """Take what is there from those that did not answer in time."""
        for worker in [w for w, asked in self._asked.items() if now >= asked.until]:
            asked = self._asked[worker]
            asked.looks -= 1
            if asked.looks and not self._stacks.read(asked.index):
                asked.until = now + LOOK_EVERY_S
                continue
            self._finish(worker)
            self._late.add(worker)
        for pid in [pid for pid, asked in self._helpers.items() if now >= asked.until]:
            self._look_after(pid, self._helpers[pid], now)

    def forget(self, worker: int) -> None:
        """A worker is gone: no client waits for it any longer, and its window is another's."""
        self._late.discard(worker)
        asked = self._asked.pop(worker, None)
        for done in asked.done if asked is not None else ():
            done(ENDED)

    def print_stuck(self, worker: int) -> None:
        """Write the stack of a stuck worker to the log, then say so."""
        label = self._label(worker)

        def done(text: str) -> None:
            self._log.error(f"worker {label} is stuck:\n{text}")
            self._emit(StackPrinted(worker))

        self.ask(worker, done)
        if worker in self._asked:
            self._asked[worker].stuck = True

    def log_all(self) -> None:
        """Write the stack of every process to the log."""
        self._log.info(f"stack of the main process:\n{own_stack()}")
        for worker in self._children.living():
            self.ask(worker, self._logger(self._label(worker)))
        for pid, (what, window) in self._children.helpers().items():
            if pid not in self._helpers:
                self._helpers[pid] = _AskedHelper(what, window)
                window.clear()
                self._children.signal_helper(pid, signal.SIGQUIT)

    def _look_after(self, pid: int, asked: _AskedHelper, now: float) -> None:
        """Write the stack of a zygote or a keeper to the log, or give it more time."""
        asked.looks -= 1
        gone = pid not in self._children.helpers()
        text = ENDED if gone else asked.window.read()
        if not text and asked.looks:
            asked.until = now + LOOK_EVERY_S
            return
        del self._helpers[pid]
        self._log.info(f"stack of the {asked.what} (pid {pid}):\n{text or NO_ANSWER}")
        if not gone:
            asked.window.clear()

    def _logger(self, label: str) -> Callable[[str], None]:
        return lambda text: self._log.info(f"stack of worker {label}:\n{text}")

    def _send(self, worker: int) -> _Asked:
        index = self._children.index(worker)
        self._stacks.clear(index)
        asked = self._asked[worker] = _Asked(index, clock.monotonic() + LOOK_EVERY_S)
        asked.has_room = self._stacks.has_room(index)
        if asked.has_room:
            self._children.signal(worker, signal.SIGQUIT)
        return asked

    def _finish(self, worker: int) -> None:
        asked = self._asked.pop(worker)
        text = self._stacks.read(asked.index) if asked.stuck else self._take(asked.index)
        for done in asked.done:
            done(text or (NO_ANSWER if asked.has_room else NO_ROOM))

    def _take(self, index: int) -> str:
        """Return a stack and leave nothing of it: it would be told as that of a later death."""
        text = self._stacks.read(index)
        self._stacks.clear(index)
        return text


def own_stack() -> str:
    """Return the stack of the main process."""
    import sys
    import traceback

    return "".join(traceback.format_stack(sys._getframe(1)))
