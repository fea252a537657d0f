"""What the rules of the daemon and those of a reload both work on.

The pools, the settings and the generation in force, the daemon's state, and the actions that are
to be performed. No rules: those are in :mod:`.daemon` and :mod:`.reload`.
"""

from __future__ import annotations

from graced.core.actions import Say
from graced.core.context import Context
from graced.core.pool import Pool
from graced.core.states import DaemonState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.core.actions import Action
    from graced.core.member import Member
    from graced.settings import Settings


class Fleet:
    """All pools of a daemon. ``jitter`` returns a number from 0 to 1."""

    def __init__(self, settings: Settings, jitter: Callable[[], float]) -> None:
        self.settings = settings
        self.generation = 1
        self.state = DaemonState.STARTING
        self.context = Context(jitter)
        self.pools: dict[str, Pool] = {
            name: Pool(pool, 1, self.context) for name, pool in settings.pools.items()
        }
        # Of hosts on queues, by pools: its end and length. They outlive a pool that is added again.
        self.leases: dict[str, tuple[float, float]] = {}

    @property
    def out(self) -> list[Action]:
        """Where actions are collected until ``handle`` returns them."""
        return self.context.out

    @property
    def stopping(self) -> bool:
        """Whether it is on its way out."""
        return self.state in (DaemonState.DRAINING, DaemonState.STOPPING)

    @property
    def is_mixed(self) -> bool:
        """Whether there are processes of another generation than the one in force."""
        generations = {m.generation for m in self.members()}
        generations |= {z.generation for p in self.pools.values() for z in p.zygotes.values()}
        return not generations <= {self.generation}

    def members(self) -> list[Member]:
        """All workers."""
        return [m for pool in self.pools.values() for m in pool.members.values()]

    def find(self, worker: int) -> tuple[Pool, Member] | None:
        """Return a worker and its pool, if it still exists."""
        for pool in self.pools.values():
            member = pool.members.get(worker)
            if member is not None:
                return pool, member
        return None

    def say(self, level: str, text: str) -> None:
        """Write a line to the log."""
        self.out.append(Say(level, text))
