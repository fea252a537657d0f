"""A reload as a transaction: read, prove in every pool, then replace; or refuse.

The rules:

1.  Nothing of the old generation is touched before every pool of the new one has a ready worker,
    its canary (with ``surge: 0`` only the canary's slot is).
2.  No canary is started before the code of every pool is loaded, nor before the pools that its
    own comes after are proven.
3.  One failure in any pool refuses the reload in all of them: the old generation goes on.
4.  Once every pool is proven the new generation is in force. What fails from then on is told as
    incomplete; there is no way back.
5.  However many reloads are asked for while one is under way, exactly one follows it.
6.  Before the daemon was ready a reload begins only if a pool is in back-off, and systemd is not
    told of it.

The phases are in :class:`.states.ReloadPhase`, a pool's part in :class:`.states.CandidateState`.
"""

from __future__ import annotations

from graced.core.actions import Commit, EndReload, ReadConfig, TellReady, TellReloading
from graced.core.counters import count
from graced.core.pool import Pool
from graced.core.states import CandidateState, DaemonState, PoolState, ReloadPhase

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.core.fleet import Fleet
    from graced.settings import Settings

FIXED = ("name", "runtime_dir", "state_dir", "user", "group")


class Reload:
    """The reload that is under way."""

    __slots__ = ("added", "phase", "proposed", "quiet", "settings")

    def __init__(self, *, quiet: bool) -> None:
        self.phase = ReloadPhase.READING
        self.settings: Settings | None = None
        self.added: set[str] = set()  # pools that did not exist before
        self.proposed: set[str] = set()  # pools that have begun to prove themselves
        self.quiet = quiet  # before the first READY=1 systemd knows of no reload


