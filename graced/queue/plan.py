"""What a keeper has to know, made by the main process."""

from __future__ import annotations

from graced.log.logger import Log
from graced.queue.address import QueueAddress
from graced.queue.policy import Policy
from graced.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.host.scoreboard import WorkerRecord
    from graced.host.stackdump import Window
    from graced.queue.tally import Tally


class KeeperPlan(Record):
    """All that a keeper has to know."""

    pool: str
    address: QueueAddress
    policy: Policy = Policy()
    log: Log = Log()
    window: Window | None = None  # for its stacks
    tally: Tally | None = None  # what it counts, over all keepers of the pool
    name: str = "graced"
    url: str | None = None  # of the queue; of a server's it may hold a password
    record: WorkerRecord | None = None  # where a lease of a server is told
