"""What has been measured, beside what it should be: as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

OURS, LIMIT = "graced", "raw"
Kind = Literal[
    "times raw",
    "times gunicorn",
    "at most",
    "at least",
    "at least times huey",
    "at least times procrastinate",
    "at least times dramatiq",
]


@dataclass(frozen=True)
class Target:
    """What graced shall reach: so many times another's figure, or a value of its own."""

    kind: Kind
    value: float

    def met(self, found: Mapping[str, float]) -> bool | None:
        """Return whether it is reached; None without the other to compare with."""
        ours = found[OURS]
        if self.kind == "at least":
            return ours >= self.value
        if self.kind == "at most":
            return ours <= self.value
        if (other := found.get(self.other)) is None:
            return None
        limit = self.value * other
        return ours >= limit if self.kind.startswith("at least") else ours <= limit

    @property
    def other(self) -> str:
        """Whom it compares with; nothing if nobody."""
        return self.kind.rpartition("times ")[2] if "times" in self.kind else ""

    def __str__(self) -> str:
        sign = "≥" if self.kind.startswith("at least") else "≤"
        return f"{sign} {self.value:g}" + (f" x {self.other}" if self.other else "")


@dataclass(frozen=True)
class Line:
    """One figure of every contender."""

    title: str
    unit: str
    found: Mapping[str, float]
    target: Target | None = None
    note: str = ""
    samples: int = field(default=1)
    against: str = LIMIT  # whose figure the ratio is of

    @property
    def ratio(self) -> float | None:
        """How many times the limit's figure ours is, or another's."""
        limit = self.found.get(self.against)
        return self.found[OURS] / limit if limit and OURS in self.found else None

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None where there is nothing to judge."""
        if self.target is None or OURS not in self.found:
            return None
        return self.target.met(self.found)


def render(lines: list[Line], names: list[str]) -> str:
    """Return the table for people."""
    head = ["", "", *names, "ratio", "target", ""]
    rows = [head, *(_cells(line, names) for line in lines)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join(_aligned(row, widths) for row in rows)


def _aligned(row: list[str], widths: list[int]) -> str:
    left = (0, 1, len(row) - 1)
    cells = [c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))]
    return "  ".join(cells).rstrip()


def _cells(line: Line, names: list[str]) -> list[str]:
    verdict = {True: "met", False: "MISSED", None: ""}[line.met]
    ratio = "" if line.ratio is None else f"{line.ratio:.2f} x"
    target = "" if line.target is None else str(line.target)
    values = [_number(line.found.get(name)) for name in names]
    said = f"{verdict} {line.note}".strip()
    return [line.title, line.unit, *values, ratio, target, said]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def as_json(lines: list[Line]) -> str:
    """Return everything for programs."""
    return json.dumps(
        [
            {
                "title": line.title,
                "unit": line.unit,
                "found": dict(line.found),
                "ratio": line.ratio,
                "target": None if line.target is None else str(line.target),
                "met": line.met,
                "samples": line.samples,
                "note": line.note,
            }
            for line in lines
        ],
        indent=2,
        ensure_ascii=False,
    )
