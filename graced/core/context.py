"""What the pools of one daemon share: ids, jitter, and where their actions go. No rules."""

from __future__ import annotations

from graced.core.counters import Counters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from graced.core.actions import Action


class Context:
    """One of it for each daemon."""

    __slots__ = ("_last_id", "counters", "jitter", "out")

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._last_id = 0
        self.jitter = jitter
        self.counters = Counters()
        self.out: list[Action] = []

    def new_id(self) -> int:
        """Return a number that was never an id before."""
        self._last_id += 1
        return self._last_id

    def spread(self) -> float:
        """Limits are met up to a tenth early, so that a pool doesn't turn over at once."""
        return 1.0 - 0.1 * self.jitter()

    def do(self, actions: Iterable[Action]) -> None:
        """Ask for actions, after all that were asked for before."""
        self.out.extend(actions)
