"""When a keeper tells the main process how many jobs there are: soon after they changed, not often.

Changes that are rare are told at once; of a queue that is at work, four looks a minute remain.
Where nothing changes, nothing is done.
"""

from __future__ import annotations

from graced.queue.timing import NEVER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SPACING_S = 0.25  # seconds between two looks at least,
EVERY_S = 15.0  #   and in the long run
MOST_IN_A_ROW = 20.0  # looks that may be that close
SHARE = 50  # a look is this many times as long ago as it took, before the next one
_SHOWN: tuple[str, ...] = ("waiting", "taken", "done", "dead")


class DepthReport:
    """The looks of one keeper. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._due = NEVER
        self._last = 0.0
        self._took = 0.0
        self._credit = MOST_IN_A_ROW
        self._told: dict[str, Any] = {}

    def stirred(self, now: float) -> None:
        """Something may have changed: look before long."""
        if self._due == NEVER:
            enough = self._credit + (now - self._last) / EVERY_S >= 1.0
            wait = max(SPACING_S if enough else EVERY_S, SHARE * self._took)
            self._due = max(now, self._last + wait)

    def left(self, now: float) -> float:
        """Return in how many seconds a look is due."""
        return self._due - now if self._due != NEVER else NEVER

    def look(self, counts: dict[str, Any], now: float, took: float) -> dict[str, Any] | None:
        """Return what is to be told, if it is not what was told last; to count took so long."""
        self._due = NEVER
        self._credit = min(self._credit + (now - self._last) / EVERY_S, MOST_IN_A_ROW) - 1.0
        self._last, self._took = now, took
        shown = {state: counts[state] for state in _SHOWN if state in counts}
        if shown == self._told:
            return None
        self._told = shown
        return shown
