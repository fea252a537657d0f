"""Zygotes and workers as processes: forked, signalled, reaped, and told of as events.

All that is decided elsewhere happens here. Process ids stay in this file: a
worker's number is free for others from the moment it is reaped.
"""

from __future__ import annotations

import os
import selectors
import signal

from graced import clock
from graced.core.actions import Spawn, StartZygote
from graced.core.counters import DeathCause
from graced.core.events import (
    Died,
    Imported,
    ImportFailed,
    Killed,
    LeaseSeen,
    Recovered,
    Spawned,
    SpawnFailed,
    ZygoteDied,
)
from graced.exitcodes import CUT_OFF
from graced.host import process
from graced.host.channel import Channel, ChannelClosed, ChannelCorrupted, ChannelFull
from graced.host.oom import OomKills
from graced.host.scoreboard import Ack, ExitKind, ScoreboardFull
from graced.record import Record
from graced.supervisor import deaths
from graced.supervisor.monitor import ScoreboardMonitor
from graced.zygote.fork import fork_with

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from graced.core.events import Event
    from graced.host.process import Exit
    from graced.host.scoreboard import Scoreboard
    from graced.host.stackdump import Stacks, Window
    from graced.log.logger import Log
    from graced.settings import Pool
    from graced.zygote.plan import ZygotePlan

    Ahead = dict[int, tuple[int, Channel, Window]]  # zygotes by their ids
    Emit = Callable[[Event], None]

RING_BYTES = 8  # bytes of a ring: the worker's number
PIPE_BYTES = 65536  # bytes that a pipe holds, see pipe(7)
MAX_MESSAGES_A_TURN = 64  # messages of a zygote before others have their turn,
MAX_LAST_MESSAGES = 4096  #   and of a dead one; another process may go on to write there
MAX_REAPED_A_TURN = 100  # children that are gone
MAX_ORDERS_A_MESSAGE = 200  # workers named in one message to a zygote
LEASE_LOOK_S = 0.002  # seconds that a worker gets to stop for a look at its lease
MAX_LEASE_LOOKS = 20  # looks that fail before the kill comes all the same
TELLS: dict[int, int] = {signal.SIGTERM: 1, signal.SIGINT: 2}  # what is also told by the scoreboard


class _Zygote:
    """A zygote's process and the way to talk to it."""

    __slots__ = ("channel", "killed", "pid", "pool", "window")

    def __init__(self, pid: int, channel: Channel, pool: str, window: Window) -> None:
        self.pid = pid
        self.window = window
        self.channel = channel
        self.pool = pool
        self.killed = False  # by us


class HelperProcess(Record):
    """A child of another part: what it is, the window for its stacks, what to call at its end."""

    what: str
    window: Window
    gone: Callable[[str], None]


class _Worker:
    """A worker's process, from its spawn order to its reaping."""

    __slots__ = ("index", "killed", "looks", "pid", "timed_out", "zygote")

    def __init__(self, index: int, zygote: int) -> None:
        self.index = index
        self.zygote = zygote
        self.pid: int | None = None
        self.looks = 0
        self.killed = False  # by us,
        self.timed_out = False  #   since its round took longer than it may


