"""Metrics as text, in both forms that Prometheus reads: its own, and OpenMetrics 1.0.

The differences are few: the names of counters and of what never changes, and the last line.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from graced.monitoring.families import Family, Sample

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})


def written(families: Iterable[Family], *, openmetrics: bool = False) -> str:
    """Return metrics as text."""
    lines: list[str] = []
    for family in families:
        name, kind = _head(family, openmetrics)
        lines += (f"# HELP {name} {family.help}", f"# TYPE {name} {kind}")
        lines += (_line(family, sample) for sample in family.samples)
    if openmetrics:
        lines.append("# EOF")
    return "\n".join(lines) + "\n"


def _head(family: Family, openmetrics: bool) -> tuple[str, str]:
    """Return the name and the kind that a family is announced with."""
    if openmetrics or family.kind not in ("counter", "info"):
        return family.name, family.kind
    if family.kind == "counter":
        return f"{family.name}_total", "counter"
    return f"{family.name}_info", "gauge"


def _line(family: Family, sample: Sample) -> str:
    suffix = "_info" if family.kind == "info" else sample.suffix
    labels = ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in sample.labels)
    named = f"{family.name}{suffix}{{{labels}}}" if labels else f"{family.name}{suffix}"
    return f"{named} {sample.value!r}"
