"""The process `graced-web` over all its lives: started where it is wanted, kept alive."""

from __future__ import annotations

import signal

from graced import clock
from graced.host import process
from graced.supervisor.children import Children, HelperProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from graced.host.stackdump import Window
    from graced.log.logger import Log
    from graced.settings import Settings
    from graced.supervisor.sockets import Sockets

FIRST_RESTART_S = 0.1  # seconds until one that died is started again; doubled each time
MAX_RESTART_S = 30.0  # seconds of that wait at most
LASTED_S = 60.0  # seconds of a life after which the wait begins anew
MAY = frozenset(("metrics", "health", "history", "jobs"))


class WebManager:
    """What serves the page, if anything does. `lend` gives it a connection to ask on."""

    def __init__(
        self, children: Children, lend: Callable[[frozenset[str]], socket.socket], log: Log
    ) -> None:
        self._children = children
        self._lend = lend
        self._log = log
        self._name = ""
        self._listen: tuple[str, ...] = ()
        self._fds: tuple[int, ...] = ()
        self._pid: int | None = None
        self._started = 0.0
        self._failures = 0
        self._again_at: float | None = None
        self._window: Window | None = None

    def apply(self, settings: Settings, sockets: Sockets | None) -> None:
        """Serve where these settings say, from now on."""
        listen = settings.web.listen
        fds = () if sockets is None else sockets.at(listen)
        if (listen, fds) == (self._listen, self._fds):
            return
        self._name, self._listen, self._fds = settings.name, listen, fds
        self._again_at = None
        if self._pid is not None:  # the next is started when it is reaped
            helper = self._children.others[self._pid]
            self._children.others[self._pid] = helper.replace(gone=self._replaced)
            process.signal_process(self._pid, signal.SIGKILL)
        elif fds:
            self._start()

    def next_deadline(self) -> float | None:
        """When it is to be started again, or None."""
        return self._again_at

    def tick(self, now: float) -> None:
        """Start it again, if that is due."""
        if self._again_at is not None and now >= self._again_at:
            self._start()

    def close(self) -> None:
        """End it: the daemon is over."""
        self._fds, self._again_at = (), None
        if self._pid is not None:
            process.end_child(self._pid)
            self._children.others.pop(self._pid, None)
            self._pid = None

    def _start(self) -> None:
        from graced.monitoring.web_process import WebPlan, fork

        self._again_at = None
        try:
            if self._window is None:
                self._window = self._children.lend_window()
            self._window.clear()
            plan = WebPlan(self._name, self._fds, _is_local(self._listen), self._log)
            with self._lend(MAY) as answers:
                pid = fork(plan, answers)
        except OSError as error:
            self._log.error(f"web: cannot start it: {error.strerror}")
            self._start_later()
            return
        self._pid, self._started = pid, clock.monotonic()
        self._log.info(f"web: {', '.join(self._listen)} is served (pid {pid})")
        self._children.others[pid] = HelperProcess("web process", self._window, self._died)

    def _died(self, how: str) -> None:
        self._pid = None
        if not self._fds:
            return
        if clock.monotonic() - self._started >= LASTED_S:
            self._failures = 0
        wait = self._start_later()
        self._log.warning(f"web: its process {how}; starting again in {wait:g} s")

    def _replaced(self, _how: str) -> None:
        self._pid, self._failures = None, 0
        if self._fds:
            self._again_at = clock.monotonic()

    def _start_later(self) -> float:
        wait: float = min(FIRST_RESTART_S * 2 ** min(self._failures, 16), MAX_RESTART_S)
        self._failures += 1
        self._again_at = clock.monotonic() + wait
        return wait


def _is_local(listen: tuple[str, ...]) -> bool:
    """Whether only this host's processes reach what listens there."""
    from graced.host.address import parse

    addresses = [parse(text) for text in listen]
    return all(
        address.kind == "tcp" and (address.host == "::1" or address.host.startswith("127."))
        for address in addresses
    )
