"""What wakes the loop at the instants of schedules, and what their jobs have as payload."""

from __future__ import annotations

import selectors
import time

from graced.core.events import ClockSeen
from graced.host.memoryfile import StoredValue
from graced.host.walltimer import WallTimer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.core.events import Event
    from graced.settings import Schedule


class InstantTimer:
    """A timer in the loop's selector, once there is a schedule."""

    def __init__(self, selector: selectors.BaseSelector, emit: Callable[[Event], None]) -> None:
        self._selector = selector
        self._emit = emit
        self._timer: WallTimer | None = None
        self._at: float | None = None  # what it is set for

    def set(self, at: float | None) -> None:
        """Have the clock looked at when it comes to a moment; None: it does not matter when."""
        if at is None or at == self._at:
            return
        if self._timer is None:
            self._timer = WallTimer()
            self._selector.register(self._timer, selectors.EVENT_READ, self._rang)
        self._at = at
        self._timer.set(round(at * 1000))

    def _rang(self, _events: int) -> None:
        assert self._timer is not None
        self._timer.clear()
        self._at = None
        elapsed = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._emit(ClockSeen(time.time(), elapsed))


def payload_of(schedule: Schedule) -> str:
    """Return what a schedule's jobs have as payload, in JSON."""
    from graced.queue import jsonvalue

    payload = schedule.payload
    return jsonvalue.written(payload.read() if isinstance(payload, StoredValue) else payload)
