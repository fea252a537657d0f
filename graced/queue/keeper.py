"""The main process's end of a queue keeper: starts it, tells it deaths, hears how it is.

No queue's rules: those are loaded in the keeper's own process, :mod:`.keeper_process`.
Nothing here blocks.
"""

from __future__ import annotations

from graced.host.channel import Channel, ChannelClosed, ChannelFull
from graced.queue.keeper_process import fork
from graced.record import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from graced import settings
    from graced.host.stackdump import Window
    from graced.queue.plan import KeeperPlan
    from graced.queue.policy import Policy
    from graced.queue.standing import Wanted

NO_STANDINGS: tuple[str, dict[str, Any]] = ("standings", {})
AT_ONCE = 256  # messages heard before others have their turn


class Keeper:
    """A keeper's process and the way to talk to it. Reaping it is the main process's work."""

    def __init__(self, plan: KeeperPlan) -> None:
        self.plan = plan
        self.pid: int | None = None
        self.trouble: str | None = None  # why the queue cannot be used now
        self.open = False  # it has the file
        self.counts: dict[str, Any] | None = None  # the last it has told
        self.jobs: list[dict[str, Any]] = []  # to be shown, as it has told last
        self._channel: Channel | None = None
        self._deaths: dict[str, tuple[Any, ...]] = {}  # told, and not yet buried
        self._schedules: dict[str, Wanted] = {}
        self._told = 0  # how often they were
        self._heard = 0  # which of those times it has said where they stand
        self._instants: dict[tuple[str, int], tuple[Any, ...]] = {}  # told, and not yet kept
        self._unsent: list[tuple[Any, ...]] = []

    def fileno(self) -> int:
        """Return the descriptor to wait on, or -1."""
        return -1 if self._channel is None else self._channel.fileno()

    def start(self, window: Window | None = None) -> int:
        """Fork the keeper, the first time or once more; return its PID. OSError if it can't be."""
        self.close()
        self.pid, self._channel = fork(self.plan.replace(window=window))
        self.open = False
        self._unsent = [*self._deaths.values(), *self._told_schedules(), *self._instants.values()]
        self.flush()
        return self.pid

    def owner(self, worker: int) -> str:
        """Return a worker's name in the queue."""
        return self.plan.address.owner(worker)

    def died(self, worker: int, evidence: dict[str, Any], *, counts: bool) -> None:
        """Tell that a worker is reaped and its groups are gone.

        With `counts` the attempt counts for the job it had in hand. Repeated to a new
        keeper until one has written it down.
        """
        owner = self.owner(worker)
        message = ("died", owner, evidence, counts)
        self._deaths[owner] = message
        self._tell(message)

    def watch(self, schedules: Mapping[str, Wanted]) -> None:
        """Tell which schedules the queue has; where they stand comes by ``receive``.

        Where one shall begin is repeated until it has been heard.
        """
        before, self._schedules = self._schedules, dict(schedules)
        for name, (rule, since, _) in schedules.items():
            if since is None and name in before and before[name][0] == rule:
                self._schedules[name] = before[name]
        for message in self._told_schedules():
            self._tell(message)

    def _told_schedules(self) -> list[tuple[Any, ...]]:
        self._told += 1
        told = [("schedule", name, *wanted) for name, wanted in self._schedules.items()]
        return [*told, ("schedules", self._told)]

    @property
    def has_heard_schedules(self) -> bool:
        """Whether it has said where the schedules stand that it was told last."""
        return self._heard == self._told

    def submit(self, schedule: str, instant: int, payload: str, delay: float, alone: bool) -> None:
        """Have a job for an instant of a schedule; repeated until it has been kept."""
        message = ("instant", schedule, instant, payload, delay, alone)
        self._instants[schedule, instant] = message
        self._tell(message)

    def apply(self, policy: Policy) -> None:
        """Go by other settings from now on."""
        self.plan = self.plan.replace(policy=policy)
        self._tell(policy.message())

    def log_to(self, wanted: settings.Log) -> None:
        """Have it log in another way, or to another place; one that starts later does so anyway."""
        self._tell(("log", *values(wanted)))

    def count(self) -> None:
        """Ask how many jobs there are; the answer comes by ``receive``."""
        self._tell(("count",))

    def look(self) -> None:
        """Ask for some jobs to show; the answer comes by ``receive``."""
        self._tell(("look",))

    def listen_again(self) -> None:
        """Tell that its socket was removed."""
        self._tell(("listen",))

    def stop(self) -> None:
        """Have it leave, after it has written all. To be said after the last death."""
        self._tell(("stop",))

    def receive(self) -> list[tuple[Any, ...]]:
        """Return what it has said: ready, degraded, well, counts, failed; gone at its end."""
        said = []
        channel = self._channel
        try:
            for _ in range(AT_ONCE):
                message = None if channel is None else channel.receive()
                if message is None:
                    break
                self._hear(message)
                if message[0] != "buried" and message[:2] != NO_STANDINGS:
                    said.append(message)
        except ChannelClosed:
            self.close()
            said.append(("gone",))
        self.flush()
        return said

    def flush(self) -> bool:
        """Send what could not be sent yet; return whether all is."""
        while self._unsent and self._channel is not None:
            try:
                self._channel.send(self._unsent[0])
            except ChannelFull:
                return False
            except ChannelClosed:  # receive() says so
                return True
            del self._unsent[0]
        return True

    def close(self) -> None:
        """Close our end: a keeper that still lives takes us for dead."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self.open = False

    def _tell(self, message: tuple[Any, ...]) -> None:
        if self._channel is not None:
            self._unsent.append(message)
            self.flush()

    def _hear(self, message: tuple[Any, ...]) -> None:
        match message:
            case ("ready",):
                self.open = True
                self.trouble = None
            case ("buried", owner):
                self._deaths.pop(owner, None)
            case ("standings", _, number):
                self._heard = number
                if self.has_heard_schedules:
                    for name, (rule, _, _) in self._schedules.items():
                        self._schedules[name] = (rule, None, False)
            case ("kept", schedule, instant, _, _):
                self._instants.pop((schedule, instant), None)
            case ("degraded" | "still" | "failed", why):
                self.trouble = why
            case ("well",):
                self.trouble = None
            case ("counts" | "jobs" as kind, told):
                self._take(kind, told)

    def _take(self, kind: str, told: Any) -> None:
        if kind == "jobs":
            self.jobs = told
        else:
            self.counts = told
