"""What is left of dead workers' process groups, until nothing is.

A group was sent SIGKILL when its worker died, but a process may take its time to
die. The job that it worked on must not run again before.
"""

from __future__ import annotations

import os

from graced.host import clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LOOK = 0.05  # seconds between two looks at a group: its last process may be no child of ours


class _Grave:
    """The groups of one worker, and what to do when they are empty."""

    __slots__ = ("done", "groups")

    def __init__(self, groups: list[int], done: Callable[[], None]) -> None:
        self.groups = groups
        self.done = done


class Graves:
    """The groups that are not empty yet."""

    def __init__(self) -> None:
        self._open: list[_Grave] = []
        self._look_at: float | None = None

    @property
    def closed(self) -> bool:
        """Whether nothing is left of anybody."""
        return not self._open

    def next_deadline(self) -> float | None:
        """When to look again, or None."""
        return self._look_at

    def bury(self, groups: Iterable[int], done: Callable[[], None]) -> None:
        """Call ``done`` once no process of these groups is left; mostly that is at once."""
        grave = _Grave([group for group in groups if group], done)
        if not self._close(grave):
            self._open.append(grave)
            self._look_at = clock.monotonic() + LOOK

    def look(self) -> None:
        """See which groups are empty by now."""
        self._open = [grave for grave in self._open if not self._close(grave)]
        self._look_at = clock.monotonic() + LOOK if self._open else None

    def _close(self, grave: _Grave) -> bool:
        grave.groups = [group for group in grave.groups if exists(group)]
        if grave.groups:
            return False
        grave.done()
        return True


def exists(group: int) -> bool:
    """Return whether a process of the group is left, be it a zombie."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
