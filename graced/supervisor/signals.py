"""What each signal to the main process means: one table, and what it leads to.

Signals are counted where each is a wish of its own (SIGINT, SIGTTIN, SIGTTOU); of the others one
of each is enough. SIGCHLD comes last: a worker that is reaped now may have been sent the same
signal, and then the core has to know of that first.
"""

from __future__ import annotations

import signal

from graced import program
from graced.core import events as ev
from graced.host import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.core.daemon import Daemon
    from graced.core.pool import Pool
    from graced.log.logger import Log
    from graced.supervisor.children import Children
    from graced.supervisor.stacks import StackCollector

COUNTED = (signal.SIGINT, signal.SIGTTIN, signal.SIGTTOU)


class SignalTable:
    """Turns the signals that came into events."""

    def __init__(
        self,
        received: signals.Signals,
        daemon: Daemon,
        children: Children,
        stacks: StackCollector,
        emit: Callable[[ev.Event], None],
        scale: Callable[[Pool, int], str | None],
        log: Log,
    ) -> None:
        self._received = received
        self._had_terminal = received.had_terminal
        self._daemon = daemon
        self._children = children
        self._stacks = stacks
        self._emit = emit
        self._scale = scale
        self._log = log

    def handle(self, _events: int) -> None:
        """Take what came since the last call."""
        numbers = self._received.take()
        for _ in range(min(numbers.count(signal.SIGINT), 2)):
            self._emit(ev.InterruptAsked())
        others = dict.fromkeys(n for n in numbers if n not in COUNTED)
        for number in sorted(others, key=lambda n: n == signal.SIGCHLD):
            self._act_on(number)
        step = numbers.count(signal.SIGTTIN) - numbers.count(signal.SIGTTOU)
        if step and not self._had_terminal:
            self._scale_by(step)

    def _act_on(self, number: int) -> None:
        match number:
            case signal.SIGCHLD:
                self._children.reap()
            case signal.SIGTERM:
                self._emit(ev.DrainAsked())
            case signal.SIGHUP:
                self._hung_up()
            case signal.SIGQUIT:
                self._stacks.log_all()
            case signal.SIGUSR1:
                self._reopen_log()
            case signal.SIGUSR2:
                self._log.warning("SIGUSR2 is reserved and has no effect yet")

    def _hung_up(self) -> None:
        if not self._had_terminal or signals.has_terminal():
            self._emit(ev.ReloadAsked())
        elif self._received.hangup_was_ignored:
            self._had_terminal = False
            self._log.info("the terminal is gone; going on: SIGHUP was ignored at the start")
        else:
            self._log.warning("the terminal is gone: draining")
            self._emit(ev.DrainAsked())

    def _reopen_log(self) -> None:
        if self._log.reopen():
            self._log.info("log file opened again")
        else:
            self._log.error("the log file can't be opened again; the old one goes on")

    def _scale_by(self, step: int) -> None:
        pools = [pool for pool in self._daemon.pools.values() if not pool.going]
        if len(pools) > 1:
            self._log.warning(f"there is more than one pool: use {program.name} scale POOL N")
        elif pools and (problem := self._scale(pools[0], max(pools[0].target + step, 0))):
            self._log.warning(problem)
