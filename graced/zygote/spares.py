"""A spare: a worker that is born before it is needed, so that a replacement waits for no fork.

zygote: when it has had nothing to do for a moment, has one born like any worker
spare:  once adopted, sleeps until it gets its order; leaves if its zygote is gone
        (end of file), is killed if the main process is (parent death signal)
zygote: gives it the next order, waits for its answer, reports it as born
spare:  says that it is one no more, writes its number to the record, leaves the zygote's
        group, answers, goes on as a worker

Until then it is part of its zygote: in its process group, so that what ends the one ends
the other. It leaves only after its number is written: a main process that reaps the
zygote first kills the group and then looks for numbers, so there is no worker that it
does not know. Signals that came before the number were meant for nobody. Whether one that
died was a worker by then, its zygote reads in memory that only the two of them share: the
worker's record is the main process's, and may be another worker's by then.
"""

from __future__ import annotations

import os
import select
import signal

from graced.host import process
from graced.host.channel import Channel, ChannelClosed
from graced.host.scoreboard import BORN_WHOLE, PHASE, PID, RECORDS, Phase, Scoreboard
from graced.record import Record, values
from graced.workers.base import live, rehearse
from graced.workers.context import Order
from graced.workers.runtime import ANSWERED, PARENT_DIED, Life
from graced.zygote.spawn import Birth

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, NoReturn

    from graced.host.scoreboard import WorkerRecord
    from graced.host.stackdump import Stacks
    from graced.workers.context import Family
    from graced.zygote.spawn import Load

PATIENCE: Final = 1.0  # seconds until one that does not answer, stopped say, is given up
_BORN: Final = ("born",)
_TAKEN: Final = Phase.SETUP  # of a spare's own record: it has taken its order
_NOBODYS: Final = RECORDS  # after the last record: the window for the stack of a spare that crashes


class Spare(Record):
    """A spare, as its zygote knows it."""

    pid: int
    pidfd: int
    channel: Channel
    record: WorkerRecord  # its own, before it has a worker's

    def take(self, order: Order) -> bool:
        """Give it its order; False if it is gone, and never was this worker."""
        try:
            self.channel.send(values(order))
            if self.channel.wait(timeout=PATIENCE) and self.channel.receive() == _BORN:
                return True
        except ChannelClosed:
            pass
        self.end()
        return self.record.phase == _TAKEN

    def end(self) -> None:
        """Kill it, and see it dead: then what it has written stays as it is."""
        process.signal_pidfd(self.pidfd, signal.SIGKILL)
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        poll.poll()


class SpareBirth(Birth):
    """The birth of a spare."""

    name = "graced-spare"

    def __init__(
        self, family: Family, load: Load, scoreboard: Scoreboard, stacks: Stacks | None
    ) -> None:
        super().__init__(family, load, scoreboard, stacks, [])
        self._own_record = Scoreboard(1).record(0)
        self.children = [(Order(worker=0, record=_NOBODYS, slot=0), self._own_record)]
        self._all_records = scoreboard
        self._ours, self._theirs = Channel.pair()
        self._pidfd: int | None = None

    # -- in the zygote -------------------------------------------------------------

    def spare(self, own_fds: list[int], fd_limit: tuple[int, int] | None) -> Spare | None:
        """Have it born; None if that can't be."""
        failure = self.labour(self._open, [*own_fds, self._ours.fileno()], fd_limit)
        self._theirs.close()
        if failure is None and self._pidfd is not None:
            return Spare(self._own_record.pid, self._pidfd, self._ours, self._own_record)
        self._ours.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
        return None

    def _open(self, pid: int, record: WorkerRecord) -> None:
        try:
            self._pidfd = process.open_pidfd(pid)
        except OSError:  # no descriptor left: then there is no spare
            self._pidfd = None

    # -- in the middle process -----------------------------------------------------

    def _settle_memory(self) -> None:
        """For one child it would only be more to keep."""

    def _part_from(self, pid: int) -> None:
        """It stays in its zygote's group."""

    def _undo(self, pid: int) -> None:
        process.signal_process(pid, signal.SIGKILL)

    # -- in the spare ----------------------------------------------------------------

    def _settle_down(self) -> None:
        """It stays in its zygote's group."""

    def _be_born(self, record: WorkerRecord) -> NoReturn:
        self._arrive(record)
        process.set_parent_death_signal(signal.SIGKILL)
        if os.getppid() != self._family.main_pid:
            os._exit(signal.SIGTERM)
        self._warm_up(record)
        self._become_worker(self._await_order())
        self._life.begin()
        live(self._life, self._load)

    def _warm_up(self, record: WorkerRecord) -> None:
        """Copy the pages now that a worker writes to until it is ready, not when it is needed."""
        rehearse(Life(self._family))
        self._life.wakeup.listen()
        self._life.become(Order(*values(self.children[0][0])), record)
        self._all_records.record(0)
        process.set_name(self.name)
        process.forget_pending(ANSWERED)
        self._theirs.wait(timeout=0)
        if self._family.title is not None:
            self._family.title(f"{self._family.name}: spare {self._family.pool.name}")
            process.set_name(self.name)

    def _await_order(self) -> Order:
        try:
            self._theirs.wait()
            message = self._theirs.receive()
        except ChannelClosed:
            message = None
        if message is None:
            os._exit(signal.SIGTERM)
        return Order(*message)

    def _become_worker(self, order: Order) -> None:
        record = self._all_records.record(order.record)
        words = record.words
        self._life.become(order, record)
        process.set_name("graced-worker")
        process.forget_pending(ANSWERED)
        process.set_parent_death_signal(PARENT_DIED)
        if os.getppid() != self._family.main_pid:
            os._exit(signal.SIGTERM)
        self._own_record.phase = _TAKEN
        words[PID] = os.getpid()  # from here on signals are meant for us
        words[PHASE] = Phase.BORN
        words[BORN_WHOLE] = 1
        process.lead_a_group()
        try:
            self._theirs.send(_BORN)
        except ChannelClosed:  # the main process will find our number in the record
            pass
        self._theirs.close()
