"""What the configuration says of a queue: the slice of a pool's settings that its keeper needs."""

from __future__ import annotations

from graced.record import Record, values
from graced.settings import Pool, Retry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Policy(Record):
    """How often jobs are tried, how long done ones are kept, how many may wait, and so on."""

    max_attempts: int = 3
    retry: Retry = Retry()
    keep_done: float = 86400.0
    max_waiting: int | None = None  # None: no limit
    submit_group: str | None = None
    lease: float = 30.0  # of a host, where the queue is on a server

    @classmethod
    def of(cls, pool: Pool) -> Policy:
        """Return a pool's share of the settings."""
        limits = pool.max_attempts, pool.retry, pool.keep_done, pool.max_waiting
        return cls(*limits, pool.submit_group, pool.lease)

    @property
    def submit_gid(self) -> int | None:
        """The number of submit_group, if there is such a group."""
        if self.submit_group is None:
            return None
        import grp

        try:
            return grp.getgrnam(self.submit_group).gr_gid
        except KeyError:  # removed since the configuration was read
            return None

    def delay(self, failures: int, chance: float) -> float:
        """Return the seconds before the attempt that follows so many failures."""
        retry = self.retry
        full = min(retry.limit, retry.first * retry.factor ** min(failures - 1, 64))
        return full * (0.9 + 0.1 * chance)

    def message(self) -> tuple[Any, ...]:
        """Return what the keeper is told, in marshal's types."""
        limits = self.max_attempts, values(self.retry), self.keep_done, self.max_waiting
        return ("settings", *limits, self.submit_group, self.lease)

    @classmethod
    def told(cls, message: tuple[Any, ...]) -> Policy:
        """Return the policy that a message tells."""
        _kind, max_attempts, retry, *rest = message
        return cls(max_attempts, Retry(*retry), *rest)
