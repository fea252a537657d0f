"""Where a queue's schedules stand: what an engine keeps of each, so that no instant is kept twice.

All engines go by the two rules that are here; they differ in where the standings are kept.
"""

from __future__ import annotations

from graced.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    # A schedule's rule; where it shall begin, if that changes; whether to forget its last instant.
    Wanted: TypeAlias = tuple[str, int | None, bool]


class Standing(Record):
    """One schedule. Times are seconds since the epoch."""

    rule: str  # what its instants follow from; "": there is no such schedule any more
    since: int  # instants up to here are none of it
    last: int | None = None  # the last instant that was kept

    def takes(self, instant: int) -> bool:
        """Whether an instant is not kept yet: they come in order."""
        return self.last is None or instant > self.last


def adopted(known: Standing | None, wanted: Wanted, now: int) -> Standing:
    """Return where a schedule stands that is to be watched: one that is new starts now."""
    rule, since, forget = wanted
    if known is None or known.rule != rule:
        return Standing(rule, now)
    if since is None:
        return known
    return Standing(rule, since, None if forget else known.last)
