"""A job as its worker sees it, and what a worker may say about how it ended.

No queue, no socket and no SQL here.
"""

from __future__ import annotations

from graced.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_PAYLOAD = 1 << 20  # bytes of JSON in UTF-8, of a payload and of a result alike
MAX_EVIDENCE = 64 << 10  # characters kept of one reason, one traceback or one stack
BIGGEST = (1 << 63) - 1  # what any queue takes for a number
MAX_DELAY = 10 * 366 * 86400.0  # seconds, ten years: what is longer is a slip of the pen


def is_delay(seconds: float) -> bool:
    """Whether a job can be put off by so many seconds."""
    return 0 <= seconds <= MAX_DELAY


class Job(Record):
    """One unit of work, handed to :meth:`JobWorker.handle`."""

    id: int
    payload: Any
    attempt: int  # 1 at first; an attempt that did not count has the same number again
    submitted: float  # seconds since the epoch, as time.time()
    token: int = 0  # grows each time that the job is handed out: fences what it does elsewhere
    scheduled: float | None = None  # the instant of its schedule that it stands for, if it has one


class Retry(Exception):
    """Raise it in ``handle`` to have the job tried again after so many seconds, ten years at most.

    ValueError if it can't be as many. The attempt counts like any other that raised:
    after the last one the job is dead.
    """

    reason = ""  # here for subclasses that never come to our __init__()
    after: float | None = None

    def __init__(self, after: float, reason: str = "") -> None:
        if not is_delay(after):
            raise ValueError(f"Retry(after={after!r}): write seconds, from 0 to {MAX_DELAY:.0f}")
        super().__init__(reason or f"retry after {after:g} s")
        self.reason = str(self)
        self.after = float(after)


class Discard(Exception):
    """Raise it in ``handle`` to give the job up now, whatever attempts it has left.

    The job is dead, with the reason as its evidence; ``graced jobs retry`` revives it.
    """

    reason = ""  # as above

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = str(reason)  # some hand in the exception they have caught


class Failed(Exception):
    """A failure that needs no traceback: its text and its facts say it all."""

    def __init__(self, text: str, **facts: Any) -> None:
        super().__init__(text)
        self.facts = facts


class Done(Record):
    """The job is done; ``result`` is JSON text, or None for nothing."""

    result: str | None = None


class Raised(Record):
    """The attempt failed; the queue says when the next one is due."""

    evidence: str  # JSON text of an object


class Postponed(Record):
    """The attempt failed; the next one is due after so many seconds."""

    evidence: str
    after: float


class Discarded(Record):
    """The job shall not be tried again."""

    evidence: str


NOTHING_MORE = Done()  # what most jobs end with
Outcome = Done | Raised | Postponed | Discarded
