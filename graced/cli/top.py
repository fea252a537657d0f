"""`graced top`: pools, workers and queues, live in a terminal. Nothing is changed here.

It shows what `graced status` and the metrics have; lengths of time and rates are those between
two looks. How it is laid out is :mod:`rich`'s work, which is an extra.
"""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import time
from contextlib import suppress

from graced.cli.daemon_commands import ask
from graced.control.client import ControlError, NoDaemonError
from graced.exitcodes import CONFIG
from graced.log.console import complain
from graced.monitoring.troubles import troubles
from graced.text import one_line
from graced.units import format_size, format_span

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping
    from typing import Any

    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

    JSON = Mapping[str, Any]

EVERY_S = 1.0  # seconds between two looks
ANSWER_S = 5.0  # seconds that an answer may take
MISSING = "top needs rich: pip install 'graced[top]', or apt install python3-rich"
STYLES = {"ready": "green", "busy": "blue"}  # of workers' states; others are on their way
SORTS = ("slot", "busy for", "rounds", "errors", "age", "memory")
HELP = "q leaves   s sorts   ↑ ↓ scroll"
UP, DOWN, LEAVE = ("\x1b[A", "k"), ("\x1b[B", "j"), frozenset("qQ\x03\x04")
ENDS = frozenset((signal.SIGTERM, signal.SIGHUP))
KEY = re.compile("\x1b\\[.|.", re.DOTALL)  # an arrow is three characters


def top(args: argparse.Namespace) -> int:
    """Show it until q; once only where there is no terminal."""
    try:
        from rich.console import Console
    except ImportError:
        complain(MISSING)
        return CONFIG
    view = View()
    view.learn(ask(args, "metrics", timeout=ANSWER_S))
    console = Console(highlight=False, markup=False)
    live = console.is_terminal and not console.is_dumb_terminal
    if not (live and sys.stdin is not None and sys.stdin.isatty()):
        console.print(view.drawn(console.width, None))
        return 0
    return _run(args, view, console)


def _run(args: argparse.Namespace, view: View, console: Console) -> int:
    from rich.live import Live

    with Keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(view.drawn(console.width, console.height), refresh=True)
            due = time.monotonic() + EVERY_S
            while (left := due - time.monotonic()) > 0:
                pressed = keys.read(left)
                if not LEAVE.isdisjoint(pressed):
                    return 0
                for key in pressed:
                    view.obey(key)
                if pressed:
                    live.update(view.drawn(console.width, console.height), refresh=True)
            try:
                view.learn(ask(args, "metrics", timeout=ANSWER_S))
            except (ControlError, NoDaemonError) as error:
                view.lose(str(error))


class Keys:
    """The terminal's keys as they are pressed; it is as before afterwards."""

    def __enter__(self) -> Keys:
        import termios
        import tty

        self._before = termios.tcgetattr(0)
        self._woken, end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._end = end
        for number in (signal.SIGWINCH, *ENDS):
            signal.signal(number, lambda *_: None)
        self._wakeup = signal.set_wakeup_fd(end, warn_on_full_buffer=False)
        tty.setcbreak(0)
        return self

    def __exit__(self, *_error: object) -> None:
        import termios

        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(0, termios.TCSADRAIN, self._before)
        signal.set_wakeup_fd(self._wakeup)
        for number in (signal.SIGWINCH, *ENDS):
            signal.signal(number, signal.SIG_DFL)
        os.close(self._woken)
        os.close(self._end)

    def read(self, seconds: float) -> list[str]:
        """Return the keys that are pressed within so many seconds; or "resized", as "q" a kill."""
        ready, _, _ = select.select([0, self._woken], [], [], seconds)
        if self._woken in ready:
            came = os.read(self._woken, 4096)
            return ["resized"] if ENDS.isdisjoint(came) else ["q"]
        if 0 not in ready:
            return []
        pressed = os.read(0, 4096).decode("utf-8", "replace")  # a slow line brings several at once
        return KEY.findall(pressed) or ["q"]  # none: the terminal is gone


