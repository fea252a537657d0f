"""Jobs in hand that are cancelled: their workers are told, or the main process interrupts those.

A worker that can cancel single jobs is told over its connection. If it still has the job after
a while, its loop is blocked or the job goes on all the same: then it is interrupted, too.
"""

from __future__ import annotations

import time

from graced.queue.timing import NEVER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from graced.queue.address import QueueAddress
    from graced.queue.connections import Connection
    from graced.queue.protocol import Dispatcher, Row

PATIENCE_S = 5.0  # that a worker gets to cancel a job by itself


class Cancelling:
    """What workers were told to let go of. ``tell`` has a worker told of a row."""

    def __init__(
        self,
        address: QueueAddress,
        workers: Mapping[str, Connection],
        tell: Callable[[Connection, Row], None],
        tell_main: Callable[[tuple[Any, ...]], None],
    ) -> None:
        self._address = address
        self._workers = workers
        self._tell = tell
        self._tell_main = tell_main
        self._told: list[tuple[float, str, int, Row]] = []  # until when, owner, token, row

    def order(self, dispatcher: Dispatcher) -> None:
        """Have all workers told whose job is cancelled, now that it is written."""
        for row in dispatcher.cancelling():
            owner = row.owner or ""
            worker = self._workers.get(owner)
            if worker is not None and worker.cancels:
                self._told.append((time.monotonic() + PATIENCE_S, owner, row.token, row))
                self._tell(worker, row)
            else:
                self._interrupt(dispatcher, owner, row)

    def enforce(self, dispatcher: Dispatcher) -> None:
        """Have those interrupted that were told, and have not let go of the job."""
        while self.left() <= 0:
            _until, owner, token, row = self._told.pop(0)
            known = dispatcher.consumers.get(owner)
            is_held = known is not None and known.rows.get(row.id) is row
            if is_held and row.token == token:
                self._interrupt(dispatcher, owner, row)

    def left(self) -> float:
        """Return how many seconds nothing has to be done."""
        return self._told[0][0] - time.monotonic() if self._told else NEVER

    def _interrupt(self, dispatcher: Dispatcher, owner: str, row: Row) -> None:
        dispatcher.withhold(owner)
        if self._address.is_ours(owner):
            self._tell_main(("cancel", self._address.worker(owner), row.id))
