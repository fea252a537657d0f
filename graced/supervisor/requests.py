"""The requests that come over the control socket, and the clients that wait for an answer.

Most questions are answered at once; ``stop`` and ``reload`` when it is over. The supervisor
has one answered at a time, each only when the core has dealt with all that is known: in
between, a worker may be gone that the core still counts. Nothing that is asked ends the daemon.
"""

from __future__ import annotations

import os
from collections import deque
from functools import partial

from graced import __version__, clock, program
from graced.control.server import ControlServer, Request
from graced.core import events as ev
from graced.host.directories import DirectoryError
from graced.monitoring.history import START, chunk
from graced.supervisor.stacks import own_stack

TYPE_CHECKING = False
if TYPE_CHECKING:
    import selectors
    import socket
    from collections.abc import Callable
    from typing import Any

    from graced.control.server import Client
    from graced.core.actions import EndReload, Exit
    from graced.core.daemon import Daemon
    from graced.core.pool import Pool
    from graced.log.logger import Log
    from graced.monitoring.history import History
    from graced.supervisor.keepers import KeeperManager
    from graced.supervisor.reporter import StatusReporter
    from graced.supervisor.stacks import StackCollector

    Answer = dict[str, Any]

LAST_ANSWERS_TIMEOUT_S = 0.5  # seconds that the last answers may take


