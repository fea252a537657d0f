"""What the main process has in common with its children, and the first of those.

The zygotes of a start need nothing of what the main process has besides the core. So they are
forked before it imports the rest, and import the pools' code at the same time.
"""

from __future__ import annotations

import os

from graced.core.actions import StartZygote
from graced.host.scoreboard import Scoreboard, WorkerRecord
from graced.host.stackdump import Stacks
from graced.queue.engines import address_of, is_served
from graced.zygote.fork import fork_with
from graced.zygote.plan import ZygotePlan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from graced import settings
    from graced.core.actions import Action
    from graced.log.logger import Log
    from graced.queue.address import QueueAddress
    from graced.settings import Pool, Settings
    from graced.supervisor.children import Ahead
    from graced.supervisor.sockets import Sockets

OWN_FILES = 24  # descriptors of the main process, besides those of its pools


class SharedResources:
    """What all children of one main process are given, and where its pools' queues are."""

    def __init__(self, settings: Settings, log: Log, runtime_dir: str, state_dir: str) -> None:
        self._name = settings.name
        self.log = log
        self.fd_limit: tuple[int, int] | None = None  # what user code gets, if we took more
        self.config: str | None = None  # the file that the settings were read from
        self.runtime_dir = runtime_dir
        self.state_dir = state_dir
        self.scoreboard = Scoreboard()
        self._leases: dict[str, int] = {}  # records of the scoreboard, one a pool for good
        self.stacks = Stacks.create()
        self.bell, self._bell_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.daemon_id = os.urandom(8).hex()

    def plan(
        self,
        pool: Pool,
        generation: int,
        log: Log | settings.Log,
        listen: tuple[int, ...],
        max_lease: float,
    ) -> ZygotePlan:
        """Return what a zygote has to know."""
        return ZygotePlan(
            pool=pool,
            generation=generation,
            name=self._name,
            log=log,
            config=self.config,
            runtime_dir=self.runtime_dir,
            state_dir=self.state_dir,
            scoreboard=self.scoreboard,
            bell=self._bell_end,
            stacks=self.stacks,
            main_pid=os.getpid(),
            keep=(*self.log.keep(), *listen),
            listen=listen,
            queue=self.queue_address(pool),
            max_lease=max_lease,
            lease=self.lease_record(pool),
            fd_limit=self.fd_limit,
        )

    def lease_record(self, pool: Pool) -> WorkerRecord | None:
        """Return where a pool's keeper tells its lease, if its queue is on a server."""
        if not is_served(pool.queue):
            return None
        if pool.name not in self._leases:
            self._leases[pool.name] = self.scoreboard.claim()
        return self.scoreboard.record(self._leases[pool.name])

    def queue_address(self, pool: Pool) -> QueueAddress:
        """Return where a pool's workers find their queue."""
        dirs = {"runtime_dir": self.runtime_dir, "state_dir": self.state_dir}
        return address_of(pool.queue, pool.name, daemon_id=self.daemon_id, **dirs)


def has_addresses(settings: Settings) -> bool:
    """Whether anything is to be listened on, besides the control socket."""
    return bool(settings.web.listen) or any(pool.listen for pool in settings.pools.values())


def lack_of_files(old: Settings | None, new: Settings, hard: int) -> str | None:
    """Return what to say if the main process may not open as many files as it needs.

    While one generation replaces another there are the zygotes of both.
    """
    pools = [*(new if old is None else old).pools.values(), *new.pools.values()]
    needed = OWN_FILES + sum(2 + len(pool.listen) for pool in pools) + len(new.web.listen)
    if hard >= needed or hard < 0:  # RLIM_INFINITY
        return None
    return (
        f"the main process may open {hard} files, and so many pools need {needed}:"
        f" set LimitNOFILE={needed} in the unit, or the hard limit of ulimit -n"
    )


def fork_ahead(
    actions: Sequence[Action], shared: SharedResources, sockets: Sockets | None, max_lease: float
) -> Ahead:
    """Fork the zygotes that are among these actions, before those are performed.

    One that can't be forked is left for then, when it can be reported.
    """
    ahead: Ahead = {}
    for action in actions:
        if isinstance(action, StartZygote):
            listen = () if sockets is None else sockets.of(action.pool)
            plan = shared.plan(action.pool, action.generation, shared.log, listen, max_lease)
            plan = plan.replace(alone=() if sockets is None else sockets.alone())
            try:
                ahead[action.zygote] = fork_with(shared.stacks, plan)
            except OSError:
                break
    return ahead
