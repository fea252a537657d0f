"""A new generation that is being proven in one pool, beside the one in force.

How far the proof is; the steps themselves are taken in :mod:`graced.core.pool`.
"""

from __future__ import annotations

from enum import Enum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.settings import Pool as Settings


class Trial(Enum):
    """How far the proof of a new generation is, in one pool."""

    IMPORTING = "importing"
    IMPORTED = "imported"
    YIELDING = "yielding"  # surge: 0, the old worker of slot 0 leaves first
    STARTING = "starting"
    PROVEN = "proven"


class Candidate:
    """What a reload proposes to one pool. The first worker of it is the canary."""

    __slots__ = ("canary", "failure", "generation", "settings", "target", "trial", "zygote")

    def __init__(self, settings: Settings, generation: int, zygote: int) -> None:
        self.settings = settings
        self.target = settings.workers  # unless it is scaled while it is proven
        self.generation = generation
        self.zygote = zygote
        self.trial = Trial.IMPORTING
        self.canary: int | None = None
        self.failure: str | None = None

    @property
    def has_slot(self) -> bool:
        """Whether slot 0 is its canary's alone, empty or not (``surge: 0``)."""
        if self.settings.surge > 0:
            return False
        return self.trial in (Trial.YIELDING, Trial.STARTING, Trial.PROVEN)

    @property
    def waits(self) -> bool:
        """Whether it waits for room, which recycling must not take away again and again."""
        return self.trial is Trial.IMPORTED
