"""What the main process tells a zygote at its fork."""

from __future__ import annotations

from graced import settings
from graced.host.scoreboard import Scoreboard, WorkerRecord
from graced.host.stackdump import Stacks
from graced.log.logger import Log
from graced.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.host.stackdump import Window
    from graced.queue.address import QueueAddress


class ZygotePlan(Record):
    """All that a zygote has to know, made by the main process."""

    pool: settings.Pool
    generation: int
    scoreboard: Scoreboard
    bell: int
    main_pid: int
    name: str = "graced"
    log: Log | settings.Log = settings.Log()
    config: str | None = None  # the file that the pool is configured in
    runtime_dir: str | None = None
    state_dir: str | None = None
    stacks: Stacks | None = None
    keep: tuple[int, ...] = ()
    queue: QueueAddress | None = None
    listen: tuple[int, ...] = ()  # descriptors, which are kept too
    alone: tuple[int, ...] = ()  # those of them that systemd does not have as well
    window: Window | None = None  # for its stacks
    fd_limit: tuple[int, int] | None = None  # what user code gets, if main took more
    max_lease: float = settings.MAX_LEASE
    lease: WorkerRecord | None = None  # where the keeper tells its lease of the pool's queue
