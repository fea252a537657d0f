"""A picture of the daemon: the JSON of ``graced status``, the STATUS= line, and its health."""

from __future__ import annotations

from graced.core.member import count
from graced.core.states import DaemonState, WorkerState
from graced.record import Record
from graced.units import format_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from graced.core.daemon import Daemon
    from graced.core.member import Member
    from graced.core.pool import Pool

    JSON = dict[str, Any]


PROBLEMS_NAMED = 3  # told by name in an answer about health; the rest is counted


class WorkerReading(Record):
    """What the scoreboard says of a worker at this moment."""

    rounds: int = 0
    errors: int = 0
    busy_for: float | None = None  # seconds, None between rounds


class LastReload(Record):
    """How the last reload ended; ``at`` is wall-clock time in ISO 8601."""

    at: str
    ok: bool
    reason: str | None
    incomplete: bool = False  # not ok, yet the new generation is in force

    def picture(self) -> JSON:
        """Return what ``graced status --json`` prints."""
        return {"at": self.at, "ok": self.ok, "reason": self.reason, "incomplete": self.incomplete}


IDLE = WorkerReading()


def picture(
    daemon: Daemon,
    readings: Mapping[int, WorkerReading],
    rss: Callable[[Member], int | None],
    last_reload: LastReload | None,
    now: float,
) -> JSON:
    """Return what ``graced status --json`` prints, without what only the process knows."""
    return {
        "state": daemon.state.value,
        "generation": daemon.generation,
        "ready": daemon.ready,
        "uptime": round(now - daemon.started_at, 3),
        "last_reload": None if last_reload is None else last_reload.picture(),
        "pools": {
            name: _pool(pool, readings, rss, now) for name, pool in sorted(daemon.pools.items())
        },
    }


def _pool(
    pool: Pool,
    readings: Mapping[int, WorkerReading],
    rss: Callable[[Member], int | None],
    now: float,
) -> JSON:
    members = sorted(pool.members.values(), key=lambda m: (m.slot, m.id))
    return {
        "worker": pool.settings.worker,
        "target": pool.target,
        "ready": pool.ready_count(),
        "busy": sum(readings.get(m.id, IDLE).busy_for is not None for m in members),
        "deaths": pool.restarts.deaths,
        "backoff": _backoff(pool, now),
        "workers": [
            {
                "slot": member.slot,
                "pid": member.pid,
                "state": _state(member, reading),
                "generation": member.generation,
                "rounds": reading.rounds,
                "errors": reading.errors,
                "busy_for": None if reading.busy_for is None else round(reading.busy_for, 3),
                "age": round(now - member.born_at, 3),
                "rss": rss(member),
            }
            for member in members
            for reading in (readings.get(member.id, IDLE),)
        ],
        "last_deaths": [
            {"slot": slot, "pid": pid, "at": at, "reason": reason, "rounds": rounds}
            for slot, pid, at, reason, rounds in pool.restarts.last_deaths
        ],
    }


def _backoff(pool: Pool, now: float) -> JSON | None:
    backoff = pool.restarts.backoff
    if not backoff.active:
        return None
    wait = None if backoff.next_start is None else round(max(backoff.next_start - now, 0.0), 3)
    return {"failures": backoff.failures, "next_start_in": wait}


def _state(member: Member, reading: WorkerReading) -> str:
    if member.state is WorkerState.READY and reading.busy_for is not None:
        return "busy"
    return member.state.value


def line(
    daemon: Daemon,
    readings: Mapping[int, WorkerReading],
    last_reload: LastReload | None,
    now: float,
    state: DaemonState | None = None,
) -> str:
    """Return the STATUS= line: what a person wants to know, in words.

    `state`: to be told in place of the daemon's.
    """
    state = state or daemon.state
    if daemon.failure is not None:
        return f"failed: {daemon.failure}"
    if state is DaemonState.DRAINING:
        return _draining(daemon, readings, now)
    if state is DaemonState.STOPPING:
        return f"stopping: {count(len(daemon.members()), 'worker')} left"
    parts = [_ready(daemon)]
    if state is not DaemonState.RUNNING:
        parts = [f"{state.value}: {parts[0]}"]
    parts += [_trouble(pool, now) for pool in daemon.pools.values() if pool.restarts.backoff.active]
    if last_reload is not None and not last_reload.ok and state is DaemonState.RUNNING:
        how = "incomplete" if last_reload.incomplete else "refused"
        parts.append(f"reload {how}: {last_reload.reason}")
    return "; ".join(parts)


def _ready(daemon: Daemon) -> str:
    ready = sum(pool.ready_count() for pool in daemon.pools.values())
    target = sum(pool.target for pool in daemon.pools.values())
    return f"{ready}/{target} workers ready"


def _trouble(pool: Pool, now: float) -> str:
    text = f"pool {pool.name} in back-off: {pool.restarts.evidence}"
    if pool.restarts.backoff.next_start is None:
        return f"{text}, trying one worker"
    return (
        f"{text}, next start in {format_duration(max(pool.restarts.backoff.next_start - now, 0.0))}"
    )


def _draining(daemon: Daemon, readings: Mapping[int, WorkerReading], now: float) -> str:
    members = daemon.members()
    spans = [readings.get(m.id, IDLE).busy_for for m in members]
    busy = [span for span in spans if span is not None]
    text = f"draining: {len(busy)} of {len(members)} workers busy"
    if busy:
        text += f", oldest round {max(busy):.0f} s"
    ends = [end for m in members if m.leaving for end in (m.rung_end(),) if end is not None]
    if ends:
        text += f", {max(max(ends) - now, 0.0):.0f} s left"
    return text


# Health: what decides over systemd's watchdog and ``graced health``. It is not whether every worker
# is there (that is readiness): one of many may hang, and the ladder deals with it.


class Health(Record):
    """How many workers can work, how many have to, and what is wrong with the others."""

    healthy: int
    living: int
    needed: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether enough workers can work."""
        return self.healthy >= self.needed

    def words(self) -> str:
        """Say it in one line."""
        text = f"{self.healthy} of {self.living} workers healthy"
        if not self.ok:
            text += f", {self.needed} needed"
        told = [*self.problems[:PROBLEMS_NAMED]]
        if len(self.problems) > PROBLEMS_NAMED:
            told.append(f"and {len(self.problems) - PROBLEMS_NAMED} more")
        return f"{text}: {'; '.join(told)}" if told else text


def examine(
    members: Iterable[Member],
    quorum: int,
    stopped: Callable[[Member], bool],
    overdue: Callable[[Member], bool],
) -> Health:
    """Look at the workers that are alive; those in back-off neither help nor harm."""
    living = [m for m in members if m.pid and m.state is not WorkerState.KILLED]
    problems = []
    for member in living:
        if stopped(member):
            problems.append(f"{member.label} is stopped")
        elif overdue(member):
            problems.append(f"{member.label} is past the deadline of its round")
    return Health(
        len(living) - len(problems), len(living), min(quorum, len(living)), tuple(problems)
    )
