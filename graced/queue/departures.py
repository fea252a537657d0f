"""Workers that are gone, or may be: a keeper gives back their jobs once nothing of them is left.

The main process tells the death of its own workers; of those that it did not start, only
the lock that each of them holds says whether it lives, see :mod:`.liveness`.
"""

from __future__ import annotations

import time

from graced.queue import liveness, wire
from graced.queue.timing import NEVER, Clock, RetryTimer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from graced.queue.connections import Connection, Connections
    from graced.queue.plan import KeeperPlan
    from graced.queue.protocol import Dispatcher

SAY_AFTER = 3.0  # seconds that a process may take to die before it is named
FOUND = '{"reason":"found taken when the daemon came back after a crash"}'


class DeadOwners:
    """All owners whose end is not yet in the file. Evidence: what makes the attempt count."""

    def __init__(
        self,
        plan: KeeperPlan,
        connections: Connections,
        workers: Mapping[str, Connection],
        clock: Clock,
    ) -> None:
        self._plan = plan
        self._clock = clock
        self._connections = connections
        self._workers = workers  # those that are connected
        self._dead: dict[str, str | None] = {}  # evidence of those that surely are,
        self._lingering: dict[str, str | None] = {}  #   and of those that may live
        self._buried: list[str] = []  # with the next commit
        self._say_at: dict[str, float] = {}  # when it is to be said what holds an owner's lock
        self.looking = RetryTimer(0.01, 2.0)  # for the end of those that linger

    @property
    def is_awaited(self) -> bool:
        """Whether one that is dead has left something that still dies, and has its lock."""
        return bool(self._dead) or any(
            self._plan.address.is_ours(owner) for owner in self._lingering
        )

    def find(self, dispatcher: Dispatcher) -> None:
        """The file has just been opened: which owners in it are none of ours?"""
        for name in [*dispatcher.consumers, *liveness.listed(self._plan.address.file)]:
            if not self._plan.address.is_ours(name):
                self._lingering[name] = liveness.word_left(self._plan.address.file, name, FOUND)
        if self._lingering:
            self.looking.soon()

    def told(self, owner: str, evidence: str | None) -> None:
        """The main process has reaped a worker."""
        self._dead[owner] = evidence

    def introduced(self, owner: str) -> None:
        """A worker has said HELLO; its end may be told by none, or has come already."""
        ours = self._plan.address.is_ours(owner)
        dead = not liveness.lives(self._plan.address.file, owner, remove=False)
        if dead or not ours:
            self._lingering.setdefault(owner, None if ours else FOUND)
        if dead:
            self.looking.soon()

    def left(self, owner: str) -> None:
        """A worker's connection is gone."""
        if owner in self._lingering:
            self.looking.soon()

    def bury(self, dispatcher: Dispatcher) -> None:
        """Give back what the dead had in hand, once nothing of them is left."""
        if self._dead:
            self._hear_strangers()
            for owner in list(self._dead):
                self._hear_out(owner)
                self._hang_up(owner)
                self._lingering[owner] = self._dead.pop(owner)
                self._look_for(dispatcher, owner)
        if self.looking.is_due():
            for owner in list(self._lingering):
                self._look_for(dispatcher, owner)
            if any(owner not in self._workers for owner in self._lingering):
                self.looking.failed()
            else:
                self.looking.over()

    def buried(self) -> list[str]:
        """Return whose end was written down since the last call."""
        buried, self._buried = self._buried, []
        return buried

    def _hear_strangers(self) -> None:
        """One of the dead may have just connected."""
        self._connections.accept()
        for connection in self._connections.all():
            if connection.owner is None:
                self._connections.read(connection)

    def _hear_out(self, owner: str) -> None:
        """Read what a worker wrote before it died."""
        connection = self._workers.get(owner)
        connections = self._connections
        while (
            connection is not None
            and connections.is_here(connection)
            and connections.read(connection)
        ):
            pass

    def _look_for(self, dispatcher: Dispatcher, owner: str) -> None:
        if owner in self._workers and not self._plan.address.is_ours(owner):
            return  # it talks to us, so it lives; the end of its connection is the next hint
        if liveness.lives(
            self._plan.address.file, owner, command=not self._plan.address.is_ours(owner)
        ):
            self._say_who(dispatcher, owner)
            if self.looking.due is None:
                self.looking.soon()
            return
        evidence = self._lingering.pop(owner)
        self._say_at.pop(owner, None)
        if owner in dispatcher.consumers:
            alone, cut = evidence != FOUND, _is_interrupt(evidence)
            back = dispatcher.bury(
                owner, evidence, self._clock.now(), alone=alone, interrupted=cut
            )
            for id in back:
                self._plan.log.info(f"job {id} is given back: {_why(evidence)}", job=id)
        self._hang_up(owner)
        self._buried.append(owner)

    def _hang_up(self, owner: str) -> None:
        """Take no more from a worker's connection: what it has forked may have it, and no word."""
        connection = self._workers.get(owner)
        if connection is not None:
            self._connections.close(connection)

    def _say_who(self, dispatcher: Dispatcher, owner: str) -> None:
        """Say, once, why the jobs of a dead worker do not come back."""
        known = dispatcher.consumers.get(owner)
        taken = [] if known is None else list(known.rows)
        now = time.monotonic()
        if not taken or now < self._say_at.setdefault(owner, now + SAY_AFTER):
            return
        self._say_at[owner] = NEVER
        jobs = "job" if len(taken) == 1 else "jobs"
        self._plan.log.warning(
            f"queue: {jobs} {', '.join(map(str, taken))} can't be given back yet:"
            f" {liveness.who_holds(self._plan.address.file, owner)}; waiting until it ends"
        )

    def leave_word(self) -> None:
        """Leave to the next keeper what the main process has said of those that linger."""
        for owner, evidence in self._lingering.items():
            if self._plan.address.is_ours(owner) and owner not in self._workers:
                liveness.leave_word(self._plan.address.file, owner, evidence)


def _why(evidence: str | None) -> str:
    """Say why a job goes back: what its worker died of, if that counts."""
    facts = None if evidence is None else wire.decode(evidence.encode())
    reason = facts.get("reason") if isinstance(facts, dict) else None
    if reason is None:
        return "its worker has let go of it"
    return str(reason)


def _is_interrupt(evidence: str | None) -> bool:
    """Whether a worker was interrupted by a signal that graced had not sent."""
    if evidence is None:
        return False
    facts = wire.decode(evidence.encode())
    return isinstance(facts, dict) and facts.get("interrupted") is True
