"""What a keeper counts, in memory that it shares with the main process: it outlives the keeper.

Only one keeper of a pool writes at a time; the main process reads.
"""

from __future__ import annotations

import mmap

from graced.host.histogram import BUCKETS, NS_PER_MS, observe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

OUTCOMES = ("submitted", "done", "failed", "dead")
_WAITED = 4  # ns that jobs waited which were handed out
_TOOK = 5  # ns that jobs took which were settled
_BOOK = 6  # whose counts the last ones were
_BASES = 8  # what had been counted there when this memory began
_WAITS = _BASES + len(OUTCOMES)
_LENGTHS = _WAITS + BUCKETS
_WORDS = _LENGTHS + BUCKETS
NS_PER_S = 1_000_000_000


class Tally:
    """Jobs by what became of them, and how long they waited and took. It only grows."""

    __slots__ = ("_memory", "_words")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * _WORDS)
        self._words = memoryview(self._memory).cast("q")

    def counted(self, book: int, counts: Mapping[str, int]) -> None:
        """A queue has counted so much until now, see :meth:`.protocol.Dispatcher.counted`.

        What it had when it was seen first does not belong here; of an older copy of a file,
        which has counted less, it goes on from there.
        """
        words = self._words
        for word, outcome in enumerate(OUTCOMES):
            count, seen = counts[outcome], words[word] + words[_BASES + word]
            if book != words[_BOOK] or count < seen:
                words[_BASES + word] = count - words[word]
            else:
                words[word] += count - seen
        words[_BOOK] = book

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