class View:
    """What is shown: the last answer, what has changed since the one before, in which order."""

    def __init__(self) -> None:
        self.answer: JSON = {}
        self.sort = 0
        self.first = 0  # row of the workers that is shown first
        self._at = 0.0
        self._before: JSON = {}
        self._before_at = 0.0
        self._lost: str | None = None

    def learn(self, answer: JSON) -> None:
        """Take a new answer."""
        self._before, self._before_at = self.answer, self._at
        self.answer, self._at = answer, time.monotonic()
        self._lost = None

    def lose(self, why: str) -> None:
        """There is no answer now: what is known stays."""
        self._lost = why

    def obey(self, key: str) -> None:
        """Do what a key asks for."""
        if key == "s":
            self.sort = (self.sort + 1) % len(SORTS)
        elif key in UP:
            self.first = max(self.first - 1, 0)
        elif key in DOWN:
            self.first += 1

    def drawn(self, width: int, height: int | None) -> RenderableType:
        """Return the picture for a terminal of this size."""
        from rich.console import Group
        from rich.text import Text

        status = self.answer["status"]
        parts: list[RenderableType] = [self._head(status), self._pools(status, width)]
        lines = [Text(one_line(line), "red", no_wrap=True, overflow="ellipsis")
                 for line in troubles(status)]  # fmt: skip
        parts += [*lines, Text()]
        used = 4 + len(status["pools"]) + len(lines)
        room = None if height is None else max(height - used - 3, 3)
        parts.append(self._workers(status, width, room))
        if height is not None:
            parts.append(Text(f"{HELP}   by {SORTS[self.sort]}", "dim"))
        return Group(*parts)

    def _head(self, status: JSON) -> RenderableType:
        from rich.text import Text

        state = status["state"] if status["ready"] else f"{status['state']}, not ready"
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(one_line(f"{status['name']} "), "bold")
        text.append(state, "green" if status["ready"] else "yellow")
        text.append(f"  generation {status['generation']}, up {format_span(status['uptime'])}")
        text.append(f", pid {status['pid']}", "dim")
        if self._lost is not None:
            ago = format_span(time.monotonic() - self._at)
            text.append(f"\nlost {ago} ago: {one_line(self._lost)}", "red")
        return text

    def _pools(self, status: JSON, width: int) -> Table:
        names = ("POOL", "READY", "BUSY", "RND/S", "JOBS/S", "WAIT", "TAKEN", "DEAD", "OLDEST")
        table = _table(width, *names)
        for name, pool in status["pools"].items():
            queue = pool.get("queue") or {}
            counts = (_number(queue.get(state)) for state in ("waiting", "taken", "dead"))
            table.add_row(
                _named(name),
                f"{pool['ready']}/{pool['target']}",
                str(pool["busy"]),
                self._rate("pools", name, "rounds"),
                self._rate("queues", name, "jobs", "done"),
                *counts,
                format_span(queue["oldest"]) if queue.get("oldest") else "",
                style="red" if pool["backoff"] else "",
            )
        return table

    def _rate(self, kind: str, name: str, *path: str) -> str:
        """Return how much a count grows in a second, from one answer to the next."""
        now, before = (_sum(each, kind, name, *path) for each in (self.answer, self._before))
        seconds = self._at - self._before_at
        if now is None or before is None or seconds <= 0:
            return ""
        rate = max(now - before, 0) / seconds
        return f"{rate:.1f}" if rate < 100 else f"{rate:.0f}"

    def _workers(self, status: JSON, width: int, room: int | None) -> Table:
        rows = sorted(_all_workers(status), key=self._key)
        self.first = max(min(self.first, len(rows) - (room or len(rows))), 0)
        shown = rows[self.first :] if room is None else rows[self.first : self.first + room]
        names = ("WORKER", "PID", "STATE", "BUSY FOR", "ROUNDS", "ERRORS", "AGE", "MEMORY")
        from rich.text import Text

        table = _table(width, *names, "GEN") if width >= 90 else _table(width, *names)
        for pool, worker in shown:
            cells: list[str | Text] = [
                _named(f"{pool}/{worker['slot']}"),
                _number(worker["pid"]),
                Text(worker["state"], STYLES.get(worker["state"], "yellow")),
                format_span(worker["busy_for"]) if worker["busy_for"] is not None else "",
                str(worker["rounds"]),
                str(worker["errors"]),
                format_span(worker["age"]),
                format_size(worker["rss"]),
                str(worker["generation"]),
            ]
            table.add_row(*cells[: len(table.columns)])
        return table

    def _key(self, row: tuple[str, JSON]) -> tuple[Any, ...]:
        pool, worker = row
        place = (pool, worker["slot"], worker["pid"] or 0)
        by = {1: "busy_for", 2: "rounds", 3: "errors", 4: "age", 5: "rss"}.get(self.sort)
        return place if by is None else (-(worker[by] or 0), *place)


def _all_workers(status: JSON) -> Iterator[tuple[str, JSON]]:
    for name, pool in status["pools"].items():
        for worker in pool["workers"]:
            yield name, worker


def _table(width: int, *names: str) -> Table:
    from rich.table import Table

    table = Table(box=None, expand=False, pad_edge=False, padding=(0, 2, 0, 0))
    for index, name in enumerate(names):
        left = index == 0 or name == "STATE"
        table.add_column(name, justify="left" if left else "right", no_wrap=index > 0 or width < 80,
                         overflow="ellipsis", header_style="dim")  # fmt: skip
    return table


def _named(name: str) -> Text:
    """Return the first cell of a row: the only one that is cut, from 80 columns on."""
    from rich.text import Text

    return Text(one_line(name), no_wrap=True, overflow="ellipsis")


def _sum(answer: JSON, kind: str, name: str, *path: str) -> float | None:
    found: Any = answer.get("counts", {}).get(kind, {}).get(name)
    for key in path:
        found = None if found is None else found.get(key)
    return sum(found.values()) if isinstance(found, dict) else found


def _number(value: object) -> str:
    return "" if value is None else str(value)
