"""On which terms a job is submitted: when, how often, before which others, and how many like it.

Plain data and its limits; what becomes of it is decided by the engine.
"""

from __future__ import annotations

from graced.queue.job import is_delay
from graced.record import Record
from graced.settings import MOST_ATTEMPTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HIGHEST = 100  # a job's priority; the lowest is as far below 0
LONGEST_KEY = 200  # bytes of a unique key in UTF-8
LAST_INSTANT = 253402300799  # seconds since the epoch: the end of the year 9999


class Terms(Record):
    """What is asked for with the payloads of a submit, for all of them alike."""

    delay: float = 0.0  # seconds before which they are not due
    max_attempts: int = 0  # 0: the pool's
    priority: int = 0  # among due jobs the higher goes first
    unique: str | None = None  # no second job is made while one with this key waits or is in hand
    schedule: str | None = None  # the schedule that has made it,
    scheduled: float | None = None  #   and the instant it stands for, in seconds since the epoch

    def problem(self) -> str | None:
        """Return what is wrong with them, in words; None if nothing is."""
        if not is_delay(self.delay):
            return "a delay must be between 0 and ten years"
        if not 0 <= self.max_attempts <= MOST_ATTEMPTS:
            return f"a job has at most {MOST_ATTEMPTS} attempts"
        if not -HIGHEST <= self.priority <= HIGHEST:
            return f"a priority is a whole number from -{HIGHEST} to {HIGHEST}"
        if self.scheduled is not None and not 0 <= self.scheduled <= LAST_INSTANT:
            return "an instant is a number of seconds since the epoch"
        return None if self.unique is None else _key_problem(self.unique)

    def told(self) -> dict[str, Any]:
        """Return all that is not as usual, in JSON's types."""
        return {
            name: value for name, usual in _USUAL.items() if (value := getattr(self, name)) != usual
        }

    @classmethod
    def read(cls, told: object) -> Terms:
        """Return the terms that were told. ValueError, in words, if they can't be."""
        if not isinstance(told, dict):
            raise ValueError("the terms of a submit are a JSON object")
        for name, value in told.items():
            if type(value) not in _TYPES.get(name, ()):
                raise ValueError(f"terms of a submit that are unknown: {name!r}")
        terms = cls(**told)
        problem = terms.problem()
        if problem is not None:
            raise ValueError(problem)
        return terms


def _key_problem(key: str) -> str | None:
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return "a unique key is text in UTF-8"
    if not 0 < size <= LONGEST_KEY:
        return f"a unique key has 1 to {LONGEST_KEY} bytes, not {size}"
    if any(c < " " or "\x7f" <= c <= "\x9f" for c in key):
        return "a unique key has no control characters"
    return None


AS_USUAL = Terms()
_USUAL: dict[str, Any] = {name: getattr(AS_USUAL, name) for name in Terms.__match_args__}
_TYPES: dict[str, tuple[type, ...]] = {
    "delay": (float, int),
    "max_attempts": (int,),
    "priority": (int,),
    "unique": (str,),
    "schedule": (str,),
    "scheduled": (float, int),
}