class Reloads:
    """The reload under way, and the one that follows it, however many were asked for."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.current: Reload | None = None
        self.queued = False

    @property
    def added(self) -> set[str]:
        """The pools that are proven, but not in force yet."""
        is_proving = self.current is not None and self.current.phase is ReloadPhase.PROVING
        return self.current.added if self.current is not None and is_proving else set()

    @property
    def _committed(self) -> bool:
        """Whether the new generation of the one under way is in force."""
        return self.current is not None and self.current.phase is ReloadPhase.REPLACING

    # -- events ---------------------------------------------------------------

    def ask(self, now: float) -> None:
        """Reload: now, or exactly once after the one under way."""
        if self._fleet.stopping:
            self._tell(EndReload(False, "the daemon is stopping"))
        else:
            self.queued = True

    def accepted(self, settings: Settings, now: float) -> None:
        """The configuration is right in itself."""
        reload = self.current
        if reload is None or reload.phase is not ReloadPhase.READING:
            return
        fixed = self._fixed(settings)
        if fixed is not None:
            self.refused(fixed, now)
            return
        reload.phase = ReloadPhase.PROVING
        reload.settings = settings

    def refused(self, reason: str, now: float) -> None:
        """The new generation is no good: throw it away, the old one goes on."""
        if self.current is None or self._committed:
            return
        for name, pool in self._fleet.pools.items():
            if name in self.current.added:
                pool.stop(now)
            else:
                pool.abandon(now)
        goes_on = f"generation {self._fleet.generation} goes on"
        self._fleet.say("error", f"reload refused: {reason}; {goes_on}")
        self._end(False, reason)

    def stop(self, now: float) -> None:
        """The daemon stops: whatever is under way is over."""
        if self.current is not None or self.queued:
            incomplete, self.current = self._committed, None
            self._tell(EndReload(False, "the daemon is stopping", incomplete))
        self.queued = False

    # -- what follows from the state --------------------------------------------

    def begin(self) -> None:
        """Begin what was asked for, if nothing else is under way."""
        if self.current is None and self.queued and self._may_begin():
            self._begin()

    def prove(self, now: float) -> None:
        """Take the proof as far as it can go at this moment."""
        if self.current is not None and self.current.phase is ReloadPhase.PROVING:
            self._propose(self.current, now)
            self._prove(self.current, now)

    def finish(self) -> None:
        """See whether the replacement is over."""
        if not self._committed:
            return
        pools = [p for p in self._fleet.pools.values() if p.state is not PoolState.LEAVING]
        failing = [p for p in pools if p.trouble is not None]
        if failing:
            reason = f"pool {failing[0].name} {failing[0].trouble}, after the change"
            self._fleet.say("error", f"reload incomplete: {reason}")
            self._end(False, reason)
        elif all(pool.renewed for pool in pools):
            self._fleet.say("info", f"reloaded: generation {self._fleet.generation}")
            self._end(True, None)

    # -- steps ----------------------------------------------------------------

    def _may_begin(self) -> bool:
        if self._fleet.state is DaemonState.STARTING:
            return any(pool.restarts.backoff.active for pool in self._fleet.pools.values())
        return self._fleet.state is DaemonState.RUNNING

    def _begin(self) -> None:
        fleet = self._fleet
        self.queued = False
        self.current = Reload(quiet=fleet.state is DaemonState.STARTING)
        if not self.current.quiet:
            fleet.state = DaemonState.RELOADING
            fleet.out.append(TellReloading())
        fleet.say("info", "reloading")
        fleet.out.append(ReadConfig())

    def _propose(self, reload: Reload, now: float) -> None:
        """Let each pool load its code; one that an earlier reload removed has to be gone first."""
        assert reload.settings is not None
        fleet = self._fleet
        for name, settings in reload.settings.pools.items():
            pool = fleet.pools.get(name)
            if name in reload.proposed or (pool is not None and pool.state is PoolState.LEAVING):
                continue
            if pool is None:
                reload.added.add(name)
                pool = fleet.pools[name] = Pool(settings, fleet.generation + 1, fleet.context)
                until, length = fleet.leases.get(name, (now, 0.0))
                if until > now:
                    pool.fence.held(until, length, settings.stop_timeout)
            reload.proposed.add(name)
            pool.propose(settings, fleet.generation + 1, now)

    def _prove(self, reload: Reload, now: float) -> None:
        assert reload.settings is not None
        proving = {name: self._fleet.pools[name] for name in reload.settings.pools}
        if not any(self._importing(pool) for pool in proving.values()):
            self._try_canaries(proving, now)
        for name in reload.proposed:
            failure = self._failure(proving[name])
            if failure is not None:
                self.refused(f"pool {name}: {failure}", now)
                return
        if all(self._proven(name) for name in proving):
            self._commit(reload.settings, now)

    def _importing(self, pool: Pool) -> bool:
        return pool.candidate is None or pool.candidate.state is CandidateState.IMPORTING

    def _try_canaries(self, proving: dict[str, Pool], now: float) -> None:
        """Only once all code is loaded is a worker of it started, or one of the old ended."""
        for pool in proving.values():
            candidate = pool.candidate
            if candidate is not None and all(self._proven(p) for p in candidate.settings.after):
                pool.prove(now)

    def _proven(self, name: str) -> bool:
        candidate = self._fleet.pools[name].candidate
        return candidate is not None and candidate.state is CandidateState.PROVEN

    def _failure(self, pool: Pool) -> str | None:
        candidate = pool.candidate
        if candidate is None:
            return "the new generation was given up"
        canary = pool.members.get(candidate.canary) if candidate.canary is not None else None
        if canary is not None and canary.failure is not None:
            return canary.failure
        if canary is not None and canary.leaving:
            return "the first worker of the new generation was asked to leave"
        return candidate.failure

    def _commit(self, settings: Settings, now: float) -> None:
        reload, fleet = self.current, self._fleet
        assert reload is not None
        reload.phase = ReloadPhase.REPLACING
        fleet.settings = settings
        fleet.generation += 1
        for name, pool in fleet.pools.items():
            if name in settings.pools:
                pool.commit()
            elif pool.state is not PoolState.LEAVING:
                pool.hold(now)
        fleet.out.append(Commit(fleet.generation))

    def _fixed(self, settings: Settings) -> str | None:
        """Name what can't change in a running daemon."""
        for key in FIXED:
            old, new = getattr(self._fleet.settings, key), getattr(settings, key)
            if old != new:
                return f"{key} can't change in a running daemon (from {old} to {new}); restart it"
        for name, pool in self._fleet.pools.items():
            proposed = settings.pools.get(name)
            if proposed is not None and proposed.queue != pool.settings.queue:
                return f"pools.{name}.queue can't change in a running daemon; restart it"
        return None

    def _end(self, ok: bool, reason: str | None) -> None:
        assert self.current is not None
        end = EndReload(ok, reason, self._committed and not ok)
        if not self.current.quiet:
            self._fleet.state = DaemonState.RUNNING
            self._fleet.out.append(TellReady(end))
        self.current = None
        self._tell(end)

    def _tell(self, end: EndReload) -> None:
        result = "ok" if end.ok else "incomplete" if end.incomplete else "refused"
        count(self._fleet.context.counters.reloads, result)
        self._fleet.out.append(end)
