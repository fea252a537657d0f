"""`graced status` for people: the picture of a daemon, laid out as text.

It takes what the JSON has, from a daemon that may be of another version, and
makes nothing up: what is not there is left out.
"""

from __future__ import annotations

from graced import program
from graced.text import one_line
from graced.units import format_size, format_span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    Picture = Mapping[str, Any]

HEADINGS = ("SLOT", "PID", "STATE", "GEN", "ROUNDS", "ERRORS", "BUSY FOR", "AGE", "RSS")
QUEUE_WORDS = frozenset({"oldest", "paused", "trouble", "engine", "lease_left"})  # not counts
LEFT = frozenset({"STATE"})


def table(status: Picture) -> str:
    """Return the whole status as text, with a line end."""
    lines = _daemon(status)
    for name, pool in status.get("pools", {}).items():
        lines += ["", *_pool(name, pool)]
    return "\n".join(map(one_line, lines)) + "\n"


def _daemon(status: Picture) -> list[str]:
    made_by = f"{status.get('program', program.name)} {status.get('version')}"
    daemon = f"{status.get('name')} (pid {status.get('pid')}, {made_by})"
    up = format_span(status.get("uptime"))
    lines = [f"{daemon}: {status.get('state')}, generation {status.get('generation')}, up {up}"]
    if not status.get("ready"):
        lines[0] += ", not ready yet"
    last = status.get("last_reload")
    if last:
        lines.append(f"last reload at {last.get('at')}: {_reload(last)}")
    return lines


def _reload(last: Picture) -> str:
    if last.get("ok"):
        return "done"
    how = "incomplete" if last.get("incomplete") else "refused"
    return f"{how}: {last.get('reason')}"


def _pool(name: str, pool: Picture) -> list[str]:
    lines = [
        f"{name}: {pool.get('ready')}/{pool.get('target')} workers ready,"
        f" {pool.get('busy')} busy, {_count(pool.get('deaths'), 'death')}"
    ]
    lines += _backoff(pool.get("backoff")) + _queue(pool.get("queue"))
    workers = pool.get("workers", ())
    if workers:
        lines += ["  " + line for line in _grid([HEADINGS, *map(_worker, workers)])]
    deaths = pool.get("last_deaths", ())
    if deaths:
        lines += ["  last deaths:", *("    " + _death(death) for death in deaths)]
    return lines


def _backoff(backoff: Picture | None) -> list[str]:
    if not backoff:
        return []
    wait = backoff.get("next_start_in")
    then = "trying one worker" if wait is None else f"next start in {format_span(wait)}"
    return [f"  in back-off after {_count(backoff.get('failures'), 'failure')}: {then}"]


def _queue(queue: Picture | None) -> list[str]:
    if not queue:
        return []
    counts = [(state, number) for state, number in queue.items() if state not in QUEUE_WORDS]
    told = ", ".join(f"{_shown(number)} {state}" for state, number in counts)
    if queue.get("oldest") is not None:
        told += f"; the oldest has waited {format_span(queue['oldest'])}"
    if queue.get("engine"):
        told += f"; in {queue['engine']}"
    if queue.get("lease_left") is not None:
        told += f", lease good for {format_span(queue['lease_left'])}"
    if queue.get("paused"):
        told = f"paused; {told}"
    trouble = queue.get("trouble")
    return [f"  queue: {told}", *([f"  queue in trouble: {trouble}"] if trouble else [])]


def _worker(worker: Picture) -> tuple[str, ...]:
    return (
        _shown(worker.get("slot")),
        _shown(worker.get("pid")),
        _shown(worker.get("state")),
        _shown(worker.get("generation")),
        _shown(worker.get("rounds")),
        _shown(worker.get("errors")),
        format_span(worker.get("busy_for")),
        format_span(worker.get("age")),
        format_size(worker.get("rss")),
    )


def _death(death: Picture) -> str:
    worker = f"slot {death.get('slot')} (pid {death.get('pid')})"
    rounds = _count(death.get("rounds"), "round")
    return f"{death.get('at')} {worker}: {death.get('reason')}, after {rounds}"


def _grid(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if heading in LEFT else cell.rjust(width)
            for cell, width, heading in zip(row, widths, HEADINGS, strict=True)
        ).rstrip()
        for row in rows
    ]


def _shown(value: object) -> str:
    return "-" if value is None else str(value)


def _count(number: int | None, thing: str) -> str:
    return f"{_shown(number)} {thing}{'' if number == 1 else 's'}"
