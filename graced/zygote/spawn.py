"""Spawning: a zygote's workers are forked by a middle process, and adopted by the main process.

zygote: blocks what a worker has to answer, forks the middle process, waits for its word
middle: forks the workers, gives its word, waits for the zygote's
zygote: opens a pidfd on each worker, marks its record, gives its word
middle: leaves, and is reaped; if the zygote is gone instead, kills the workers first
worker: sleeps until the main process has adopted it; leaves if its record is not marked

A fork costs what it makes parent and child write to afterwards, page by page. So the
middle process prepares all it can, and little is done in between.
"""

from __future__ import annotations

import os
import signal
import socket

from graced.host import descriptors, process
from graced.host.scoreboard import BORN_WHOLE, PHASE, PID, Phase
from graced.workers.base import live
from graced.workers.runtime import ANSWERED, PARENT_DIED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from graced.host.scoreboard import Scoreboard, WorkerRecord
    from graced.host.stackdump import Stacks
    from graced.workers.base import Worker
    from graced.workers.context import SpawnOrder
    from graced.workers.runtime import Runtime

    Load = Callable[[Callable[..., Any]], type[Worker]]
    Guard = Callable[[int, WorkerRecord], None]

LOST = "the middle process was killed while it forked"
_ALL_FORKED = b"-"
_GO = b"go"


class SpawnBatch:
    """Some workers of one zygote that are forked together."""

    def __init__(
        self,
        runtime: Runtime,
        load: Load,
        scoreboard: Scoreboard,
        stacks: Stacks | None,
        orders: list[SpawnOrder],
    ) -> None:
        self._runtime = runtime
        self._load = load
        self._stacks = stacks
        self.children = [(order, scoreboard.record(order.record)) for order in orders]
        self.pids: dict[int, int] = {}  # of those that are forked; later they write what they like

    # -- in the zygote -------------------------------------------------------------

    def run(
        self, guard: Guard, own_fds: list[int], fd_limit: tuple[int, int] | None = None
    ) -> str | None:
        """Fork the workers; return why some are missing.

        `guard` is called with each that is forked, while its number can't be another's yet.
        Of the zygote's descriptors none is for its workers; `fd_limit` is, if given.
        """
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.settimeout(None)  # user code may have set another default
            theirs.settimeout(None)
        except OSError as error:
            return f"cannot fork: {error.strerror}"
        # Those that a worker has to answer; all others do nothing in a zygote.
        mask = process.block(*ANSWERED)
        try:
            middle = os.fork()
        except OSError as error:
            ours.close()
            theirs.close()
            return f"cannot fork: {error.strerror}"
        else:
            if middle == 0:
                own_fds = [*own_fds, ours.fileno()]
                process.in_child(lambda: self._middle(theirs, own_fds, fd_limit))
        finally:
            process.restore(mask)
        theirs.close()
        try:
            return self._attend(ours, guard)
        finally:
            ours.close()
            try:
                os.waitpid(middle, 0)
            except ChildProcessError:  # a fork handler of user code lets children be reaped
                pass

    def _attend(self, middle: socket.socket, guard: Guard) -> str | None:
        try:
            word = middle.recv(1024)
        except ConnectionError:
            word = b""
        if not word:
            return LOST
        for order, record in self.children:
            if record.pid:
                self.pids[order.worker] = record.pid
                guard(record.pid, record)
                record.words[BORN_WHOLE] = 1
        try:
            middle.send(_GO, socket.MSG_NOSIGNAL)
        except ConnectionError:  # killed, but its work was done: they are whole
            pass
        return None if word == _ALL_FORKED else word.decode()

    # -- in the middle process -----------------------------------------------------

    def _middle(
        self, zygote: socket.socket, not_ours: list[int], fd_limit: tuple[int, int] | None
    ) -> None:
        process.block(*ANSWERED)  # whatever a fork handler of user code has made of the mask
        for fd in not_ours:
            os.close(fd)
        if fd_limit is not None:
            descriptors.limit_fds(fd_limit)
        process.set_name("worker")
        self._pid = os.getpid()
        self._zygote = zygote.fileno()
        self._runtime.prepare(self._stacks)
        self._part(zygote, self._fork_all())
        os._exit(0)  # nothing is to be flushed, and the workers wait for it

    def _fork_all(self) -> bytes:
        start = self._start
        for order, record in self.children:
            try:
                process.block(*ANSWERED)
                self._runtime.own()
                self._runtime.become(order, record)
                pid = os.fork()
            except OSError as error:
                return f"cannot fork: {error.strerror}".encode()
            if pid == 0:
                start(record)
            record.words[PID] = pid
            try:  # let it lead a group; the worker does so too, and either may come first
                os.setpgid(pid, pid)
            except OSError:  # gone already
                pass
        return _ALL_FORKED

    def _part(self, zygote: socket.socket, word: bytes) -> None:
        if self._may_go(zygote, word):
            return
        for _, record in self.children:
            if record.pid:
                process.end_group(record.pid)

    def _may_go(self, zygote: socket.socket, word: bytes) -> bool:
        """Give our word; return whether the zygote knows all, or is gone."""
        try:
            zygote.send(word, socket.MSG_NOSIGNAL)
            return zygote.recv(16) == _GO
        except ConnectionError:
            return False

    # -- in a worker ---------------------------------------------------------------

    def _start(self, record: WorkerRecord) -> NoReturn:
        """Be the main process's child, or leave."""
        process.block(*ANSWERED)
        words = record.words
        words[PID] = os.getpid()
        words[PHASE] = Phase.BORN
        process.lead_a_group()
        os.close(self._zygote)
        self._runtime.begin()
        # End-of-file from the middle process would come before the adoption. So may a signal:
        # it comes as each of its threads ends, which fork handlers of user code may start there.
        process.set_parent_death_signal(PARENT_DIED)
        while os.getppid() == self._pid:
            process.wait_for_signal(PARENT_DIED)
        if os.getppid() != self._runtime.context.main_pid or not words[BORN_WHOLE]:
            os._exit(signal.SIGTERM)
        process.restore(())
        live(self._runtime, self._load)
