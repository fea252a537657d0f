"""The queue keepers of the pools that take jobs: started when first asked for, kept alive.

A worker that takes jobs says so in its record; its pool's keeper is started then.
"""

from __future__ import annotations

import os
import selectors
import signal

from graced import clock
from graced.host import process
from graced.supervisor.children import Other

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from graced import settings
    from graced.host.stackdump import Window
    from graced.queue.keeper import Keeper
    from graced.settings import Pool, Settings
    from graced.supervisor.children import Processes
    from graced.supervisor.shared import Ground

AGAIN = 0.1  # seconds until a keeper that died is started again; doubled each time
LATEST = 10.0  # seconds of that wait at most
ANSWER = 1.0  # seconds that a keeper gets to count
FAREWELL = 10.0  # seconds that a keeper gets to write what it has
STATES = ("waiting", "taken", "done", "dead")


class _Kept:
    """One pool's keeper, over all its processes."""

    __slots__ = (
        "again_at",
        "cut_off",
        "failures",
        "keeper",
        "leaving",
        "left",
        "watched",
        "window",
    )

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self.again_at: float | None = None
        self.cut_off: set[int] = set()  # workers that can't reach it
        self.failures = 0
        self.leaving: float | None = None  # until when it may take to leave
        self.left: str | None = None  # why nobody works here any more; "" once that is told
        self.watched = -1
        self.window: Window | None = None  # for its stacks

    @property
    def stopped(self) -> str | None:
        """That it is stopped by a signal, in words."""
        pid = self.keeper.pid
        if pid is None or not process.is_stopped(pid):
            return None
        return f"its keeper (pid {pid}) is stopped"

    @property
    def trouble(self) -> str | None:
        """Why the queue can't be used now, by some workers at least."""
        if self.keeper.trouble is not None or not self.cut_off:
            return self.keeper.trouble
        who = "1 worker" if len(self.cut_off) == 1 else f"{len(self.cut_off)} workers"
        return f"{who} cannot reach it at {self.keeper.plan.socket}"


class _Counting:
    """Somebody who waits for all keepers' counts."""

    __slots__ = ("done", "missing", "until")

    def __init__(self, until: float, missing: set[_Kept], done: Callable[[], None]) -> None:
        self.until = until
        self.missing = missing
        self.done = done


