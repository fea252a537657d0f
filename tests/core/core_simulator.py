"""A world for the core: zygotes and workers that behave as scripted, and a clock that jumps.

No processes and no waiting: what the core asks for is performed by small models of a
zygote and of a worker, and time moves straight to whatever is due next. After every
event :class:`Law` compares what the core did with what the contract allows, so each
history, scripted or random, is judged by the same law.
"""

from __future__ import annotations

import heapq
import json
import math
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from graced import clock
from graced.core import actions as ac
from graced.core import events as ev
from graced.core.daemon import Daemon
from graced.core.member import Member
from graced.core.pool import Pool as CorePool
from graced.core.states import PoolState, StartReason, WorkerState
from graced.core.status import LastReload, WorkerReading, line, picture
from graced.fencing import KILL_BEFORE_S, moments
from graced.settings import Backoff, Pool, Settings

EPSILON = 1e-6
FOUND_IN = 0.25  # seconds in which a worker with a job is found, once its host's lease ends
SOON = 0.001  # seconds from a SIGKILL to the death
STACK = 0.02  # seconds that a stack takes to be printed
INSTANT = 200  # events that may follow from each other without time passing


@dataclass
class Code:
    """How a zygote behaves."""

    imports: float | None = 0.05  # seconds; None: for ever
    fails: str | None = None  # why the import fails, when it is over
    forks: float | None = 0.002  # seconds to fork; None: for ever
    fork_fails: str | None = None
    silent: bool = False  # it is stopped before it can report whom it has forked
    lingers: bool = False  # it does not leave after an import that failed
    lives: float = math.inf  # seconds after the import


@dataclass
class Work:
    """How a worker behaves. By default it gets ready at once, is idle and obeys."""

    setup: float | None = 0.01  # seconds; None: for ever
    setup_fails: str | None = None
    lives: float = math.inf  # seconds from ready to a death
    round: float | None = None  # seconds; None: there is nothing to do
    raises: bool = False  # its rounds raise
    dies_after: float = math.inf  # rounds
    stuck_round: int = -1  # this one (from 0) takes ``stuck_for`` instead
    stuck_for: float = math.inf
    wants_after: float = math.inf  # rounds until it calls self.recycle()
    teardown: float = 0.0
    deaf_to_term: bool = False
    deaf_to_int: bool = False
    frozen: bool = False  # all signals are blocked, or it is stopped
    dies_late: float = SOON  # seconds from a SIGKILL to the death
    # critical sections: (seconds after ready, lease, seconds until it leaves the section)
    leases: tuple[tuple[float, float, float], ...] = ()


@dataclass
class Zygote:
    """A model of a zygote's process."""

    id: int
    pool: Pool
    generation: int
    code: Code
    state: str = "importing"  # imported, failed, gone
    orders: list[ac.SpawnOrder] = field(default_factory=list)


@dataclass
class Process:
    """A model of a worker's process, from its spawn order on."""

    id: int
    pool: Pool
    slot: int
    generation: int
    zygote: int
    work: Work
    nth: int
    max_rounds: int
    ordered_at: float
    pid: int | None = None
    reported: bool = False  # its fork, which it does itself when it is ready
    phase: str = "unborn"  # setup, ready, busy, teardown, gone
    rounds: int = 0
    good: int = 0
    round_began: float = 0.0
    drained: bool = False
    interrupted: bool = False  # WorkerInterrupt was raised
    wanted_interrupt: bool = False  # it is kept until a lease ends
    ack: int = 0
    watched: bool = False
    lease_since: float | None = None
    lease_until: float = 0.0
    leased: float = 0.0
    told_lease: tuple[float, float | None] = (0.0, None)
    stack_printed: bool = False
    heard: list[tuple[float, str]] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        return self.phase not in ("unborn", "gone")

    def lease(self, now: float) -> tuple[float, float | None]:
        """What the scoreboard says: seconds leased so far, and until when one holds."""
        if self.lease_since is None:
            return self.leased, None
        current = max(min(now, self.lease_until) - self.lease_since, 0.0)
        return self.leased + current, self.lease_until if self.lease_until > now else None

    def held(self, now: float) -> bool:
        return self.lease(now)[1] is not None


