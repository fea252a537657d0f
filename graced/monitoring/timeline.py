"""The history as a picture: an SVG with a lane for each pool, in light and dark.

A lane has the depth of the pool's queue as an area, deaths and kills as marks below it, and
scalings; reloads, starts and stops go through all lanes. Each mark has its words as a tooltip.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from html import escape

from graced.monitoring.words import said
from graced.text import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    Event = dict[str, Any]

WIDTH = 1000
LEFT = 110  # where time begins
RIGHT = 16
TOP = 34
LANE = 84
AREA = 48  # of a lane, for the depth
STEPS_S = (60, 300, 600, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86400, 7 * 86400)
MAX_MARKS = 4000  # drawn; of more, the last
_OF_ALL = ("start", "stopping", "stop", "reload")
_STYLE = """
svg{background:#fff;color:#1c2430;font:12px system-ui,sans-serif}
text{fill:currentColor}.dim{fill:#6a7585}.grid{stroke:#d9dfe7}.down{fill:#8a94a3;opacity:.22}
.depth{fill:#3b82f6;opacity:.35;stroke:#3b82f6}.death{fill:#dc2626}.killed{fill:#d97706}
.scale{fill:#7c3aed}.reload-ok{stroke:#16a34a}.reload-refused,.reload-incomplete{stroke:#d97706}
.start,.stop,.stopping{stroke:#6a7585;stroke-dasharray:3 3}
@media(prefers-color-scheme:dark){svg{background:#12161c;color:#e6eaf0}.grid{stroke:#2a323d}
.dim{fill:#93a0b1}}
"""


class _Axis:
    """Time from left to right."""

    def __init__(self, since: str, until: str) -> None:
        self.since, self.until = _moment(since), _moment(until)
        self._length = max((self.until - self.since).total_seconds(), 1.0)

    def x(self, at: str) -> float:
        share = (_moment(at) - self.since).total_seconds() / self._length
        return round(LEFT + min(max(share, 0.0), 1.0) * (WIDTH - LEFT - RIGHT), 1)

    def ticks(self) -> list[tuple[str, str]]:
        """Return the moments that are named, and their names."""
        step = next((step for step in STEPS_S if self._length / step <= 12), STEPS_S[-1])
        first = -(-self.since.timestamp() // step) * step
        count = int((self.until.timestamp() - first) // step) + 1
        moments = [self.since + timedelta(seconds=first - self.since.timestamp() + i * step)
                   for i in range(count)]  # fmt: skip
        form = "%d %b" if step >= 86400 else "%H:%M"
        return [(moment.isoformat(), moment.strftime(form)) for moment in moments]


def drawn(events: Sequence[Event], since: str, until: str) -> str:
    """Return the SVG of what happened between two moments (ISO 8601)."""
    axis = _Axis(since, until)
    pools = sorted({str(event["pool"]) for event in events if event.get("pool")}) or [""]
    bottom = TOP + LANE * len(pools)
    parts = [*_grid(axis, bottom), *_down(events, axis, bottom)]
    for number, pool in enumerate(pools):
        mine = [event for event in events if event.get("pool") == pool]
        parts += _lane(pool, mine, axis, TOP + LANE * number)
    parts += (_line(event, axis, bottom) for event in events if event["what"] in _OF_ALL)
    title = f"{since[:16].replace('T', ' ')} to {until[:16].replace('T', ' ')} UTC"
    height = bottom + 30
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
        f' width="{WIDTH}" height="{height}" role="img"><title>{title}</title>'
        f"<style>{_STYLE}</style>"
        f'<text x="{LEFT}" y="18" class="dim">{title}</text>{"".join(parts)}</svg>\n'
    )


def _grid(axis: _Axis, bottom: int) -> Iterable[str]:
    for at, name in axis.ticks():
        x = axis.x(at)
        yield f'<path class="grid" d="M{x} {TOP}V{bottom}"/>'
        yield f'<text class="dim" x="{x}" y="{bottom + 18}" text-anchor="middle">{name}</text>'


def _down(events: Sequence[Event], axis: _Axis, bottom: int) -> Iterable[str]:
    """Shade where no daemon ran: from its stop, or the last that was heard, to the next start."""
    last: Event | None = None
    for event in events:
        if event["what"] == "start" and last is not None:
            yield _shade(axis.x(last["at"]), axis.x(event["at"]), bottom)
        last = event
    if last is not None and last["what"] == "stop":
        yield _shade(axis.x(last["at"]), WIDTH - RIGHT, bottom)


def _shade(begin: float, end: float, bottom: int) -> str:
    width, height = round(end - begin, 1), bottom - TOP
    return (
        f'<rect class="down" x="{begin}" y="{TOP}" width="{width}" height="{height}">'
        "<title>no daemon</title></rect>"
    )


def _lane(pool: str, events: Sequence[Event], axis: _Axis, top: int) -> Iterable[str]:
    base = top + AREA + 8
    yield f'<path class="grid" d="M{LEFT} {base}H{WIDTH - RIGHT}"/>'
    yield f'<text x="10" y="{base - 4}">{escape(one_line(pool[:14]))}</text>'
    samples = [event for event in events if event["what"] == "queue"]
    if samples:
        yield from _depth(samples, axis, base)
    marks = [event for event in events if event["what"] in ("death", "killed", "scale")]
    for event in marks[-MAX_MARKS:]:
        x = axis.x(event["at"])
        at = f'cx="{x}" cy="{base + 10}" r="4"'
        yield f'<circle class="{event["what"]}" {at}>{_words(event)}</circle>'


def _depth(samples: Sequence[Event], axis: _Axis, base: int) -> Iterable[str]:
    """Draw how many jobs waited or were in hand; each sample holds until the next."""
    depths = [_number(s, "waiting") + _number(s, "taken") for s in samples]
    most = max(*depths, 1)
    path, y = f"M{axis.x(samples[0]['at'])} {base}", float(base)
    for sample, depth in zip(samples, depths):
        y = round(base - AREA * depth / most, 1)
        path += f"H{axis.x(sample['at'])}V{y}"
    yield f'<path class="depth" d="{path}H{WIDTH - RIGHT}V{base}Z"/>'
    place = f'x="{LEFT - 6}" y="{base - AREA + 10}" text-anchor="end"'
    yield f'<text class="dim" {place}>{most} jobs</text>'


def _line(event: Event, axis: _Axis, bottom: int) -> str:
    what = event["what"]
    name = f"reload-{escape(str(event.get('result')), quote=True)}" if what == "reload" else what
    way = f'd="M{axis.x(event["at"])} {TOP}V{bottom}"'
    return f'<path class="{name}" stroke-width="2" {way}>{_words(event)}</path>'


def _words(event: Event) -> str:
    at = event["at"][:19].replace("T", " ")
    return f"<title>{escape(at)} {escape(one_line(said(event)))}</title>"


def _number(event: Event, key: str) -> int:
    value = event.get(key)
    return value if isinstance(value, int) else 0


def _moment(at: str) -> datetime:
    return datetime.fromisoformat(at)