class Queues:
    """All queue keepers of the daemon."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        processes: Processes,
        ground: Ground,
        look: Callable[[], None],
    ) -> None:
        self._look = look  # whether the folder of the sockets is there
        self._selector = selector
        self._processes = processes
        self._ground = ground
        self._log = ground.log
        self._kept: dict[str, _Kept] = {}
        self._looked_at: set[str] = set()  # pools that take no jobs
        self._counting: list[_Counting] = []

    # -- what there is ----------------------------------------------------------

    def counts(self, pool: str) -> dict[str, Any] | None:
        """Return how many jobs a pool's keeper said there are; None without a queue."""
        kept = self._kept.get(pool)
        if kept is None:
            return None
        counts = dict(kept.keeper.counts or dict.fromkeys(STATES))
        counts.pop("trouble", None)
        trouble = kept.stopped or kept.trouble
        return counts if trouble is None else {**counts, "trouble": trouble}

    def stopped(self) -> list[str]:
        """Return which keepers are stopped by a signal, in words."""
        found = [(pool, kept.stopped) for pool, kept in self._kept.items()]
        return [f"queue {pool}: {words}" for pool, words in found if words is not None]

    def trouble(self) -> str | None:
        """Return why a queue can't be used now, if there is a reason."""
        for pool, kept in self._kept.items():
            if kept.trouble is not None:
                return f"queue {pool}: {kept.trouble}"
        return None

    @property
    def gone(self) -> bool:
        """Whether no keeper's process is left."""
        return all(kept.keeper.pid is None for kept in self._kept.values())

    def next_deadline(self) -> float | None:
        """When something is due here, or None."""
        times = [t for k in self._kept.values() for t in (k.again_at, k.leaving) if t is not None]
        times += [counting.until for counting in self._counting]
        return min(times, default=None)

    # -- keepers' lives -----------------------------------------------------------

    def need(self, pool: Pool, settings: Settings) -> None:
        """A worker of the pool takes jobs: have a keeper."""
        kept = self._kept.get(pool.name)
        if kept is None:
            kept = self._kept[pool.name] = _Kept(self._keeper(pool, settings))
            self._start(kept)

    def reached(self, pool: str, worker: int, *, is_cut_off: bool) -> bool:
        """A worker says whether it can reach its queue; return whether it could until now."""
        kept = self._kept[pool]
        if is_cut_off == (worker in kept.cut_off):
            return False
        kept.cut_off ^= {worker}
        if is_cut_off:
            self._log.error(f"queue {pool}: {kept.trouble}; they look for it again and again")
        return is_cut_off

    def listen_again(self) -> None:
        """Have the keepers whose socket is gone listen anew."""
        for kept in self._kept.values():
            if kept.keeper.open and not os.path.lexists(kept.keeper.plan.socket):
                kept.keeper.listen_again()

    def not_needed(self, pool: Pool) -> None:
        """A worker of the pool takes no jobs: tell, once, if some may wait for it."""
        if pool.name in self._looked_at:
            return
        self._looked_at.add(pool.name)
        if pool.name in self._kept:
            self._ask_what_stays(self._kept[pool.name], "its workers take no jobs any more")
            return
        file = self._ground.queue_file(pool)
        if os.path.exists(file):
            self._log.warning(f"pool {pool.name} takes no jobs: those in {file} are left there")

    def _keeper(self, pool: Pool, settings: Settings) -> Keeper:
        from graced.queue.keeper import Keeper
        from graced.queue.plan import KeeperPlan  # for those who have jobs
        from graced.queue.policy import Policy

        plan = KeeperPlan(
            pool=pool.name,
            file=self._ground.queue_file(pool),
            socket=self._ground.queue_socket(pool),
            daemon_id=self._ground.daemon_id,
            policy=Policy.of(pool),
            name=settings.name,
            log=self._log.bind(pool=pool.name),
        )
        return Keeper(plan)

    def apply(self, settings: Settings) -> None:
        """Go by the settings of a new generation."""
        from graced.queue.policy import Policy

        for name, kept in self._kept.items():
            if name in settings.pools:
                kept.keeper.apply(Policy.of(settings.pools[name]))
            else:
                self._ask_what_stays(kept, "the pool is gone")

    def _ask_what_stays(self, kept: _Kept, why: str) -> None:
        """Nobody works here any more: warn if jobs wait."""
        if kept.left is None:
            kept.left = why
            kept.keeper.count()

    def _tell_what_stays(self, kept: _Kept) -> None:
        why, waiting = kept.left, (kept.keeper.counts or {}).get("waiting")
        if not why or not waiting:
            return
        plan = kept.keeper.plan
        jobs = "1 job waits" if waiting == 1 else f"{waiting} jobs wait"
        self._log.warning(
            f"queue {plan.pool}: {why}, and {jobs} in {plan.file}:"
            f" a pool with `queue: sqlite:///{plan.file}` would do them; nobody else does"
        )
        kept.left = ""  # once

    def log_to(self, wanted: settings.Log) -> None:
        """Have all keepers follow to another log."""
        for kept in self._kept.values():
            kept.keeper.log_to(wanted)

    def retain(self, pools: Mapping[str, object]) -> None:
        """Let the keepers of pools that are gone leave."""
        for name, kept in self._kept.items():
            if name not in pools and kept.leaving is None:
                self._stop(kept)

    def stop(self) -> None:
        """All workers are gone: have the keepers write what they have and leave."""
        for kept in self._kept.values():
            if kept.leaving is None:
                self._stop(kept)

    def buried(self, pool: str, worker: int, evidence: dict[str, Any], *, counts: bool) -> None:
        """A worker and its group are gone: what it had in hand may go to another."""
        kept = self._kept.get(pool)
        if kept is not None:
            kept.cut_off.discard(worker)
            kept.keeper.died(worker, evidence, counts=counts)

    def tick(self, now: float) -> None:
        """Start again what is due, end what takes too long."""
        for kept in self._kept.values():
            if kept.again_at is not None and now >= kept.again_at:
                self._start(kept)
            if kept.leaving is not None and now >= kept.leaving and kept.keeper.pid is not None:
                kept.leaving = now + FAREWELL
                self._log.error(f"queue {kept.keeper.plan.pool}: its keeper had to be killed")
                process.signal_process(kept.keeper.pid, signal.SIGKILL)
        self._answer(lambda counting: now >= counting.until)

    def _start(self, kept: _Kept) -> None:
        kept.again_at = None
        self._look()
        keeper = kept.keeper
        try:
            if kept.window is None:
                kept.window = self._processes.lend_window()
            kept.window.clear()
            pid = keeper.start(kept.window)
        except OSError as error:
            self._log.error(f"queue {keeper.plan.pool}: cannot fork: {error.strerror}")
            self._start_later(kept)
            return
        self._processes.others[pid] = Other(
            f"queue keeper of {keeper.plan.pool}", kept.window, lambda how: self._died(kept, how)
        )
        kept.watched = keeper.fileno()
        self._selector.register(kept.watched, selectors.EVENT_READ, lambda _: self._heard(kept))

    def _start_later(self, kept: _Kept) -> None:
        wait = min(AGAIN * 2 ** min(kept.failures, 16), LATEST)
        kept.failures += 1
        kept.again_at = clock.monotonic() + wait

    def _stop(self, kept: _Kept) -> None:
        kept.again_at = None
        kept.leaving = clock.monotonic() + FAREWELL
        kept.keeper.stop()

    def _died(self, kept: _Kept, how: str) -> None:
        self._heard(kept)
        kept.keeper.pid = None
        self._unwatch(kept)
        kept.keeper.close()
        if kept.leaving is not None:
            kept.leaving = None
            if kept.window is not None:
                kept.window.give_back()
                kept.window = None
            self._kept = {name: k for name, k in self._kept.items() if k is not kept}
            return
        self._start_later(kept)
        self._log.warning(f"queue {kept.keeper.plan.pool}: its keeper {how}; starting again")

    def _unwatch(self, kept: _Kept) -> None:
        if kept.watched >= 0:
            self._selector.unregister(kept.watched)
            kept.watched = -1

    # -- what they say ------------------------------------------------------------

    def _heard(self, kept: _Kept) -> None:
        if kept.watched < 0:
            return
        pool = kept.keeper.plan.pool
        before = kept.watched
        for message in kept.keeper.receive():
            match message:
                case ("ready",):
                    kept.failures = 0
                    kept.keeper.trouble = None
                    self._log.info(f"queue {pool}: {kept.keeper.plan.file} is open")
                case ("degraded", str(why)) | ("failed", str(why)):
                    kept.keeper.trouble = why
                    self._log.error(f"queue {pool}: {why}")
                case ("well",):
                    self._log.info(f"queue {pool}: works again")
                case ("counts", _):
                    self._counted(kept)
                    self._tell_what_stays(kept)
        if kept.keeper.fileno() < 0 and kept.watched == before:
            self._selector.unregister(before)
            kept.watched = -1

    # -- counts for a status ----------------------------------------------------------

    def count(self, done: Callable[[], None]) -> None:
        """Have all keepers count, then call ``done``; in bounded time."""
        asked = {kept for kept in self._kept.values() if kept.keeper.open}
        if not asked:
            done()
            return
        self._counting.append(_Counting(clock.monotonic() + ANSWER, asked, done))
        for kept in asked:
            kept.keeper.count()

    def _counted(self, kept: _Kept) -> None:
        for counting in self._counting:
            counting.missing.discard(kept)
        self._answer(lambda counting: not counting.missing)

    def _answer(self, over: Callable[[_Counting], bool]) -> None:
        finished = [counting for counting in self._counting if over(counting)]
        self._counting = [counting for counting in self._counting if not over(counting)]
        for counting in finished:
            counting.done()