class Simulator:
    """One daemon and all that it knows of the world."""

    def __init__(self, settings: Settings, *, jitter: Callable[[], float] | None = None) -> None:
        self.now = 1000.0
        self.daemon = Daemon(settings, jitter or (lambda: 0.0), self.now, clock.zone)
        self.code_for: Callable[[Zygote], Code] = lambda _: Code()
        self.work_for: Callable[[Process], Work] = lambda _: Work()
        self.next_config: Settings | str = settings  # what a reload will read
        self.zygotes: dict[int, Zygote] = {}
        self.processes: dict[int, Process] = {}
        self.did: list[tuple[float, ac.Action]] = []
        self.ticks: list[float] = []
        self.law = Law(self)
        self.exit: ac.Exit | None = None
        self._queue: deque[ev.Event] = deque()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_count = 0
        self._pid = 800
        self._idle_ticks = 0
        self.host_leases: list[HostLease] = []
        self.lost_jobs: set[int] = set()  # workers whose jobs are others' by now

    # -- time -------------------------------------------------------------------

    def start(self) -> Simulator:
        self._perform(self.daemon.start(self.now), None)
        self.settle()
        return self

    def do(self, event: ev.Event) -> None:
        """Let something happen now, and all that follows from it at once."""
        self._queue.append(event)
        self.settle()

    def settle(self) -> None:
        """Deal with all that happens at this moment."""
        for _ in range(INSTANT * (1 + len(self.processes))):
            if not self._queue:
                return
            self._handle(self._queue.popleft())
        raise AssertionError(f"the core never comes to rest: {self.recent()}")

    def next_time(self) -> float | None:
        times = [self._timers[0][0]] if self._timers else []
        deadline = self.daemon.next_deadline()
        if deadline is not None and self.exit is None:
            times.append(deadline)
        return max(min(times), self.now) if times else None

    def step(self, limit: float = math.inf) -> bool:
        """Go to the next moment at which something is due; False if none is by ``limit``."""
        self.settle()
        time = self.next_time()
        if time is None or time > limit:
            return False
        self.now = time
        while self._timers and self._timers[0][0] <= self.now:
            heapq.heappop(self._timers)[2]()
        self.settle()
        deadline = self.daemon.next_deadline()
        if deadline is not None and deadline <= self.now and self.exit is None:
            self._tick()
        return True

    def run(self, seconds: float) -> Simulator:
        """Let time pass."""
        end = self.now + seconds
        while self.step(end):
            pass
        self.now = end
        return self

    def until(self, condition: Callable[[], object], within: float = 100.0) -> Simulator:
        """Let time pass until something is so."""
        end = self.now + within
        while not condition():
            if not self.step(end):
                raise AssertionError(f"not within {within} s; lately: {self.recent()}")
        return self

    def until_exit(self, within: float = 1000.0) -> ac.Exit:
        self.until(lambda: self.exit is not None, within)
        assert self.exit is not None
        return self.exit

    def _tick(self) -> None:
        """A tick has to act, or to move the deadline: else the loop would spin."""
        self.ticks.append(self.now)
        done = len(self.did)
        self._queue.append(ev.Tick())
        self.settle()
        deadline = self.daemon.next_deadline()
        acted = len(self.did) > done or deadline is None or deadline > self.now
        self._idle_ticks = 0 if acted else self._idle_ticks + 1
        assert self._idle_ticks < 5, f"the loop spins at {self.now}: {self.recent()}"
        busy = len(self.ticks) > 200 and self.ticks[-200] >= self.now - EPSILON
        assert not busy, f"200 ticks in no time at {self.now}: {self.recent()}"

    def _after(self, delay: float, call: Callable[[], None]) -> None:
        if delay < math.inf:
            self._timer_count += 1
            heapq.heappush(self._timers, (self.now + delay, self._timer_count, call))

    # -- looking ----------------------------------------------------------------

    def alive(self, pool: str | None = None, **fields: Any) -> list[Process]:
        """The workers that have a process."""
        return [
            p
            for p in self.processes.values()
            if p.alive
            and pool in (None, p.pool.name)
            and all(getattr(p, k) == v for k, v in fields.items())
        ]

    def serving(self, pool: str | None = None, **fields: Any) -> list[Process]:
        """The workers that take rounds and were not asked to leave."""
        phases = ("ready", "busy")
        return [p for p in self.alive(pool, **fields) if p.phase in phases and not p.drained]

    def actions(self, kind: type[Any], since: float = 0.0) -> list[Any]:
        return [a for t, a in self.did if isinstance(a, kind) and t >= since]

    def spawn_orders(self, pool: str | None = None, since: float = 0.0) -> list[ac.SpawnOrder]:
        spawns = self.actions(ac.Spawn, since)
        return [b for s in spawns for b in s.orders if pool in (None, b.pool)]

    def said(self, text: str) -> bool:
        return any(text in say.text for say in self.actions(ac.Say))

    def pool(self, name: str = "jobs") -> CorePool:
        return self.daemon.pools[name]

    def recent(self, count: int = 25) -> str:
        """What was done lately, and what has become of it: for the eyes of people."""
        lines = [f"{t - 1000:.3f} {a}" for t, a in self.did[-count:]]
        daemon = self.daemon
        lines.append(f"daemon {daemon.state} generation {daemon.generation}")
        for p in daemon.pools.values():
            trial = p.candidate.state if p.candidate else None
            lines.append(f"pool {p.name} {p.state} target {p.target} {trial} {p.trouble}")
            lines += [f"  zygote {z.id} {z.state} until {z.deadline}" for z in p.zygotes.values()]
            lines += [
                f"  {m.label} id {m.id} {m.state} generation {m.generation} {m.wants} {m.failure}"
                for m in p.members.values()
            ]
        return "\n".join(lines)

    # -- events and actions -------------------------------------------------------

    def _handle(self, event: ev.Event) -> None:
        if isinstance(event, ev.JobLost):
            self.lost_jobs.add(event.worker)
        if isinstance(event, (ev.Tick, ev.DrainAsked, ev.InterruptAsked, ev.JobCancelled)):
            for process in self.alive():
                self._tell_lease(process)
            for lease in self.host_leases:
                lease.tell()
        self._perform(self.daemon.handle(event, self.now), event)

    def hear(self, event: ev.Event) -> None:
        """Hand in what is read before another event."""
        self._perform(self.daemon.handle(event, self.now), event)

    def _tell_lease(self, process: Process) -> None:
        lease = process.lease(self.now)
        if lease != process.told_lease:
            process.told_lease = lease
            event = ev.LeaseSeen(process.id, *lease)
            self._perform(self.daemon.handle(event, self.now), event)

    def _perform(self, actions: list[ac.Action], event: ev.Event | None) -> None:
        self.did += [(self.now, action) for action in actions]
        try:
            self.law.judge(event, actions)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{event}\n{self.recent(60)}") from error
        for action in actions:
            self._do(action)

    def _do(self, action: ac.Action) -> None:
        match action:
            case ac.ReadConfig():
                answer = self.next_config
                refused = isinstance(answer, str)
                self._queue.append(
                    ev.ConfigRefused(answer) if refused else ev.ConfigAccepted(answer)  # type: ignore[arg-type]
                )
            case ac.StartZygote():
                self._start_zygote(action)
            case ac.KillZygote(number):
                zygote = self.zygotes[number]
                self._after(SOON, lambda: self.end_zygote(zygote))
            case ac.Spawn(number, spawn_orders):
                self._order(self.zygotes[number], spawn_orders)
            case ac.Exit():
                self.exit = action
            case _:
                self._do_to_worker(action)

    def _do_to_worker(self, action: ac.Action) -> None:
        match action:
            case ac.Drain(worker):
                self.sigterm(self.processes[worker])
            case ac.Interrupt(worker):
                self.sigint(self.processes[worker])
            case ac.Kill(worker, force, stuck):
                self._kill(self.processes[worker], force=force, stuck=stuck)
            case ac.PrintStack(worker):
                self._after(STACK, lambda: self._printed(self.processes[worker]))
            case ac.WatchRounds(worker):
                self._watch(self.processes[worker])
            case ac.LookAt(worker):
                if self.processes[worker].phase == "ready":
                    self._emit(ev.SeenWaiting(worker))
            case ac.LookForJob(worker):
                if self.processes[worker].phase == "busy":  # each round is a job
                    self._emit(ev.SeenAtJob(worker))
            case _:
                pass  # what is only told

    def _emit(self, event: ev.Event) -> None:
        self._queue.append(event)

    # -- zygotes ------------------------------------------------------------------

    def _start_zygote(self, action: ac.StartZygote) -> None:
        zygote = Zygote(action.zygote, action.pool, action.generation, Code())
        zygote.code = self.code_for(zygote)
        self.zygotes[zygote.id] = zygote
        if zygote.code.imports is not None:
            self._after(zygote.code.imports, lambda: self._import_over(zygote))

    def _import_over(self, zygote: Zygote) -> None:
        if zygote.state != "importing":
            return
        if zygote.code.fails is not None:
            zygote.state = "failed"
            self._emit(ev.ImportFailed(zygote.id, zygote.code.fails))
            if not zygote.code.lingers:
                self._after(SOON, lambda: self.end_zygote(zygote))
            return
        zygote.state = "imported"
        self._emit(ev.Imported(zygote.id))
        self._after(zygote.code.lives, lambda: self.end_zygote(zygote))

    def end_zygote(self, zygote: Zygote) -> None:
        """The zygote dies, and with it what it had not yet forked."""
        if zygote.state == "gone":
            return
        zygote.state = "gone"
        for process in self.processes.values():
            if process.zygote == zygote.id and process.phase == "unborn":
                process.phase = "gone"
            elif process.zygote == zygote.id and process.alive:
                self._report(process)
        self._emit(ev.ZygoteDied(zygote.id, "its zygote was killed by SIGKILL"))

    def _order(self, zygote: Zygote, spawn_orders: tuple[ac.SpawnOrder, ...]) -> None:
        for order in spawn_orders:
            nth = sum(p.pool.name == order.pool for p in self.processes.values())
            process = Process(
                order.worker,
                zygote.pool,
                order.slot,
                zygote.generation,
                zygote.id,
                Work(),
                nth,
                order.max_rounds,
                self.now,
            )
            process.work = self.work_for(process)
            self.processes[process.id] = process
            if zygote.code.forks is not None:
                self._after(zygote.code.forks, lambda p=process: self._fork(zygote, p))  # type: ignore[misc]

    def _fork(self, zygote: Zygote, process: Process) -> None:
        if zygote.state != "imported" or process.phase != "unborn":
            return
        if zygote.code.fork_fails is not None:
            process.phase = "gone"
            self._emit(ev.SpawnFailed(process.id, zygote.code.fork_fails, "then"))
            return
        self._pid += 1
        process.pid = self._pid
        process.phase = "setup"
        if not zygote.code.silent:
            self._report(process)
        if process.work.setup is not None:
            self._after(process.work.setup, lambda: self._setup_over(process))

    def _report(self, process: Process) -> None:
        """The main process learns of a fork: from the zygote, the worker, or its record."""
        if not process.reported and process.pid is not None:
            process.reported = True
            self._emit(ev.Spawned(process.id, process.pid))

    # -- a worker's life ------------------------------------------------------------

    def _setup_over(self, process: Process) -> None:
        if process.phase != "setup" or process.interrupted:
            return
        work = process.work
        if work.setup_fails is not None:
            self.die(process, work.setup_fails)
            return
        process.phase = "ready"
        self._report(process)
        self._emit(ev.BecameReady(process.id))
        self._after(work.lives, lambda: self.die(process, "killed by SIGSEGV"))
        for at, seconds, ends in work.leases:
            self._after(at, lambda s=seconds, e=ends: self._take_lease(process, s, e))  # type: ignore[misc]
        self._next_round(process)

    def _next_round(self, process: Process) -> None:
        work = process.work
        if process.phase != "ready" or work.round is None:
            return
        process.phase = "busy"
        process.round_began = self.now
        number = process.rounds
        length = work.stuck_for if number == work.stuck_round else work.round
        self._after(length, lambda: self._round_over(process, number))
        limit = process.pool.round_timeout
        if limit is not None:
            self._after(limit, lambda: self._round_overdue(process, number, limit))

    def _round_overdue(self, process: Process, number: int, limit: float) -> None:
        if process.phase == "busy" and process.rounds == number:
            self._emit(ev.RoundOverdue(process.id, limit))

    def overdue(self, process: Process) -> bool:
        limit = process.pool.round_timeout
        began = process.round_began
        return process.phase == "busy" and limit is not None and self.now - began >= limit - EPSILON

    def _round_over(self, process: Process, number: int) -> None:
        if process.phase != "busy" or process.rounds != number:
            return
        work = process.work
        process.phase = "ready"
        process.rounds += 1
        if not work.raises:
            process.good += 1
            if process.watched:
                process.watched = False
                self._emit(ev.RoundDone(process.id))
        if process.rounds >= work.dies_after:
            self.die(process, "killed by SIGSEGV")
        elif process.drained:
            self._leave(process)
        else:
            self._recycle(process)
            self._after(0.0 if work.round else 0.01, lambda: self._next_round(process))

    def _recycle(self, process: Process) -> None:
        if process.max_rounds and process.rounds == process.max_rounds:
            self._emit(ev.ReplacementWanted(process.id, "max_rounds"))
        elif process.rounds == process.work.wants_after:
            self._emit(ev.ReplacementWanted(process.id, "recycle()"))

    def _watch(self, process: Process) -> None:
        if process.good:
            self._emit(ev.RoundDone(process.id))
        else:
            process.watched = True

    def die(self, process: Process, reason: str, *, planned: bool = False, **how: bool) -> None:
        """The worker's process ends."""
        if not process.alive:
            return
        process.phase = "gone"
        self._report(process)
        how = {"interrupted": planned and process.ack == 3, "clean": planned, **how}
        done = process.rounds, process.good
        self._emit(ev.Died(process.id, reason, planned, *done, f"{self.now:.3f}", **how))

    def _leave(self, process: Process) -> None:
        process.phase = "teardown"
        self._after(process.work.teardown, lambda: self.die(process, "drained", planned=True))

    def _take_lease(self, process: Process, seconds: float, ends: float) -> None:
        if process.phase not in ("ready", "busy"):
            return
        process.lease_since = self.now
        process.lease_until = self.now + seconds
        self._after(ends, lambda: self._end_lease(process))
        self._after(seconds, lambda: self._lease_over(process))

    def _end_lease(self, process: Process) -> None:
        process.leased = process.lease(self.now)[0]
        process.lease_since = None
        self._lease_over(process)
        if process.drained or process.wanted_interrupt:
            self._tell_lease_by_bell(process)

    def _tell_lease_by_bell(self, process: Process) -> None:
        lease = process.lease(self.now)
        if process.alive and lease != process.told_lease:
            process.told_lease = lease
            self._emit(ev.LeaseSeen(process.id, *lease))

    def _lease_over(self, process: Process) -> None:
        if process.wanted_interrupt and not process.held(self.now):
            process.wanted_interrupt = False
            self._raise_interrupt(process, 3)

    # -- signals --------------------------------------------------------------------

    def sigterm(self, process: Process) -> None:
        """The worker gets SIGTERM."""
        process.heard.append((self.now, "TERM"))
        if not process.alive or process.work.frozen:
            return
        if process.phase == "setup":
            self._emit(ev.SeenInSetup(process.id))
        if process.work.deaf_to_term or process.drained:
            return
        process.drained = True
        if process.phase == "setup":
            if not process.work.deaf_to_int:
                self._raise_interrupt(process, 2)
            return
        self._acknowledge(process, 1)
        if process.phase == "ready":
            self._leave(process)

    def sigint(self, process: Process) -> None:
        """The worker gets SIGINT."""
        process.heard.append((self.now, "INT"))
        if not process.alive or process.work.frozen or process.work.deaf_to_int:
            return
        if process.held(self.now):
            process.wanted_interrupt = True
        else:
            self._raise_interrupt(process, 3)

    def _raise_interrupt(self, process: Process, ack: int) -> None:
        if not process.alive:
            return
        self._acknowledge(process, ack)
        if process.interrupted:
            return
        process.interrupted = process.drained = True
        if process.phase == "setup":
            self.die(process, "interrupted", planned=True)
        elif process.phase in ("ready", "busy"):
            self._leave(process)

    def _acknowledge(self, process: Process, ack: int) -> None:
        if ack > process.ack:
            process.ack = ack
            self._emit(ev.Acknowledged(process.id, ack))

    def _kill(self, process: Process, *, force: bool, stuck: bool) -> None:
        """As :mod:`graced.supervisor.children` does: look, then kill or say why not."""
        if process.phase == "unborn" or process.pid is None:
            return
        if not force and process.held(self.now):
            process.told_lease = process.lease(self.now)
            self._emit(ev.LeaseSeen(process.id, *process.told_lease))
        elif stuck and not self.overdue(process):
            self._emit(ev.Recovered(process.id))
        else:
            process.heard.append((self.now, "KILL"))
            self._emit(ev.Killed(process.id))
            self._after(process.work.dies_late, lambda: self.die(process, "killed by SIGKILL"))

    def _printed(self, process: Process) -> None:
        process.stack_printed = True
        self._emit(ev.StackPrinted(process.id))

    # -- the status -----------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """The picture as a client gets it, and proof that the line can be made."""
        readings = {
            p.id: WorkerReading(
                p.rounds, 0, self.now - p.round_began if p.phase == "busy" else None
            )
            for p in self.alive()
        }
        last = LastReload("then", False, "why")
        text = line(self.daemon, readings, last, self.now)
        assert text
        assert "\n" not in text
        shown = picture(self.daemon, readings, lambda _: None, last, self.now)
        result: dict[str, Any] = json.loads(json.dumps(shown, allow_nan=False))
        return result


