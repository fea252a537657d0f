"""The main process: wait, turn what came into events, ask the core, perform its actions.

One thread, one selector, no tick, no user code. Decisions are in
:mod:`graced.core`; what touches processes is in :mod:`.children`, what
answers people in :mod:`.requests`, what is said to systemd in :mod:`.reporter`.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
from collections import deque

from graced import clock, program
from graced.core import actions as ac
from graced.core import events as ev
from graced.core.daemon import EXTEND_MARGIN_S, Daemon
from graced.core.restarts import LADDER
from graced.core.states import DaemonState, PoolState
from graced.host import process, safepaths, signals
from graced.log.setup import open_log
from graced.log.sinks import FileSink
from graced.monitoring.history import History
from graced.supervisor.children import Children, bell_rang
from graced.supervisor.groups import ProcessGroups
from graced.supervisor.instants import InstantTimer
from graced.supervisor.keepers import KeeperManager
from graced.supervisor.monitor import ScoreboardMonitor
from graced.supervisor.places import Places
from graced.supervisor.reporter import StatusReporter
from graced.supervisor.shared import SharedResources, has_addresses, lack_of_files
from graced.supervisor.signals import SignalTable
from graced.supervisor.stacks import StackCollector
from graced.supervisor.web import WebManager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from graced.config.reader import ConfigReading
    from graced.core.pool import Pool
    from graced.host.directories import RuntimeDir
    from graced.host.notify import Notifier
    from graced.log.logger import Log
    from graced.settings import Settings
    from graced.supervisor.children import Ahead
    from graced.supervisor.requests import ControlRequests
    from graced.supervisor.sockets import Sockets
    from graced.zygote.plan import ZygotePlan

MAX_WORKERS = 1000  # workers of all pools together, as in the configuration
MAX_ANSWERS_A_TURN = 32
MAX_SLEEP_S = 20 * 86400.0  # epoll counts milliseconds in 32 bits
CORE_EVENTS_LEASED = (ev.Tick, ev.DrainAsked, ev.InterruptAsked, ev.JobCancelled)


class Supervisor:
    """The running daemon."""

    def __init__(
        self,
        daemon: Daemon,
        shared: SharedResources,
        ahead: Ahead,
        read_again: Callable[[], ConfigReading],
        notifier: Notifier,
        runtime: RuntimeDir,
        sockets: Sockets | None = None,
    ) -> None:
        self.daemon = daemon
        self.settings = daemon.settings
        self.log = shared.log
        self.runtime = runtime
        self._shared = shared
        self._sockets = sockets  # None: no pool has ever listened
        self._notifier = notifier
        self._read_again = read_again
        self._proposed = daemon.settings
        self._events: deque[ev.Event] = deque()
        self._exit: ac.Exit | None = None
        self._was_ready = False
        self._keeping: Iterator[None] | None = _keep_code(self.log)
        self.history = History(shared.state_dir, self.log.warning)
        self.selector = selectors.DefaultSelector()
        self._received = signals.install()
        self.monitor = ScoreboardMonitor()
        self.monitor.allow_leases(self.settings.max_lease)
        self.children = Children(
            shared.scoreboard,
            shared.stacks,
            self.monitor,
            self.selector,
            self.emit,
            self._plan,
            ahead,
            self.log,
        )
        self.groups = ProcessGroups(self.log)
        self.keepers = KeeperManager(
            self.selector,
            self.children,
            shared,
            self._look_at_places,
            self.history.record,
            self.emit,
        )
        self.instants = InstantTimer(self.selector, self.emit)
        self.places = Places(runtime, self.log)
        self.reporter = StatusReporter(
            self.daemon,
            self.monitor,
            self.children,
            self.groups.words,
            self._place_trouble,
            notifier,
            self.log,
        )
        self.stacks = StackCollector(
            shared.stacks, self.monitor, self.children, self.emit, self._label, self.log
        )
        self._signals = SignalTable(
            self._received,
            self.daemon,
            self.children,
            self.stacks,
            self.emit,
            self.scale,
            self.log,
        )

    # -- the loop ---------------------------------------------------------------

    def run(self, first: Sequence[ac.Action]) -> int:
        """Do what a start begins with, and go on until the core says that it is over.

        Return the exit status.
        """
        process.set_name()
        self._listen()
        self._perform(first)
        self.requests = self._open_requests()
        self._digest()
        self.web = WebManager(self.children, self.requests.lend, self.log)
        self.web.apply(self.settings, self._sockets)
        gc.freeze()  # what a start makes, stays
        gc.enable()
        while not self._over():
            ready = self.selector.select(self._timeout())
            if not ready:  # a wait that SIGCONT cut short, its time over, looks at nothing more
                ready = self.selector.select(0)  # what came in time is heard before what is due
            for key, events in ready:
                key.data(events)
            self._look_at_clock()
            self._digest()
            self._serve()
            if not ready and self._may_keep():
                self._keep()
        assert self._exit is not None
        return self._leave(self._exit)

    def _serve(self) -> None:
        """Answer clients, but let signals and workers have their turn in between."""
        for _ in range(MAX_ANSWERS_A_TURN):
            if not self.requests.has_work:
                return
            self.requests.serve()
            self._digest()

    def _over(self) -> bool:
        """Whether nothing is left: the keepers leave after the last worker."""
        if self._exit is None:
            return False
        if wait := self.groups.stop_waiting():
            self.reporter.tell(ac.Extend(wait + EXTEND_MARGIN_S))
        if not self.groups.closed:
            return False
        self.keepers.stop()
        return self.keepers.gone

    def _label(self, worker: int) -> str:
        found = self.daemon.find(worker)
        return f"{worker}" if found is None else found[1].label

    def emit(self, event: ev.Event) -> None:
        """Hand an event in; it is dealt with before the loop sleeps again."""
        self._events.append(event)

    def _listen(self) -> None:
        self.selector.register(self._received, selectors.EVENT_READ, self._signals.handle)
        self.selector.register(self._shared.bell, selectors.EVENT_READ, self._rung)

    def _open_requests(self) -> ControlRequests:
        """Open the control socket, and import it: the first zygotes are at their imports too."""
        from graced.supervisor.requests import ControlRequests

        requests = ControlRequests(
            self.runtime.socket,
            self.daemon,
            self.reporter,
            self.keepers,
            self.stacks,
            self.history,
            self.emit,
            self.scale,
            self.log,
        )
        requests.open(self.selector)
        return requests

    def _look_at_places(self) -> None:
        """See that clients can find the daemon, before one has to."""
        self.places.look(self.requests, self.keepers)

    def _place_trouble(self) -> str | None:
        return self.places.trouble or self.keepers.trouble()

    def _may_keep(self) -> bool:
        """Whether graced's code is to be kept now: the start is over, and all that hurries."""
        return self._keeping is not None and self.daemon.state is DaemonState.RUNNING

    def _keep(self) -> None:
        """Keep one module more."""
        if self._keeping is not None and next(self._keeping, self) is self:
            self._keeping = None

    def _timeout(self) -> float | None:
        """Return how long nothing is due; for ever, if nothing is."""
        if self._may_keep() or self.requests.has_work or self.children.more_to_reap:
            return 0.0
        deadlines = (
            self.daemon.next_deadline(),
            self.monitor.next_deadline(),
            self.requests.next_deadline(),
            self.reporter.next_deadline(),
            self.stacks.next_deadline(),
            self.keepers.next_deadline(),
            self.groups.next_deadline(),
            self.web.next_deadline(),
        )
        first = min((time for time in deadlines if time is not None), default=None)
        if first is None:
            return None
        return min(max(first - clock.monotonic(), 0.0), MAX_SLEEP_S)

    def _look_at_clock(self) -> None:
        if self.children.more_to_reap:
            self.children.reap()
        now = clock.monotonic()
        due = self.daemon.next_deadline()
        if due is not None and now >= due:
            self.emit(ev.Tick())
        for event in self.monitor.due(now):
            self.emit(event)
        self.stacks.tick(now)
        self.keepers.tick(now)
        self.groups.tick(now)
        self.web.tick(now)
        self.requests.tick(now)

    def _digest(self) -> None:
        """Let the core decide about all that came, then tell what has become of it."""
        while self._events:
            event = self._events.popleft()
            now = clock.monotonic()
            if isinstance(event, ev.InterruptAsked) and self._exit is not None:
                self.groups.give_up()  # every worker is gone: nothing else is left to be hurried
            if isinstance(event, CORE_EVENTS_LEASED):
                for news in (*self.monitor.leases(now), *self.keepers.leases(now)):
                    self._perform(self.daemon.handle(news, now))
            self._perform(self.daemon.handle(event, now))
        self._tend_sockets()
        self.keepers.retain(self.daemon.pools)
        self.instants.set(self.daemon.next_instant())
        self.reporter.refresh(self.selector, clock.monotonic())

    def _tend_sockets(self) -> None:
        """Let go of addresses as soon as no worker can serve them any more."""
        if self._sockets is None:
            return
        if self.daemon.stopping:
            self._sockets.stop_listening(self._silent_pools(), self.settings)
        if self._sockets.has_dropped and (self.daemon.stopping or not self.daemon.is_mixed):
            self._sockets.close_dropped()

    def _silent_pools(self) -> set[str]:
        """Return the pools that serve no client any more; a loop of the user's own may yet."""
        return {
            pool.name
            for pool in self.daemon.pools.values()
            if pool.state is PoolState.LEAVING and all(map(self.monitor.accepts, pool.members))
        }

    # -- what comes in ----------------------------------------------------------

    def _rung(self, events: int) -> None:
        # A signal to every process came to this one as well: it goes before the workers' answers.
        self._signals.handle(events)
        now = clock.monotonic()
        for worker in self.monitor.to_look_at(bell_rang(self._shared.bell)):
            self.children.met(worker)
            for event in self.monitor.rang(worker, now):
                self.emit(event)
                if isinstance(event, ev.BecameReady):
                    self._see_queue(worker)
            self.stacks.rang(worker)
            if self.monitor.takes_jobs(worker):
                self._see_queue(worker)

    def _see_queue(self, worker: int) -> None:
        found = self.daemon.find(worker)
        if found is None:
            return
        if self.monitor.takes_jobs(worker):
            self.keepers.need(found[1].settings, self.settings)
            if self.keepers.reached(
                found[0].name, worker, is_cut_off=self.monitor.is_cut_off(worker)
            ):
                self._look_at_places()
        else:
            self.keepers.not_needed(found[1].settings)

    def scale(self, pool: Pool, workers: int) -> str | None:
        """Have another number of workers; return why that can't be."""
        others = (p.target for p in self.daemon.pools.values() if p is not pool and not p.going)
        if workers + sum(others) > MAX_WORKERS:
            return f"all pools together can have at most {MAX_WORKERS} workers"
        self.history.record("scale", pool=pool.name, before=pool.target, workers=workers)
        self.emit(ev.ScaleAsked(pool.name, workers))
        return None

    # -- what goes out ------------------------------------------------------------

    def _perform(self, actions: Sequence[ac.Action]) -> None:
        for action in actions:
            self._do(action)

    def _do(self, action: ac.Action) -> None:  # noqa: C901 - one table of all actions
        match action:
            case ac.Say(level, text, pool, slot, generation):
                self._say(level, text, pool, slot, generation)
            case ac.StartZygote():
                self.children.start_zygote(action)
            case ac.KillZygote(zygote):
                self.children.kill_zygote(zygote)
            case ac.Spawn(zygote, orders):
                self._look_at_places()
                pool_settings = self.daemon.pools[orders[0].pool].zygotes[zygote].settings
                self.children.spawn(action, pool_settings)
            case ac.Drain(worker):
                self.children.signal(worker, signal.SIGTERM)
                if self.monitor.in_setup(worker):
                    self.emit(ev.SeenInSetup(worker))
            case ac.Interrupt(worker):
                self.children.signal(worker, signal.SIGINT)
            case ac.Kill(worker, force, stuck):
                self.children.kill(worker, force=force, stuck=stuck)
            case ac.PrintStack(worker):
                self.stacks.print_stuck(worker)
            case ac.LookAt(worker):
                if self.monitor.waits(worker):
                    self.emit(ev.SeenWaiting(worker))
            case ac.LookForJob(worker):
                if self.monitor.has_job(worker):
                    self.emit(ev.SeenAtJob(worker))
            case ac.WatchRounds(worker):
                for event in self.monitor.watch_rounds(worker):
                    self.emit(event)
            case ac.NoteEnd():
                self._note_end(action)
            case ac.CleanUp():
                self._clean_up(action)
            case ac.TellReady() | ac.TellReloading() | ac.TellStopping() | ac.Extend():
                self.reporter.tell(action)
                self._note_state(action)
            case ac.ReadConfig():
                self._look_at_places()
                self.requests.reload_begins()
                self._read_config()
            case ac.WatchSchedules(pool, wanted):
                self.keepers.watch(pool, self.daemon.settings, wanted)
            case ac.SubmitInstant(_, name):
                if name in self.daemon.settings.schedules:
                    self.keepers.submit(action, self.daemon.settings.schedules[name])
            case ac.Commit():
                self._adopt(self.daemon.settings)
            case ac.EndReload():
                if self._sockets is not None and not action.ok:
                    self._sockets.forget_new()
                    self._tend_sockets()
                self.reporter.reload_ended(action)
                self._note_reload(action)
                self.requests.reload_ended(action)
            case ac.Exit():
                self._exit = action

    def _note_end(self, end: ac.NoteEnd) -> None:
        words = self.children.last_words(end.worker)
        self.history.record(
            "killed" if end.cause == LADDER else "death",
            pool=end.pool,
            slot=end.slot,
            pid=end.pid,
            cause=end.cause,
            reason=end.reason,
            rounds=end.rounds,
            stack=words.get("stack") or None,
        )

    def _note_state(self, word: ac.Action) -> None:
        if isinstance(word, ac.TellStopping):
            self.history.record("stopping")
        elif isinstance(word, ac.TellReady) and not self._was_ready:
            self._was_ready = True
            self.history.record("start", pid=os.getpid(), version=program.version)

    def _note_reload(self, end: ac.EndReload) -> None:
        result = "ok" if end.ok else "incomplete" if end.incomplete else "refused"
        generation = self.daemon.generation
        self.history.record("reload", result=result, reason=end.reason, generation=generation)

    def _clean_up(self, action: ac.CleanUp) -> None:
        worker, pool, slot = action.worker, action.pool, action.slot
        self.stacks.forget(worker)
        evidence = self.children.evidence_of(worker, action.reason)
        if action.interrupted:
            evidence["interrupted"] = True
        if evidence.get("stack") and evidence.get("signal") not in (None, "SIGKILL"):
            self._say("error", f"its stack:\n{evidence['stack']}", pool, slot, None)
        groups = self.children.groups_of(worker)
        self.groups.when_empty(
            f"{pool}/{slot}",
            groups,
            groups[0] if groups and self.children.lost(groups[0]) else None,
            lambda: self.keepers.worker_gone(pool, worker, evidence, counts=action.counts),
        )

    def _say(
        self, level: str, text: str, pool: str | None, slot: int | None, generation: int | None
    ) -> None:
        fields = {"pool": pool, "slot": slot, "generation": generation}
        self.log.write(level, text, {k: v for k, v in fields.items() if v is not None})

    def _read_config(self) -> None:
        """Read it again; what goes wrong is the reload's end and not the daemon's."""
        try:
            self._take_config(self._read_again())
        except Exception as error:  # whatever a file may bring about in there
            self.log.exception("the configuration could not be read")
            self.emit(ev.ConfigRefused(f"a bug in graced: {type(error).__name__}: {error}"))

    def _take_config(self, reading: ConfigReading) -> None:
        if reading.settings is None:
            for problem in reading.problems:
                self.log.error(str(problem))
            first = str(reading.problems[0])
            more = len(reading.problems) - 1
            self.emit(ev.ConfigRefused(f"{first} (and {more} more)" if more else first))
        elif (trouble := self._trouble(reading.settings)) is not None:
            self.emit(ev.ConfigRefused(trouble))
        else:
            self._proposed = reading.settings
            self.emit(ev.ConfigAccepted(reading.settings))

    def _trouble(self, settings: Settings) -> str | None:
        """Open what is new, while the old goes on; return what can't be had."""
        _, hard = self._shared.fd_limit or (0, -1)
        lack = lack_of_files(self.settings, settings, hard)
        return lack or self._log_trouble(settings) or self._socket_trouble(settings)

    def _socket_trouble(self, settings: Settings) -> str | None:
        if self._sockets is None and not has_addresses(settings):
            return None
        from graced.host.listeners import ListenError
        from graced.supervisor.sockets import Sockets

        if self._sockets is None:
            self._sockets = Sockets({}, self._notifier, self.log)
        try:
            self._sockets.open(settings)
        except ListenError as error:
            return str(error)
        return None

    def _log_trouble(self, settings: Settings) -> str | None:
        """Open a new log file before a zygote does."""
        file = settings.log.file
        if file is None or settings.log == self.settings.log:
            return None
        try:
            if os.geteuid() == 0:
                safepaths.demand_folder(file)
            FileSink(file).close()
        except (OSError, safepaths.UnsafeFolderError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            remedy = "name a file that can be written, or restart as root if only root can open it"
            return f"log.file: {file}: {why}; {remedy}"
        return None

    def _adopt(self, settings: Settings) -> None:
        """Go on with the settings of a new generation."""
        if settings.log != self.settings.log:
            try:
                self.log.become(open_log(settings.log, os.environ))
            except OSError as error:
                self.log.error(f"{settings.log.file}: {error.strerror}; the old log goes on")
            else:
                self.keepers.log_to(settings.log)
        self.settings = settings
        self.keepers.apply(settings)
        if self._sockets is not None:
            self._sockets.keep_only(settings)
        self.web.apply(settings, self._sockets)

    def _plan(self, action: ac.StartZygote) -> ZygotePlan:
        listen = () if self._sockets is None else self._sockets.of(action.pool)
        alone = () if self._sockets is None else self._sockets.alone()
        new = self._proposed if action.generation > self.daemon.generation else self.settings
        log = self.log if new.log == self.settings.log else new.log
        self.monitor.allow_leases(new.max_lease)
        plan = self._shared.plan(action.pool, action.generation, log, listen, new.max_lease)
        return plan.replace(alone=alone)

    # -- the end ------------------------------------------------------------------

    def _leave(self, end: ac.Exit) -> int:
        """Nothing is left to supervise: say so and tidy up."""
        if end.reason is None:
            self.log.info("stopped")
        else:
            self.log.error(f"stopped: {end.reason}")
        self.history.record("stop", code=end.code, reason=end.reason)
        self.history.close()
        self.web.close()
        self.log.settle()
        if self._sockets is not None:
            self._sockets.close()
        self.reporter.leave(end)
        self.requests.close(end)
        return end.code


def _keep_code(log: Log) -> Iterator[None]:
    """Bring what zygotes will need into memory, bit by bit, while there is nothing else to do."""
    from graced.host.codecache import keep_all

    try:
        import graced.log.stdlib  # noqa: F401  # a tenth of a reload, if each zygote does
    except ImportError:  # the library is out of reach, as for another user: told by the zygote
        pass
    yield
    yield from keep_all()
    log.debug("graced's code is in memory: its files may be replaced")