class ControlRequests:
    """The control socket's requests, and those that are not answered yet."""

    def __init__(
        self,
        path: str,
        daemon: Daemon,
        reporter: StatusReporter,
        keepers: KeeperManager,
        stacks: StackCollector,
        history: History,
        emit: Callable[[ev.Event], None],
        scale: Callable[[Pool, int], str | None],
        log: Log,
    ) -> None:
        self._daemon = daemon
        self._reporter = reporter
        self._keepers = keepers
        self._stacks = stacks
        self._history = history
        self._emit = emit
        self._scale_pool = scale
        self._log = log
        try:
            self._server = ControlServer(path)
        except OSError as error:
            what = f"{path}: cannot listen there: {error.strerror}"
            raise DirectoryError(
                f"{what}; remove what is there, or set another runtime_dir"
            ) from error
        self._answers: deque[tuple[Client, Callable[[], Answer]]] = deque()  # that can be given
        self._stops: list[Client] = []
        self._next_reload: list[Client] = []  # answered by the reload that is still to begin
        self._this_reload: list[Client] = []

    def open(self, selector: selectors.BaseSelector) -> None:
        """Listen."""
        self._server.register(selector)

    def lend(self, may: frozenset[str]) -> socket.socket:
        """Return a connection for a child, on which it may ask these alone. OSError."""
        return self._server.lend(may)

    def listen_again(self) -> bool:
        """Listen anew if the socket was removed; False if it is there. Raises OSError."""
        return self._server.listen_again()

    @property
    def has_work(self) -> bool:
        """Whether :meth:`serve` has something to do."""
        return bool(self._server.requests or self._answers)

    def next_deadline(self) -> float | None:
        """When a silent client is dropped, or None."""
        return self._server.next_deadline()

    def tick(self, now: float) -> None:
        """Drop clients that are silent for too long."""
        self._server.expire(now)

    def serve(self) -> None:
        """Answer one question, or give one answer that had to wait: call it after a digest."""
        if self._answers:
            client, compose = self._answers.popleft()
            self._guarded(client, "an answer", lambda: self._server.reply(client, compose()))
        elif (request := self._server.take()) is not None:
            self._guarded(request.client, repr(request.command), lambda: self._asked(request))

    def _guarded(self, client: Client, what: str, answer: Callable[[], None]) -> None:
        """Whatever goes wrong is an error for the client and a traceback in the log, no more."""
        try:
            answer()
        except Exception as error:  # noqa: BLE001  # nothing that a client asks may end the daemon
            said = f"{type(error).__name__}: {error}"
            self._log.exception(f"{what} from pid {client.pid} could not be answered")
            problem = f"a bug in graced: {said}; the daemon goes on, its log has the traceback"
            if client.request is not None:
                self._server.reply(client, {"ok": False, "error": problem})

    def close(self, end: Exit) -> None:
        """Answer the clients that waited for the end, and stop listening."""
        for client in self._stops:
            self._server.reply(client, {"ok": end.code == 0, "code": end.code, "error": end.reason})
        self._server.close(LAST_ANSWERS_TIMEOUT_S)

    # -- reloads ------------------------------------------------------------------

    def reload_begins(self) -> None:
        """Let this reload answer the clients that asked until now."""
        self._this_reload += self._next_reload
        self._next_reload = []

    def reload_ended(self, end: EndReload) -> None:
        """Answer the clients that waited for this reload; at a stop, all of them."""
        waiting, self._this_reload = self._this_reload, []
        if self._daemon.stopping:
            waiting, self._next_reload = waiting + self._next_reload, []
        generation = self._daemon.generation
        why = end.reason
        if end.incomplete:
            why = f"reload incomplete: {why}"
        elif not (end.ok or self._daemon.stopping):
            why = f"reload refused, generation {generation} goes on: {why}"
        for client in waiting:
            self._server.reply(client, {"ok": end.ok, "error": why, "generation": generation})

    # -- requests -------------------------------------------------------------------

    def _asked(self, request: Request) -> None:
        match request.command:
            case "status":
                answer = (request.client, self._status)
                self._keepers.count(partial(self._answers.append, answer))
            case "metrics":
                metrics = (request.client, self._metrics)
                self._keepers.count(partial(self._answers.append, metrics))
            case "jobs":
                jobs = (request.client, self._jobs)
                self._keepers.look(partial(self._answers.append, jobs))
            case "history":
                self._server.reply(request.client, self._events(request.arguments))
            case "health":
                self._server.reply(request.client, self._health())
            case "stop":
                self._stop(request)
            case "reload":
                self._next_reload.append(request.client)
                self._emit(ev.ReloadAsked())
            case "scale":
                self._server.reply(request.client, self._scale(request.arguments))
            case "stacks":
                self._collect_stacks(request.client)
            case _:
                problem = f"no command {request.command!r}; is {program.name} of another version?"
                self._server.reply(request.client, {"ok": False, "error": problem})

    def _status(self) -> Answer:
        process = {
            "name": self._daemon.settings.name,
            "program": program.name,
            "version": program.version,
            "graced": __version__,
            "pid": os.getpid(),
        }
        status = {**process, **self._reporter.picture(clock.monotonic())}
        for name, pool in status["pools"].items():
            pool["queue"] = self._keepers.counts(name)
        return {"ok": True, "status": status}

    def _metrics(self) -> Answer:
        counts = self._reporter.counts(clock.monotonic())
        return {**self._status(), "counts": {**counts, "queues": self._keepers.tallies()}}

    def _jobs(self) -> Answer:
        return {"ok": True, "pools": self._keepers.jobs()}

    def _events(self, arguments: dict[str, Any]) -> Answer:
        """Answer with some of the history, from a place on: `lines`, and where to read on."""
        match arguments.get("place"):
            case [int(number), int(offset)]:
                place = (number, max(offset, 0))
            case _:
                place = START
        try:
            data, then = chunk(self._history.folder, place)
        except FileNotFoundError:  # no folder, no history
            data, then = b"", None
        except OSError as error:
            return {"ok": False, "error": f"{self._history.folder}: {error.strerror}"}
        return {"ok": True, "lines": data.decode("ascii", "replace"), "place": then}

    def _health(self) -> Answer:
        health = self._reporter.health(clock.monotonic())
        ready = self._daemon.ready
        wrong = self._keepers.stopped() + self._keepers.refusals()
        words = {"health": "; ".join([health.words(), *wrong]), "status": self._reporter.words()}
        return {"ok": True, "healthy": health.ok and not wrong, "ready": ready, **words}

    def _stop(self, request: Request) -> None:
        self._stops.append(request.client)
        now = bool(request.arguments.get("now"))
        self._log.info(f"asked to stop{' now' if now else ''}")
        if not now:
            self._emit(ev.DrainAsked())
        elif not self._daemon.interrupting:
            self._emit(ev.InterruptAsked())

    def _scale(self, arguments: dict[str, Any]) -> Answer:
        name, workers = arguments.get("pool"), arguments.get("workers")
        daemon = self._daemon
        pool = daemon.pools.get(name) if isinstance(name, str) else None
        if daemon.stopping:
            return {"ok": False, "error": "the daemon is stopping"}
        if pool is None or pool.going:
            known = ", ".join(sorted(name for name, p in daemon.pools.items() if not p.going))
            return {"ok": False, "error": f"no pool {name!r}; there are: {known}"}
        if not isinstance(workers, int) or isinstance(workers, bool) or workers < 0:
            return {"ok": False, "error": "workers must be a whole number"}
        before = pool.target
        trouble = self._scale_pool(pool, workers)
        if trouble is not None:
            return {"ok": False, "error": trouble}
        return {"ok": True, "pool": pool.name, "from": before, "to": workers}

    def _collect_stacks(self, client: Client) -> None:
        stacks: list[Answer] = [{"process": "main", "pid": os.getpid(), "stack": own_stack()}]
        living = self._stacks.living()
        missing = set(living)

        def take(worker: int, entry: Answer, text: str) -> None:
            stacks.append({**entry, "stack": text})
            missing.discard(worker)
            if not missing:
                answer()

        def answer() -> None:
            self._answers.append((client, lambda: {"ok": True, "stacks": stacks}))

        for worker, pid in living.items():
            entry = {"process": "worker", "pid": pid, **self._place_of(worker)}
            self._stacks.ask(worker, partial(take, worker, entry))
        if not living:
            answer()

    def _place_of(self, worker: int) -> Answer:
        found = self._daemon.find(worker)
        if found is None:
            return {}
        pool, member = found
        return {"pool": pool.name, "slot": member.slot, "generation": member.generation}