class HostLease:
    """A pool's lease on a server: the keeper renews it, and the core sees that before a tick."""

    def __init__(self, simulator: Simulator, pool: str = "jobs", length: float = 10.0) -> None:
        self._world = simulator
        self.pool = pool
        self.length = length
        self.until = 0.0
        self._told = 0.0
        simulator.host_leases.append(self)
        self.renew()
        self.tell()

    def renew(self) -> None:
        """It is good again from now on; only the scoreboard says so."""
        self.until = self._world.now + self.length

    def tell(self) -> None:
        """Have the core hear of it."""
        if self.until != self._told:
            self._told = self.until
            pool = self._world.daemon.pools.get(self.pool)
            self.patience = self.length if pool is None else pool.settings.stop_timeout
            self._world.hear(ev.HostLease(self.pool, self.until, self.length))


class Law:
    """What must be true of every history, whatever happens."""

    def __init__(self, simulator: Simulator) -> None:
        self._world = simulator
        self.ids: set[int] = set()
        self.words: list[str] = []
        self.surge: dict[str, int] = {}
        self.most: dict[str, int] = {}  # workers that a pool was ever to have
        self.by_hand = False  # somebody outside sends signals, or scales
        self._state: dict[int, WorkerState] = {}
        self._since: dict[int, tuple[float, float, float]] = {}  # when, leased, patience
        self._imported: set[int] = set()
        self._leaving_since: dict[CorePool, float] = {}
        self.interrupts_asked = 0

    def judge(self, event: ev.Event | None, actions: list[ac.Action]) -> None:
        if isinstance(event, ev.Imported):
            self._imported.add(event.zygote)
        if isinstance(event, (ev.ImportFailed, ev.ZygoteDied)):
            self._imported.discard(event.zygote)
        if isinstance(event, ev.InterruptAsked):
            self.interrupts_asked += 1
        if isinstance(event, (ev.JobCancelled, ev.SeenAtJob, ev.JobLost)):
            self.by_hand = True  # workers are ended for what their jobs are
        for action in actions:
            self._action(action)
        self._words(actions)
        self._fences()
        for member in self._world.daemon.members():
            self._member(member, event)
        for pool in self._world.daemon.pools.values():
            self._pool(pool)

    # -- one action -------------------------------------------------------------------

    def _action(self, action: ac.Action) -> None:
        match action:
            case ac.StartZygote(zygote):
                self._new(zygote)
                assert not self._world.daemon.stopping, "a zygote in a stop"
            case ac.Spawn(zygote, spawn_orders):
                assert not self._world.daemon.stopping, "a worker in a stop"
                assert zygote in self._imported, "a zygote that can't fork"
                assert spawn_orders
                for order in spawn_orders:
                    self._new(order.worker)
            case ac.Drain(worker) | ac.Interrupt(worker) | ac.PrintStack(worker):
                process = self._world.processes[worker]
                assert process.reported, "a signal to nobody"
            case ac.Kill():
                self._kill(action)
            case ac.KillZygote(zygote):
                assert zygote in self._world.zygotes
            case ac.Exit():
                assert not self._world.alive(), "workers are left behind"
                assert all(z.state == "gone" for z in self._world.zygotes.values())

    def _new(self, number: int) -> None:
        assert number not in self.ids, "an id comes back"
        self.ids.add(number)

    def _kill(self, kill: ac.Kill) -> None:
        simulator, worker = self._world, kill.worker
        process = simulator.processes[worker]
        assert process.reported
        found = simulator.daemon.find(worker)
        assert found is not None
        member = found[1]
        if kill.force and self._is_fenced(member, 1):
            return
        if kill.force:
            assert self.interrupts_asked > 1 or self._state.get(worker) is WorkerState.KILLED
            return
        held = member.held_until
        assert held is None or held <= simulator.now + EPSILON, "a kill under a lease"
        if kill.stuck:
            assert process.stack_printed, "a kill without a stack"
        else:
            assert self._state[worker] is WorkerState.INTERRUPTED, "a kill without an interrupt"
            assert self._waited(worker) >= member.settings.stop_timeout - EPSILON, (
                "a kill too early"
            )

    # -- what systemd hears -------------------------------------------------------------

    def _words(self, actions: list[ac.Action]) -> None:
        names = {ac.TellReady: "READY", ac.TellReloading: "RELOADING", ac.TellStopping: "STOPPING"}
        new = [names[type(a)] for a in actions if type(a) in names]
        if not new:
            return
        self.words += new
        expected = "READY"
        for word in self.words:
            if word == "STOPPING":
                expected = ""
                continue
            assert word == expected, f"{self.words}"
            expected = "RELOADING" if word == "READY" else "READY"

    # -- one worker -----------------------------------------------------------------------

    def _member(self, member: Member, event: ev.Event | None) -> None:
        before = self._state.get(member.id, WorkerState.STARTING)
        if member.state is not before:
            self._moved(member, before, event)
            patience = self._patience(member)
            self._since[member.id] = (self._world.now, self._leased(member.id), patience)
            self._state[member.id] = member.state
        elif member.id not in self._since:
            self._state[member.id] = before
            self._since[member.id] = (self._world.now, 0.0, member.settings.ready_timeout)
        if member.state is not WorkerState.READY:
            assert member.deadline() is not None, f"{member.label} {member.state} is forgotten"

    def _patience(self, member: Member) -> float:
        limits = member.settings
        born = member.pid is not None
        drain = limits.drain_timeout if born else min(limits.stop_timeout, limits.drain_timeout)
        return {WorkerState.DRAINING: drain}.get(member.state, limits.stop_timeout)

    def _moved(self, member: Member, before: WorkerState, event: ev.Event | None) -> None:
        order = list(WorkerState)
        assert order.index(member.state) > order.index(before), f"{before} to {member.state}"
        if member.state is WorkerState.INTERRUPTED:
            self._interrupted(member, before, event)
        if member.state is WorkerState.KILLED:
            assert isinstance(event, ev.Killed)

    def _interrupted(self, member: Member, before: WorkerState, event: ev.Event | None) -> None:
        if isinstance(event, (ev.SeenInSetup, ev.Acknowledged, ev.JobCancelled)):
            return
        if isinstance(event, ev.SeenAtJob):
            assert self._is_fenced(member, 0), "its host has the lease for long"
            return
        if self.interrupts_asked:
            return
        assert before in (WorkerState.DRAINING, WorkerState.STARTING), "interrupted out of the blue"
        patience = self._since[member.id][2]
        assert self._waited(member.id) >= patience - EPSILON, "interrupted too early"

    def _is_fenced(self, member: Member, moment: int) -> bool:
        """Whether it is time to interrupt (0) or to kill (1) who has a job on lease."""
        for lease in self._world.host_leases:
            at = moments(lease.until, lease.length, lease.patience)[moment]
            if lease.pool == member.settings.name and self._world.now >= at - EPSILON:
                return True
        return member.id in self._world.lost_jobs

    def _fences(self) -> None:
        """Nobody has a job that its host has on lease when that ends."""
        now = self._world.now
        for lease in self._world.host_leases:
            if not lease.until - KILL_BEFORE_S + FOUND_IN < now < lease.until + KILL_BEFORE_S:
                continue
            for process in self._world.alive(lease.pool, phase="busy"):
                told = any(signal == "KILL" for _, signal in process.heard)
                new = now - process.round_began < FOUND_IN
                assert told or new or self._world.exit, f"{process} has a job at {now}"

    def _leased(self, worker: int) -> float:
        process = self._world.processes.get(worker)
        return process.lease(self._world.now)[0] if process is not None else 0.0

    def _waited(self, worker: int) -> float:
        """The seconds that a worker has had on its rung, those under a lease left out."""
        began, leased, _ = self._since[worker]
        return self._world.now - began - (self._leased(worker) - leased)

    # -- one pool -------------------------------------------------------------------------

    def _pool(self, pool: CorePool) -> None:
        if pool.state is PoolState.LEAVING:
            self._unborn(pool)
        surges = [pool.settings.surge, self.surge.get(pool.name, 0)]
        if pool.candidate is not None:
            surges.append(pool.candidate.settings.surge)
        surge = self.surge[pool.name] = max(surges)
        staying = pool.staying()
        self.most[pool.name] = max(pool.target, self.most.get(pool.name, 0), 1)
        if pool.state is PoolState.UP and not self.by_hand:
            replaced = [
                m
                for m in pool.leaving()
                if m.slot < pool.target
                and not m.failure
                and m.start_reason is not StartReason.REFUSED
            ]
            assert len(replaced) <= self.most[pool.name], "too many are on their way out"
        if pool.state is PoolState.UP:
            assert len(staying) <= pool.target + max(surge, 1), "too many workers"
            slots = Counter(
                m.slot
                for m in staying
                if m.generation == pool.generation and m.wants is None and not self._canary(pool, m)
            )
            assert all(n == 1 for n in slots.values()), "two workers of one slot"
            since = pool.restarts.backoff.since or math.inf
            probes = [
                m for m in staying if m.start_reason is StartReason.PROBE and m.born_at >= since
            ]
            unproven = [m for m in probes if m.state is WorkerState.STARTING]
            assert len(unproven) <= 1, "more than one probe"

    def _unborn(self, pool: CorePool) -> None:
        """Who is not born when its pool is to leave has half of its zygote's time."""
        began = self._leaving_since.setdefault(pool, self._world.now)
        for member in pool.members.values():
            if member.pid is None:
                waited = self._world.now - began
                half = member.settings.stop_timeout / 2
                assert waited <= half + SOON + EPSILON, "a stop waits for a fork"

    def _canary(self, pool: CorePool, member: Member) -> bool:
        return pool.candidate is not None and pool.candidate.canary == member.id


def pool(name: str = "jobs", **values: Any) -> Pool:
    """Return a pool's settings; numbers that make a history easy to follow."""
    return Pool(name, **{"backoff": Backoff(), **values})


def settings(*pools: Pool, **values: Any) -> Settings:
    """Return the settings of a daemon with these pools, or with one of defaults."""
    return Settings(pools={p.name: p for p in pools or (pool(),)}, **values)


def simulator(*pools: Pool, **values: Any) -> Simulator:
    """Return a world with these pools, not yet started."""
    return Simulator(settings(*pools), **values)


def started(*pools: Pool, **values: Any) -> Simulator:
    """Return a world whose daemon is ready."""
    made = simulator(*pools, **values).start()
    return made.until(lambda: made.daemon.ready)


def per_slot(processes: list[Process]) -> dict[int, list[Process]]:
    """Return the processes by slot."""
    slots: dict[int, list[Process]] = defaultdict(list)
    for process in processes:
        slots[process.slot].append(process)
    return slots
