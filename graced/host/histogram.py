"""The histogram that graced keeps of rounds and of jobs: fixed bounds, in shared memory.

A bucket counts what took as long as its bound or less, and longer than the bound before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import MutableSequence

NS_PER_MS = 1_000_000  # ns
BOUNDS_MS = (
    1, 3, 10, 30, 100, 300,
    1_000, 3_000, 10_000, 30_000, 60_000, 300_000, 1_800_000, 3_600_000, 21_600_000,
)  # fmt: skip
BOUNDS_NS = tuple(bound * NS_PER_MS for bound in BOUNDS_MS)
BUCKETS = len(BOUNDS_MS) + 1  # the last one is for all that took longer


def observe(words: MutableSequence[int] | memoryview[int], at: int, ns: int) -> None:
    """Count a length of time in the buckets that begin at the word `at`."""
    words[at + bisect_left(BOUNDS_NS, ns)] += 1
