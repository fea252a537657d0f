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
    from typing import Any

    from graced import settings
    from graced.host.stackdump import Window
    from graced.queue.plan import KeeperPlan
    from graced.queue.policy import Policy

AT_ONCE = 256  # messages heard before others have their turn


class Keeper:
    """A keeper's process and the way to talk to it. Reaping it is the main process's work."""

    def __init__(self, plan: KeeperPlan) -> None:
        self.plan = plan
        self.pid: int | None = None
        self.trouble: str | None = None  # why the queue cannot be used now
        self.open = False  # it has the file
        self.counts: dict[str, Any] | None = None  # the last it has told
        self._channel: Channel | None = None
        self._deaths: dict[str, tuple[Any, ...]] = {}  # told, and not yet buried
        self._unsent: list[tuple[Any, ...]] = []

    def fileno(self) -> int:
        """Return the descriptor to wait on, or -1."""
        return -1 if self._channel is None else self._channel.fileno()

    def start(self, window: Window | None = None) -> int:
        """Fork the keeper, the first time or once more; return its PID. OSError if it can't be."""
        self.close()
        self.pid, self._channel = fork(self.plan.replace(window=window))
        self.open = False
        self._unsent = list(self._deaths.values())
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
                if message[0] != "buried":
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
            case ("buried", owner):
                self._deaths.pop(owner, None)
            case ("degraded", why) | ("still", why):
                self.trouble = why
            case ("well",):
                self.trouble = None
            case ("counts", counts):
                self.counts = counts