class Children:
    """All children of the main process that graced started."""

    def __init__(
        self,
        scoreboard: Scoreboard,
        stacks: Stacks,
        monitor: ScoreboardMonitor,
        selector: selectors.BaseSelector,
        emit: Emit,
        plan: Callable[[StartZygote], ZygotePlan],
        ahead: Ahead,
        log: Log,
    ) -> None:
        self._scoreboard = scoreboard
        self._stacks = stacks
        self._monitor = monitor
        self._selector = selector
        self._emit = emit
        self._plan = plan
        self._ahead = ahead  # zygotes that are there already
        self._log = log
        self._oom_kills = OomKills()
        self._zygotes: dict[int, _Zygote] = {}
        self._workers: dict[int, _Worker] = {}
        self._by_pid: dict[int, int] = {}
        self._last_words: dict[int, dict[str, Any]] = {}  # evidence, until it is asked for
        self._groups: dict[int, list[int]] = {}  # of dead workers, until they are asked for
        self._early: dict[int, Exit] = {}  # reaped before their zygote reported them
        self._lost: dict[int, int] = {}  # workers that can't be killed by pid, and their records
        self.others: dict[int, HelperProcess] = {}  # children of other parts
        self.more_to_reap = False

    # -- what there is ----------------------------------------------------------

    def pid(self, worker: int) -> int | None:
        """Return a worker's process id while it is not reaped."""
        found = self._workers.get(worker)
        return None if found is None else found.pid

    def index(self, worker: int) -> int:
        """Return the number of a worker's record."""
        return self._workers[worker].index

    def living(self) -> dict[int, int]:
        """Return the workers that have a process, and its id."""
        return {w: found.pid for w, found in self._workers.items() if found.pid is not None}

    # -- zygotes ----------------------------------------------------------------

    def start_zygote(self, action: StartZygote) -> None:
        """Fork a zygote, unless it was forked ahead; a fork that fails is an event too."""
        try:
            found = self._ahead.pop(action.zygote, None)
            pid, channel, window = found or fork_with(self._stacks, self._plan(action))
        except OSError as error:
            reason = f"cannot fork a zygote: {error.strerror}"
            self._emit(ImportFailed(action.zygote, reason))
            self._emit(ZygoteDied(action.zygote, reason))
            return
        zygote = _Zygote(pid, channel, action.pool.name, window)
        self._zygotes[action.zygote] = zygote
        self._selector.register(
            channel, selectors.EVENT_READ, lambda _: self._heard(action.zygote, zygote)
        )

    def lend_window(self) -> Window:
        """Return a window for the stacks of a child of another part. OSError if there is none."""
        return self._stacks.lend()

    def kill_zygote(self, zygote: int) -> None:
        """End a zygote; it holds nothing that could be lost."""
        found = self._zygotes.get(zygote)
        if found is None:
            return
        found.killed = True
        process.end_group(found.pid)
        process.signal_process(found.pid, signal.SIGKILL)  # it may have left its group
        if process.is_foreign(found.pid):
            self._log.error(
                f"zygote of {found.pool} (pid {found.pid}) has become another user's and can't be "
                "killed; its channel is closed, which ends it unless it is stuck"
            )
            self._hang_up(found)

    def helpers(self) -> dict[int, tuple[str, Window]]:
        """Return zygotes and keepers: what they are, and the windows for their stacks."""
        zygotes = {z.pid: (f"zygote of {z.pool}", z.window) for z in self._zygotes.values()}
        return zygotes | {pid: (other.what, other.window) for pid, other in self.others.items()}

    def signal_helper(self, pid: int, number: int) -> None:
        """Send a zygote or a keeper a signal, while it is not reaped."""
        if pid in self.helpers():
            process.signal_process(pid, number)

    def zygote_pids(self) -> dict[int, str]:
        """Return the zygotes' process ids and the pools they are for."""
        return {z.pid: z.pool for z in self._zygotes.values()}

    def _heard(self, number: int, zygote: _Zygote, most: int = MAX_MESSAGES_A_TURN) -> None:
        if zygote.channel.fileno() < 0:
            return  # it hung up earlier in the same turn of the loop
        try:
            for _ in range(most):
                message = zygote.channel.receive()
                if message is None:
                    return
                self._message(number, message)
        except ChannelCorrupted as error:
            self._log.error(f"pool {zygote.pool}: its zygote's channel: {error}; it is killed")
            self._hang_up(zygote)
            self.kill_zygote(number)
        except ChannelClosed:
            self._hang_up(zygote)  # its death follows by SIGCHLD

    def _hang_up(self, zygote: _Zygote) -> None:
        if zygote.channel.fileno() >= 0:
            self._selector.unregister(zygote.channel)
            zygote.channel.close()

    def _message(self, number: int, message: tuple[Any, ...]) -> None:
        match message:
            case ("imported",):
                self._guard_survivors(number)
                self._emit(Imported(number))
            case ("failed", str(text)):
                self._emit(ImportFailed(number, text))
            case ("spawned", [*pids]):
                for worker, pid in pids:
                    self._spawned(worker, pid)
            case ("unspawned", [*workers], str(text)):
                for (worker,) in workers:
                    self._unspawned(worker, text)

    def _guard_survivors(self, number: int) -> None:
        """Name another zygote the workers whose own zygote is gone."""
        orphans = [
            (worker, found.index, found.pid)
            for worker, found in self._workers.items()
            if found.pid is not None and found.zygote not in self._zygotes
        ]
        if orphans:
            zygote = self._zygotes[number]
            try:
                for start in range(0, len(orphans), MAX_ORDERS_A_MESSAGE):
                    zygote.channel.send(("adopt", orphans[start : start + MAX_ORDERS_A_MESSAGE]))
            except (ChannelClosed, ChannelFull, OSError) as error:
                self._log.warning(
                    f"pool {zygote.pool}: its zygote can't be told of the workers of another:"
                    f" {error}; if the main process is killed, they may be left behind"
                )
            for worker, _, _ in orphans:
                self._workers[worker].zygote = number

    # -- spawns -----------------------------------------------------------------

    def spawn(self, action: Spawn, pool: Pool) -> None:
        """Order a zygote to fork workers."""
        orders = []
        for order in action.orders:
            try:
                index = self._scoreboard.claim()
            except ScoreboardFull as error:  # as after many scalings whose old workers still drain
                self._emit(SpawnFailed(order.worker, str(error), clock.iso()))
                continue
            self._stacks.reuse(index)
            self._workers[order.worker] = _Worker(index, action.zygote)
            record = self._scoreboard.record(index)
            now = clock.monotonic()
            self._monitor.add(order.worker, record, pool.round_timeout, now, pool.name)
            orders.append((order.worker, index, order.slot, order.max_rounds, order.max_rss))
        zygote = self._zygotes.get(action.zygote)
        for start in range(0, len(orders), MAX_ORDERS_A_MESSAGE):
            part = orders[start : start + MAX_ORDERS_A_MESSAGE]
            try:
                if zygote is None:
                    raise ChannelClosed("its zygote is gone")
                zygote.channel.send(("spawn", part))
            except (ChannelClosed, ChannelFull, OSError) as error:
                for worker, *_ in part:
                    self._unspawned(worker, str(error))

    def _spawned(self, worker: int, pid: int) -> None:
        found = self._workers.get(worker)
        if found is None or found.pid is not None:
            return  # it died before it was reported, and was found by its record
        found.pid = pid
        self._by_pid[pid] = worker
        self._emit(Spawned(worker, pid))
        exit = self._early.pop(pid, None)
        if exit is not None:
            self._gone(worker, exit)
        self._forget_early()

    def met(self, worker: int) -> None:
        """Take a worker for born that speaks before its zygote has reported it."""
        found = self._workers.get(worker)
        if found is not None and found.pid is None:
            pid = self._monitor.record(worker).pid
            if self._may_be(pid):
                self._spawned(worker, pid)

    def _may_be(self, pid: int) -> bool:
        """Whether a number that stands in a record can be a worker's: a child of ours, soon."""
        others = {*self._by_pid, *self.helpers()}
        if pid == 0 or pid in others:
            return False
        return process.is_child(pid) or process.is_below(pid, os.getpid(), others)

    def _unspawned(self, worker: int, reason: str) -> None:
        if worker in self._workers and self._workers[worker].pid is None:
            self._forget(worker)
            self._forget_early()
            self._emit(SpawnFailed(worker, reason, clock.iso()))

    def _forget_early(self) -> None:
        """No fork is to be reported: what was reaped early was no worker."""
        if not self._awaited():
            self._early.clear()

    def _awaited(self) -> list[int]:
        return [worker for worker, found in self._workers.items() if found.pid is None]

    # -- signals ----------------------------------------------------------------

    def signal(self, worker: int, number: int) -> None:
        """Send a worker a signal."""
        pid = self.pid(worker)
        if pid is not None:
            if number in TELLS:
                record = self._monitor.record(worker)
                record.told = max(record.told, TELLS[number])
            process.signal_process(pid, number)

    def kill(self, worker: int, *, force: bool, stuck: bool) -> None:
        """Kill a worker's group; unless forced, not while a lease holds."""
        found = self._workers.get(worker)
        if found is None or found.pid is None:
            return
        if force:
            self._kill(worker, found, found.pid)
        else:
            self._look_and_kill(worker, found, found.pid, stuck)

    def _look_and_kill(self, worker: int, found: _Worker, pid: int, stuck: bool) -> None:
        """Stop it, so that it can't take a lease between our look and the kill."""
        was_stopped = process.is_stopped(pid)
        if not process.stop_for_a_look(pid, LEASE_LOOK_S):
            found.looks += 1
            if found.looks < MAX_LEASE_LOOKS:
                process.signal_process(pid, signal.SIGCONT)
                return
        found.looks = 0
        now = clock.monotonic()
        leased, held_until = self._monitor.lease(worker, now)
        if held_until is None and (not stuck or self._monitor.overdue(worker, now)):
            found.timed_out = stuck
            self._kill(worker, found, pid)
            return
        if not was_stopped:
            process.signal_process(pid, signal.SIGCONT)
        if held_until is not None:
            self._emit(LeaseSeen(worker, leased, held_until))
        else:
            self._monitor.recovered(worker, now)
            self._emit(Recovered(worker))

    def _kill(self, worker: int, found: _Worker, pid: int) -> None:
        found.killed = True
        process.end_group(pid)
        process.signal_process(pid, signal.SIGKILL)  # it may have left its group
        self._emit(Killed(worker))
        if process.is_foreign(pid):
            self._lose(worker, found, pid)

    def _lose(self, worker: int, found: _Worker, pid: int) -> None:
        """It can't be ended: supervise it no more, but keep what it may still write to."""
        self._log.error(
            f"worker with pid {pid} has become another user's and can't be killed; it is left to "
            "itself, and what it has in hand waits until it has ended"
        )
        self._lost[pid] = found.index
        self._groups[worker] = [pid]
        del self._workers[worker], self._by_pid[pid]
        self._monitor.drop(worker)
        why = "has become another user's and can't be killed"
        self._emit(Died(worker, why, planned=False, cause=DeathCause.LOST))

    def lost(self, pid: int | None) -> bool:
        """Whether a process is a worker that could not be killed, and has not ended."""
        return pid in self._lost

    # -- deaths -----------------------------------------------------------------

    def reap(self) -> None:
        """Take leave of children that are gone: some now, the others in the loop's next turn."""
        for _ in range(MAX_REAPED_A_TURN):
            exit = process.peek_exit()
            if exit is None:
                self.more_to_reap = False
                return
            worker = self._by_pid.get(exit.pid)
            if worker is None:
                worker = self._unreported(exit.pid)
            if worker is None:
                if exit.pid in self.zygote_pids():
                    process.end_group(exit.pid)  # what the code started while it was imported
                elif exit.pid in self._lost:
                    process.end_group(exit.pid)
                    self._scoreboard.release(self._lost.pop(exit.pid))
                elif exit.pid not in self.others:
                    self._other_child(exit)
                process.reap(exit.pid)
                self._other(exit)
            else:
                self._end_groups(worker, exit.pid)  # before their numbers are free for others
                process.reap(exit.pid)
                self._gone(worker, exit)
        self.more_to_reap = True

    def _end_groups(self, worker: int, pid: int) -> None:
        """Kill what a dead worker leaves: its own group, that of its subprocess, that it was in.

        Only the first is certain to be its own.
        """
        process.end_group(pid)
        groups = self._groups[worker] = [pid]
        told = {self._monitor.record(worker).child_group, process.group_of(pid) or 0} - {0, pid}
        apart = {*self.helpers(), *self._by_pid} - {pid}
        for group in told:
            if process.is_group_below(group, os.getpid(), apart):
                process.end_group(group)
                groups.append(group)

    def groups_of(self, worker: int) -> list[int]:
        """Return the process groups that a dead worker had, once."""
        return self._groups.pop(worker, [])

    def _unreported(self, pid: int) -> int | None:
        """Find a worker that died before its zygote could report it."""
        for worker in self._awaited():
            if self._monitor.record(worker).pid == pid:
                self._spawned(worker, pid)
                return worker
        return None

    def _other_child(self, exit: Exit) -> None:
        """Report the end of what a zygote's code had started only if memory had run out."""
        group = process.group_of(exit.pid)
        zygote = next((z for z in self._zygotes.values() if z.pid == group), None)
        ours = zygote is None or zygote.killed  # what is left of a group, we have killed
        if self._oom_killed(exit, ours=ours) and zygote is not None:
            name = f"{process.name_of(exit.pid)} (pid {exit.pid})"
            self._log.warning(f"pool {zygote.pool}: {name} was {deaths.how(exit, oom_killed=True)}")

    def _oom_killed(self, exit: Exit, *, ours: bool) -> bool:
        return self._oom_kills.took(exit, clock.monotonic(), ours=ours)

    def _other(self, exit: Exit) -> None:
        for number, zygote in list(self._zygotes.items()):
            if zygote.pid == exit.pid:
                self._zygote_gone(number, zygote, exit)
                return
        other = self.others.pop(exit.pid, None)
        if other is not None:
            self._tell_crash(exit, other.what, other.window)
            other.gone(deaths.how(exit, oom_killed=self._oom_killed(exit, ours=False)))
        elif self._awaited():
            self._early[exit.pid] = exit
        # else a stranger's orphan, which came to us as it would have come to init

    def _zygote_gone(self, number: int, zygote: _Zygote, exit: Exit) -> None:
        self._heard(number, zygote, MAX_LAST_MESSAGES)
        self._hang_up(zygote)
        del self._zygotes[number]
        for worker in self._awaited():
            if self._workers[worker].zygote == number:
                pid = self._monitor.record(worker).pid
                if self._may_be(pid):
                    self._spawned(worker, pid)  # its fork could not be reported any more
                else:
                    self._forget(worker)
        self._tell_crash(exit, f"zygote of {zygote.pool}", zygote.window)
        zygote.window.give_back()
        oom_killed = self._oom_killed(exit, ours=zygote.killed)
        others = (n for n, other in self._zygotes.items() if other.pool == zygote.pool)
        oldest = next(others, None)  # of another generation: it has its code, and takes orders
        if oldest is not None:  # else the one that is started instead will
            self._guard_survivors(oldest)
        reason = f"its zygote {deaths.how(exit, oom_killed=oom_killed)}"
        if (exit.code, exit.status) == (os.CLD_EXITED, CUT_OFF):
            reason = process.CUT_OFF_TOLD
        self._emit(ZygoteDied(number, reason))

    def _tell_crash(self, exit: Exit, what: str, window: Window) -> None:
        stack = window.read()
        if stack and exit.code != os.CLD_EXITED and exit.status != signal.SIGKILL:
            self._log.error(f"the {what} (pid {exit.pid}): its stack:\n{stack}")

    def _gone(self, worker: int, exit: Exit) -> None:
        record = self._monitor.record(worker)
        oom_killed = self._oom_killed(exit, ours=self._workers[worker].killed)
        event = Died(
            worker,
            deaths.reason(record.left, record.text, record.phase, exit, oom_killed=oom_killed),
            record.left in deaths.PLANNED and exit.code == os.CLD_EXITED,
            record.rounds,
            record.good,
            clock.iso(),
            interrupted=record.left in deaths.PLANNED and record.ack == Ack.INTERRUPT,
            clean=(exit.code == os.CLD_EXITED and exit.status == 0) or not record.born_whole,
            own_handler=record.left == ExitKind.OWN_HANDLER and exit.status == 0,
            job=bool(record.job),
            was_ready=bool(record.ready_at),
            cause=deaths.cause(record.left, exit, oom_killed=oom_killed),
        )
        timed_out = {"timed_out": True} if self._workers[worker].timed_out else {}
        self._last_words[worker] = {
            "signal": None if exit.code == os.CLD_EXITED else process.signal_name(exit.status),
            "exit": exit.status if exit.code == os.CLD_EXITED else None,
            "stack": self._stacks.read(self._workers[worker].index),
            **timed_out,
        }
        self._forget(worker)
        self._emit(event)

    def last_words(self, worker: int) -> dict[str, Any]:
        """Return how a worker ended that is not cleaned up yet."""
        return self._last_words.get(worker, {})

    def evidence_of(self, worker: int, reason: str) -> dict[str, Any]:
        """Return what is known of a death, once."""
        return {"reason": reason, **self._last_words.pop(worker, {})}

    def _forget(self, worker: int) -> None:
        found = self._workers.pop(worker)
        if found.pid is not None:
            self._by_pid.pop(found.pid, None)
        self._monitor.drop(worker)
        self._scoreboard.release(found.index)


def bell_rang(bell: int) -> list[int] | None:
    """Return the ids of the workers that rang, each once; None if some may not have got through.

    Reads once: a worker that rings without end is not all there is to be heard.
    """
    try:
        data = os.read(bell, PIPE_BYTES)
    except BlockingIOError:
        return []
    if len(data) == PIPE_BYTES or len(data) % RING_BYTES:
        return None
    return list(dict.fromkeys(memoryview(data).cast("q")))
