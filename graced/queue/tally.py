"""What a keeper counts, in memory that it shares with the main process: it outlives the keeper.

Only one keeper of a pool writes at a time; the main process reads.
"""

from __future__ import annotations

import mmap

from graced.host.histogram import BUCKETS, NS_PER_MS, observe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

OUTCOMES = ("submitted", "done", "failed", "dead")
_ENDED = {"done": 1, "dead": 3, "cancelled": 3}  # words, by the state that a job ended in
_WAITED = 4  # ns that jobs waited which were handed out
_TOOK = 5  # ns that jobs took which were settled
_WAITS = 8
_LENGTHS = _WAITS + BUCKETS
_WORDS = _LENGTHS + BUCKETS
NS_PER_S = 1_000_000_000


class Tally:
    """Jobs by what became of them, and how long they waited and took. It only grows."""

    __slots__ = ("_memory", "_words")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * _WORDS)
        self._words = memoryview(self._memory).cast("q")

    def happened(self, counts: Mapping[str, int], ended: Iterable[str]) -> None:
        """Count what has been written: jobs that are new, attempts that failed, jobs that ended."""
        for outcome, number in counts.items():
            self._words[OUTCOMES.index(outcome)] += number
        for state in ended:
            if state in _ENDED:
                self._words[_ENDED[state]] += 1

    def waited(self, ms: int) -> None:
        """A job is handed out, so long after it was due."""
        ns = max(ms, 0) * NS_PER_MS
        self._words[_WAITED] += ns
        observe(self._words, _WAITS, ns)

    def took(self, ns: int) -> None:
        """A job is settled, so long after it was handed out."""
        self._words[_TOOK] += ns
        observe(self._words, _LENGTHS, ns)

    def picture(self) -> dict[str, Any]:
        """Return it as JSON."""
        words = self._words
        return {
            "jobs": dict(zip(OUTCOMES, words[: len(OUTCOMES)])),
            "wait_seconds": {
                "sum": words[_WAITED] / NS_PER_S, "buckets": list(words[_WAITS:_LENGTHS]),
            },
            "job_seconds": {
                "sum": words[_TOOK] / NS_PER_S, "buckets": list(words[_LENGTHS:_WORDS]),
            },
        }  # fmt: skip
