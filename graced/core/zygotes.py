"""The zygotes of one pool: each one's life, which of them forks, when the next is due.

What it means for the pool that one is lost is said in :mod:`graced.core.pool`.
"""

from __future__ import annotations

from graced.core.actions import KillZygote, StartZygote
from graced.core.backoff import wait
from graced.core.states import ZygoteState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container

    from graced.core.context import Context
    from graced.settings import Pool as Settings


class Zygote:
    """A process that forks workers of one generation."""

    __slots__ = ("deadline", "generation", "id", "ready_at", "settings", "state")

    def __init__(self, zygote: int, settings: Settings, generation: int, now: float) -> None:
        self.id = zygote
        self.settings = settings
        self.generation = generation
        self.state = ZygoteState.IMPORTING
        self.deadline: float | None = now + settings.ready_timeout  # of what its stage is about
        self.ready_at: float | None = None  # when it had loaded the code

    def imported(self, now: float) -> bool:
        """It has loaded the code; returns whether that is news."""
        if self.state is not ZygoteState.IMPORTING:
            return False
        self.state = ZygoteState.READY
        self.deadline = None
        self.ready_at = now
        return True

    def lost(self) -> bool:
        """It forks no more; returns whether that is news."""
        if self.state is ZygoteState.LOST:
            return False
        self.state = ZygoteState.LOST
        self.deadline = None
        return True

    def may_leave(self, now: float) -> None:
        """It failed, and leaves by itself: its log may have to be read before."""
        self.deadline = now + self.settings.stop_timeout

    def hurry(self, now: float) -> None:
        """The workers that it was told to fork are wanted no more: have them soon, or never.

        Soon is half of ``stop_timeout``. The other half is for a worker that was born,
        but only turns out to be when its zygote is dead.
        """
        if self.state is ZygoteState.READY:
            end = now + self.settings.stop_timeout / 2
            self.deadline = end if self.deadline is None else min(end, self.deadline)


class Zygotes:
    """All zygotes of one pool that have not been reaped."""

    __slots__ = ("_context", "_failures", "again_at", "by_id", "current")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._failures = 0  # of the code in force, in a row
        self.by_id: dict[int, Zygote] = {}
        self.current: int | None = None  # the one that forks for the generation in force
        self.again_at: float | None = None  # when that generation's code is loaded once more

    @property
    def ready(self) -> bool:
        """Whether the code in force is loaded."""
        zygote = self.by_id.get(self.current) if self.current is not None else None
        return zygote is not None and zygote.state is ZygoteState.READY

    def start(self, settings: Settings, generation: int, now: float) -> int:
        """Have a generation's code loaded; return the new zygote's id."""
        context = self._context
        zygote = Zygote(context.new_id(), settings, generation, now)
        self.by_id[zygote.id] = zygote
        context.do([StartZygote(zygote.id, settings, generation)])
        return zygote.id

    def restart(self, settings: Settings, generation: int, now: float) -> None:
        """Have the code in force loaded (again)."""
        self.again_at = None
        self.current = self.start(settings, generation, now)

    def put_in_force(self, zygote: int) -> None:
        """Another generation is in force from now on, and this one has its code."""
        self.current = zygote
        self.again_at = None
        self._failures = 0

    def load_again(self, lost: Zygote, now: float) -> float:
        """Replace the one that had the code in force; return the delay in seconds.

        One that had loaded the code is replaced at once, the next later and later.
        """
        limits, loaded_at = lost.settings.backoff, lost.ready_at
        if loaded_at is not None and now - loaded_at >= limits.reset:
            self._failures = 0
        first = loaded_at is not None and not self._failures
        delay = 0.0 if first else wait(limits, self._failures)
        self._failures += 1
        self.again_at = now + delay
        return delay

    def kill(self, zygote: Zygote) -> None:
        """End one that is of no use any more."""
        zygote.deadline = None
        self._context.do([KillZygote(zygote.id)])

    def keep_only(self, needed: Container[int]) -> None:
        """End all others."""
        for zygote in self.by_id.values():
            if zygote.id not in needed and zygote.lost():
                self.kill(zygote)
