"""What rows share: contenders in turn, a warm-up, medians; and the list of all rows."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.contenders import LIMIT, OURS, Contender
from benchmarks.queues import ServedQueue
from benchmarks.stage import Trouble
from benchmarks.table import Line

Samples = Mapping[str, Sequence[float]]


@dataclass
class Bench:
    """Who takes part, and how often."""

    peers: list[Contender] = field(default_factory=list)
    factor: float = 1.0  # on every number of repetitions
    queues: list[Contender] = field(default_factory=list)  # peers of the rows on jobs
    served: list[ServedQueue] = field(default_factory=list)  # those with a queue on a server
    backlog: int = 200_000  # jobs that wait where many do

    @property
    def everybody(self) -> list[Contender]:
        """All contenders, the limit first."""
        return [LIMIT, OURS, *self.peers]

    def times(self, count: int) -> int:
        """Return how often to repeat what is repeated `count` times by default."""
        return max(1, round(count * self.factor))

    def in_turn(
        self,
        measure: Callable[[Contender], float],
        count: int,
        contenders: Sequence[Contender] | None = None,
    ) -> dict[str, list[float]]:
        """Measure every contender again and again in turn; the first turn is a warm-up."""
        left = list(self.everybody if contenders is None else contenders)
        found: dict[str, list[float]] = {contender.name: [] for contender in left}
        for turn in range(self.times(count) + 1):
            for contender in list(left):
                try:
                    value = measure(contender)
                except Trouble as trouble:
                    if contender in (LIMIT, OURS):
                        raise
                    print(trouble, file=sys.stderr)
                    left.remove(contender)
                    continue
                if turn:
                    found[contender.name].append(value)
        return {name: values for name, values in found.items() if values}


def medians(samples: Samples) -> dict[str, float]:
    """Return the middle of each."""
    return {name: statistics.median(values) for name, values in samples.items()}


def p99(samples: Samples) -> dict[str, float]:
    """Return what one in a hundred exceeds; the worst, where there are fewer."""
    return {
        name: sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]
        for name, values in samples.items()
    }


class Row(NamedTuple):
    """Something that can be measured."""

    name: str
    what: str
    measure: Callable[[Bench], list[Line]]


ROWS: dict[str, Row] = {}


def row(
    name: str, what: str
) -> Callable[[Callable[[Bench], list[Line]]], Callable[[Bench], list[Line]]]:
    """Enter a measurement in the list of rows."""

    def enter(measure: Callable[[Bench], list[Line]]) -> Callable[[Bench], list[Line]]:
        ROWS[name] = Row(name, what, measure)
        return measure

    return enter
