"""Whether the daemon is well: what decides over systemd's watchdog and ``graced health``.

It is not whether every worker is there (that is readiness): one of many may hang, and the
ladder deals with it.
"""

from __future__ import annotations

from graced.core.member import State
from graced.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from graced.core.member import Member

NAMED = 3  # ills told by name; the rest is counted


class Health(Record):
    """How many workers can work, how many have to, and what is wrong with the others."""

    healthy: int
    living: int
    needed: int
    ills: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether enough workers can work."""
        return self.healthy >= self.needed

    def words(self) -> str:
        """Say it in one line."""
        text = f"{self.healthy} of {self.living} workers healthy"
        if not self.ok:
            text += f", {self.needed} needed"
        told = [*self.ills[:NAMED]]
        if len(self.ills) > NAMED:
            told.append(f"and {len(self.ills) - NAMED} more")
        return f"{text}: {'; '.join(told)}" if told else text


def examine(
    members: Iterable[Member],
    quorum: int,
    stopped: Callable[[Member], bool],
    overdue: Callable[[Member], bool],
) -> Health:
    """Look at the workers that are alive; those in back-off neither help nor harm."""
    living = [m for m in members if m.pid and m.state is not State.KILLED]
    ills = []
    for member in living:
        if stopped(member):
            ills.append(f"{member.label} is stopped")
        elif overdue(member):
            ills.append(f"{member.label} is past the deadline of its round")
    return Health(len(living) - len(ills), len(living), min(quorum, len(living)), tuple(ills))
