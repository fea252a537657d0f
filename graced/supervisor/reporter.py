"""What systemd is told: ready, reloading, stopping, status, watchdog; and the last words."""

from __future__ import annotations

import selectors
import time

from graced import clock
from graced.core.actions import EndReload, Exit, Extend, TellReady, TellReloading, TellStopping
from graced.core.states import DaemonState
from graced.core.status import Health, LastReload, examine, line, picture
from graced.host import process
from graced.supervisor.round_counts import RoundCounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from graced.core.daemon import Daemon
    from graced.host.notify import Notifier
    from graced.log.logger import Log
    from graced.supervisor.children import Children
    from graced.supervisor.monitor import ScoreboardMonitor

DRAIN_STATUS_EVERY_S = 1.0  # seconds between two looks at a drain, which people watch
LAST_NOTICES_TIMEOUT_S = 0.2  # seconds that the last notices may take


class StatusReporter:
    """The daemon as systemd and ``graced status`` see it."""

    def __init__(
        self,
        daemon: Daemon,
        monitor: ScoreboardMonitor,
        children: Children,
        waiting: Callable[[], str | None],
        trouble: Callable[[], str | None],
        notifier: Notifier,
        log: Log,
    ) -> None:
        self._daemon = daemon
        self._monitor = monitor
        self._waiting = waiting
        self._trouble = trouble
        self._children = children
        self._notifier = notifier
        self._log = log
        self._line = ""
        self._registered = False
        self._next_line: float | None = None
        self.last_reload: LastReload | None = None
        interval = notifier.watchdog_interval
        self._beat = None if interval is None else interval / 2
        self._next_beat = None if self._beat is None else clock.monotonic()

    def next_deadline(self) -> float | None:
        """When there is something to say again, or None."""
        times = [t for t in (self._next_line, self._next_beat) if t is not None]
        return min(times, default=None)

    def picture(self, now: float) -> dict[str, Any]:
        """Return the status as JSON data."""
        found = picture(
            self._daemon,
            self._monitor.readings(now),
            lambda member: self._rss(member.id, member.pid) if member.pid else None,
            self.last_reload,
            now,
        )
        schedules = self._daemon.schedules
        return {**found, "schedules": {} if schedules is None else schedules.picture(time.time())}

    def counts(self, now: float) -> dict[str, Any]:
        """Return all that is counted, as JSON data; it only grows while the daemon lives."""
        counters = self._daemon.context.counters
        rounds = self._monitor.round_counts(now)
        return {
            "reloads": counters.reloads,
            "pools": {
                name: {**pool.picture(), **rounds.get(name, RoundCounts()).picture()}
                for name, pool in counters.pools.items()
            },
        }

    def _rss(self, worker: int, pid: int) -> int | None:
        """Return the memory of a worker and of the subprocess that goes with it."""
        own, child = process.rss(pid), self._monitor.child_group(worker)
        if own is None or not child or not process.is_below(child, pid):
            return own
        return own + process.family_rss(child)

    def words(self) -> str:
        """Return what STATUS= says."""
        return self._compose(clock.monotonic())

    # -- to systemd ---------------------------------------------------------------

    def tell(self, word: TellReady | TellReloading | TellStopping | Extend) -> None:
        """Say one of the words that must not be lost."""
        match word:
            case TellReady(end):
                self._tell_ready(end)
            case TellReloading():
                self._notifier.reloading(self.words())
            case TellStopping():
                self._notifier.stopping(self.words())
            case Extend(seconds):
                self._notifier.extend(seconds)

    def _tell_ready(self, end: EndReload | None) -> None:
        """Say how it went, though the next reload may have begun by now."""
        if end is not None:
            self.reload_ended(end)
        self._notifier.ready(self._compose(clock.monotonic(), DaemonState.RUNNING))

    def reload_ended(self, end: EndReload) -> None:
        """Keep what ``graced status`` says of the last reload."""
        self.last_reload = LastReload(clock.iso(), end.ok, end.reason, end.incomplete)

    def refresh(self, selector: selectors.BaseSelector, now: float) -> None:
        """Bring STATUS= up to date, feed the watchdog, send what waits."""
        self._next_line = now + DRAIN_STATUS_EVERY_S if self._daemon.stopping else None
        text = self._compose(now)
        if text != self._line:
            self._line = text
            self._notifier.status(text)
        if self._beat is not None and self._next_beat is not None and now >= self._next_beat:
            self._next_beat = now + self._beat
            self._feed_watchdog(now)
        self._flush(selector)

    def leave(self, end: Exit) -> None:
        """Say the last words; bounded, since systemd may not listen."""
        if end.code:
            self._notifier.failed(end.code)
        self._notifier.final(LAST_NOTICES_TIMEOUT_S)

    def _compose(self, now: float, state: DaemonState | None = None) -> str:
        readings = self._monitor.readings(now) if self._daemon.state is DaemonState.DRAINING else {}
        text = line(self._daemon, readings, self.last_reload, now, state)
        trouble = self._waiting() or (None if self._daemon.stopping else self._trouble())
        return text if trouble is None else f"{text}; {trouble}"

    def _flush(self, selector: selectors.BaseSelector) -> None:
        self._notifier.flush()
        waiting = self._notifier.wants_write
        if waiting and not self._registered:
            selector.register(
                self._notifier, selectors.EVENT_WRITE, lambda _: self._notifier.flush()
            )
        elif self._registered and not waiting:
            selector.unregister(self._notifier)
        self._registered = waiting

    # -- the watchdog ---------------------------------------------------------------

    def _feed_watchdog(self, now: float) -> None:
        health = self.health(now)
        if health.ok:
            self._notifier.watchdog()
        else:
            self._log.warning(f"the watchdog is not fed: {health.words()}")

    def health(self, now: float) -> Health:
        """Look at the workers as they are at this moment."""
        return examine(
            self._daemon.members(),
            self._daemon.settings.watchdog_quorum,
            lambda member: process.is_stopped(member.pid or 0),
            lambda member: self._monitor.overdue(member.id, now),
        )
