"""`graced schedules` for people: one schedule a line."""

from __future__ import annotations

import time

from graced.clock import iso
from graced.text import one_line
from graced.units import format_span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

HEADINGS = ("SCHEDULE", "POOL", "LAST", "NEXT", "IN", "LATE")


def table(schedules: Mapping[str, Mapping[str, Any]]) -> str:
    """Return all schedules as text, with a line end; what is not known is left out."""
    rows = [HEADINGS, *(_row(name, schedule) for name, schedule in schedules.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join(map(one_line, lines)) + "\n"


def _row(name: str, schedule: Mapping[str, Any]) -> tuple[str, ...]:
    after = schedule.get("next")
    late = schedule.get("late")
    return (
        name,
        str(schedule.get("pool")),
        _moment(schedule.get("last")),
        _moment(after),
        "-" if after is None else format_span(max(after - time.time(), 0.0)),
        format_span(late) if late else "-",
    )


def _moment(seconds: int | None) -> str:
    """Return an instant in UTC, without the milliseconds that no instant has."""
    return "-" if seconds is None else iso(seconds * 1_000_000_000).replace(".000Z", "Z")
