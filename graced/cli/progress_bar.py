"""How far a job is that a command waits for: one line on a terminal's standard error."""

from __future__ import annotations

import os
import sys
import time

from graced.queue.client_end import ClientEnd, sleep_until_ready
from graced.queue.protocol import QueueError, QueueGone
from graced.text import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

LOOK_S = 0.5  # seconds between two looks
CELLS = 20  # characters of the bar itself
CLEARED = "\r\x1b[K"


class ProgressBar:
    """Sleeps for the connection that waits, and meanwhile asks another one how far the job is."""

    def __init__(self, connect: Callable[[], ClientEnd]) -> None:
        self.job: int | None = None  # what is waited for
        self._connect = connect
        self._other: ClientEnd | None = None
        self._shown = ""
        self._is_allowed = True

    def sleep(self, fd: int, event: int, seconds: float | None) -> bool:
        """Sleep until a descriptor can be read or written: True; False once the time is over."""
        end = None if seconds is None else time.monotonic() + seconds
        while self.job is not None and self._is_allowed:
            left = LOOK_S if end is None else min(LOOK_S, end - time.monotonic())
            if left <= 0:
                return False
            if sleep_until_ready(fd, event, left):
                return True
            self._look(self.job)
        return sleep_until_ready(fd, event, seconds)

    def close(self) -> None:
        """Leave an empty line behind."""
        self._show("")
        if self._other is not None:
            self._other.close()
            self._other = None

    def _look(self, job: int) -> None:
        try:
            self._other = self._other or self._connect()
            page = self._other.jobs(None, job - 1, 1)
        except QueueGone:  # at the next look again
            self._other = None
        except QueueError:  # members of submit_group may wait, and not look
            self._is_allowed = False
        else:
            progress = page[0].get("progress") if page and page[0]["id"] == job else None
            self._show("" if progress is None else _line(progress))

    def _show(self, line: str) -> None:
        if line != self._shown:
            self._shown = line
            sys.stderr.write(CLEARED + line)
            sys.stderr.flush()


def on_terminal() -> bool:
    """Whether it is shown on a terminal."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _line(progress: dict[str, Any]) -> str:
    text, fraction = one_line(progress["text"]), progress["fraction"]
    if fraction is not None:
        full = round(CELLS * fraction)
        text = f"[{'#' * full}{'.' * (CELLS - full)}] {fraction:4.0%} {text}"
    return text[: _columns() - 1].rstrip()


def _columns() -> int:
    try:
        return os.get_terminal_size(2).columns or 80  # 0: not known
    except OSError:
        return 80
