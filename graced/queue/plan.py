"""What a keeper has to know, made by the main process."""

from __future__ import annotations

from graced.log.logger import Log
from graced.queue.policy import Policy
from graced.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.host.stackdump import Window


class KeeperPlan(Record):
    """All that a keeper has to know."""

    pool: str
    file: str  # absolute
    socket: str  # absolute
    daemon_id: str  # letters and digits; another one for each main process
    policy: Policy = Policy()
    log: Log = Log()
    window: Window | None = None  # for its stacks
    name: str = "graced"

    def owner(self, worker: int) -> str:
        """Return a worker's name in the queue."""
        return f"{self.daemon_id}:{worker}"

    def is_ours(self, owner: str) -> bool:
        """Whether a name in the queue is that of a worker of this main process."""
        return owner.startswith(f"{self.daemon_id}:")
