"""Who asks over the control socket, and who waits for an answer.

Most questions are answered at once; ``stop`` and ``reload`` when it is over.
"""

from __future__ import annotations

import os
from functools import partial

from graced.core import events as ev
from graced.host import clock
from graced.host.control import ControlServer, Request
from graced.host.runtimedir import Unusable
from graced.stackroom import own_stack

TYPE_CHECKING = False
if TYPE_CHECKING:
    import selectors
    from typing import Any

    from graced.core.actions import EndReload, Exit
    from graced.host.control import Client
    from graced.supervisor import Supervisor

    Answer = dict[str, Any]

FAREWELL = 0.5  # seconds that the last answers may take


class Desk:
    """The control socket's requests, and those that are not answered yet."""

    def __init__(self, supervisor: Supervisor, path: str, owner: tuple[int, int] | None) -> None:
        self._supervisor = supervisor
        # Root stays its owner: under systemd it may lack the right to pass over modes.
        ours = None if owner is None else (os.geteuid(), owner[1])
        try:
            self._server = ControlServer(path, ours)
        except OSError as error:
            what = f"{path}: cannot listen there: {error.strerror}"
            raise Unusable(f"{what}; remove what is there, or set another runtime_dir") from error
        self._stops: list[Client] = []
        self._next_reload: list[Client] = []  # answered by the reload that is still to begin
        self._this_reload: list[Client] = []

    def open(self, selector: selectors.BaseSelector) -> None:
        """Listen."""
        self._server.register(selector)

    def next_deadline(self) -> float | None:
        """When a silent client is dropped, or None."""
        return self._server.next_deadline()

    def tick(self, now: float) -> None:
        """Drop clients that are silent for too long."""
        self._server.expire(now)

    def serve(self) -> None:
        """Answer what can be answered of what was asked."""
        for request in self._server.take():
            self._asked(request)

    def close(self, end: Exit) -> None:
        """Answer those who waited for the end, and stop listening."""
        for client in self._stops:
            self._server.reply(client, {"ok": end.code == 0, "code": end.code, "error": end.reason})
        self._server.close(FAREWELL)

    # -- reloads ------------------------------------------------------------------

    def reload_asked(self, client: Client | None) -> None:
        """Have the core reload; a client is answered when that reload is over."""
        if client is not None:
            self._next_reload.append(client)
        self._supervisor.emit(ev.ReloadAsked())

    def reload_begins(self) -> None:
        """Whoever asked until now is answered by this reload."""
        self._this_reload += self._next_reload
        self._next_reload = []

    def reload_ended(self, end: EndReload) -> None:
        """Answer those who waited for this reload; at a stop, all of them."""
        waiting, self._this_reload = self._this_reload, []
        if self._supervisor.daemon.stopping:
            waiting, self._next_reload = waiting + self._next_reload, []
        why = f"reload incomplete: {end.reason}" if end.incomplete else end.reason
        generation = self._supervisor.daemon.generation
        for client in waiting:
            self._server.reply(client, {"ok": end.ok, "error": why, "generation": generation})

    # -- requests -------------------------------------------------------------------

    def _asked(self, request: Request) -> None:
        match request.command:
            case "status":
                self._supervisor.queues.count(partial(self._status, request.client))
            case "health":
                self._server.reply(request.client, self._health())
            case "stop":
                self._stop(request)
            case "reload":
                self.reload_asked(request.client)
            case "scale":
                self._server.reply(request.client, self._scale(request.arguments))
            case "stacks":
                self._stacks(request.client)
            case _:
                problem = f"no command {request.command!r}; is this graced of another version?"
                self._server.reply(request.client, {"ok": False, "error": problem})

    def _status(self, client: Client) -> None:
        from graced import __version__

        supervisor = self._supervisor
        who = {"name": supervisor.settings.name, "version": __version__, "pid": os.getpid()}
        status = {**who, **supervisor.report.picture(clock.monotonic())}
        for name, pool in status["pools"].items():
            pool["queue"] = supervisor.queues.counts(name)
        self._server.reply(client, {"ok": True, "status": status})

    def _health(self) -> Answer:
        report = self._supervisor.report
        health = report.health(clock.monotonic())
        ready = self._supervisor.daemon.ready
        words = {"health": health.words(), "status": report.words()}
        return {"ok": True, "healthy": health.ok, "ready": ready, **words}

    def _stop(self, request: Request) -> None:
        self._stops.append(request.client)
        now = bool(request.arguments.get("now"))
        self._supervisor.log.info(f"asked to stop{' now' if now else ''}")
        daemon = self._supervisor.daemon
        if not now:
            self._supervisor.emit(ev.DrainAsked())
        elif not daemon.interrupting:
            self._supervisor.emit(ev.InterruptAsked())

    def _scale(self, arguments: dict[str, Any]) -> Answer:
        name, workers = arguments.get("pool"), arguments.get("workers")
        daemon = self._supervisor.daemon
        pool = daemon.pools.get(name) if isinstance(name, str) else None
        if daemon.stopping:
            return {"ok": False, "error": "the daemon is stopping"}
        if pool is None or pool.going:
            known = ", ".join(sorted(name for name, p in daemon.pools.items() if not p.going))
            return {"ok": False, "error": f"no pool {name!r}; there are: {known}"}
        if not isinstance(workers, int) or workers < 0:
            return {"ok": False, "error": "workers must be a whole number"}
        before = pool.target
        trouble = self._supervisor.scale(pool, workers)
        if trouble is not None:
            return {"ok": False, "error": trouble}
        return {"ok": True, "pool": pool.name, "from": before, "to": workers}

    def _stacks(self, client: Client) -> None:
        supervisor = self._supervisor
        stacks: list[Answer] = []
        waiting = dict(supervisor.processes.living())

        def answer() -> None:
            self._server.reply(client, {"ok": True, "stacks": stacks})

        def take(worker: int, entry: Answer, text: str) -> None:
            stacks.append({**entry, "stack": text})
            del waiting[worker]
            if not waiting:
                answer()

        stacks.append({"process": "main", "pid": os.getpid(), "stack": own_stack()})
        for worker, pid in list(waiting.items()):
            entry = {"process": "worker", "pid": pid, **supervisor.whereabouts(worker)}
            supervisor.stackroom.ask(worker, partial(take, worker, entry))
        if not waiting:
            answer()
