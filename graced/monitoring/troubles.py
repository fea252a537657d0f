"""What is wrong with a daemon, in lines, from its status: what people have to know first."""

from __future__ import annotations

from graced.units import format_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    JSON = Mapping[str, Any]


LATE_S = 60.0  # seconds after which it is told that a schedule is late


def troubles(status: JSON) -> list[str]:
    """Return one line for each."""
    return [*_reload(status), *_pools(status), *_schedules(status)]


def _reload(status: JSON) -> Iterator[str]:
    last = status["last_reload"]
    if last is not None and not last["ok"]:
        how = "incomplete" if last["incomplete"] else "refused"
        yield f"reload {how} at {last['at'][11:19]}: {last['reason']}"


def _schedules(status: JSON) -> Iterator[str]:
    for name, schedule in status.get("schedules", {}).items():
        if schedule["late"] > LATE_S:
            yield f"schedule {name} is {format_duration(schedule['late'])} late"


def _pools(status: JSON) -> Iterator[str]:
    for name, pool in status["pools"].items():
        if pool["backoff"] is not None:
            wait = pool["backoff"]["next_start_in"]
            then = "trying one worker" if wait is None else f"next start in {format_duration(wait)}"
            yield f"pool {name} is in back-off, {then}"
        queue = pool.get("queue") or {}
        if queue.get("trouble"):
            yield f"queue {name}: {queue['trouble']}"
        if queue.get("dead"):
            yield f"queue {name}: {queue['dead']} dead jobs"
        if queue.get("paused"):
            yield f"queue {name} is paused"
