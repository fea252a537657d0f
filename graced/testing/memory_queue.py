"""A queue in memory, for one worker in a test: who gets which job, and what becomes of it.

The rules are those of :mod:`graced.queue`, without a file, a keeper or a second worker. Its clock
is its own: nothing waits for a delay, the clock is put forward.
"""

from __future__ import annotations

import time

from graced.queue import jsonvalue
from graced.queue.job import MAX_PAYLOAD, Discarded, Done, Job, Postponed, is_delay
from graced.queue.policy import Policy
from graced.queue.protocol import STATES, QueueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from graced.queue.job import Outcome

WAITING, TAKEN, DONE, DEAD = STATES


class MemoryJob:
    """A job of a :class:`MemoryQueue`, as it is now."""

    def __init__(self, id: int, payload: str, now: float) -> None:
        self.id = id
        self.state = WAITING
        self.attempts = 0  # that count: ended, and not by an interrupt
        self.max_attempts = 3
        self.priority = 0
        self.unique: str | None = None
        self.submitted = now  # seconds since the epoch, as due and ended
        self.due = now
        self.ended: float | None = None
        self.result: Any = None
        self.evidence: list[dict[str, Any]] = []  # of each attempt that failed
        self.progress: tuple[float, str] | None = None
        self._text = payload

    @property
    def payload(self) -> Any:
        """A copy of its own each time, as it comes from a file."""
        return jsonvalue.read(self._text)

    def __repr__(self) -> str:
        return f"<job {self.id}: {self.state}, {self.attempts} attempts failed>"


class MemoryQueue:
    """Jobs for the worker of a test; what :class:`graced.Queue` offers, in memory."""

    def __init__(self, payloads: Iterable[Any] = (), policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self.now = time.time()  # seconds since the epoch; stands still between the jobs
        self._jobs: dict[int, MemoryJob] = {}
        self._last = 0
        self.submit_many(payloads)

    # -- as graced.Queue has it

    def submit(
        self,
        payload: Any,
        *,
        delay: float = 0.0,
        priority: int = 0,
        unique: str | None = None,
        max_attempts: int | None = None,
    ) -> int:
        """Add a job; return its number, or that of the one that has the `unique` key already.

        ValueError or TypeError if the payload is no JSON value of up to 1 MiB, or another
        value is out of its bounds.
        """
        text = _checked(payload, delay, priority)
        if unique is not None:
            for job in self._jobs.values():
                if job.unique == unique and job.state in (WAITING, TAKEN):
                    return job.id
        self._last += 1
        job = self._jobs[self._last] = MemoryJob(self._last, text, self.now)
        job.due = self.now + delay
        job.priority, job.unique = priority, unique
        job.max_attempts = self.policy.max_attempts if max_attempts is None else max_attempts
        return job.id

    def submit_many(self, payloads: Iterable[Any], **terms: Any) -> list[int]:
        """Add a job for each payload, or none if one of them is no JSON value."""
        listed = list(payloads)
        for payload in listed:
            _checked(payload, 0.0, 0)
        return [self.submit(payload, **terms) for payload in listed]

    def job(self, number: int) -> MemoryJob:
        """Return a job. QueueError if there is none of this number."""
        try:
            return self._jobs[number]
        except KeyError:
            raise QueueError(f"there is no job {number}") from None

    def jobs(self, state: str | None = None) -> list[MemoryJob]:
        """Return the jobs, all or those in one state, in the order of their numbers."""
        return [job for job in self._jobs.values() if state in (None, job.state)]

    def counts(self) -> dict[str, int]:
        """Return how many jobs there are in each state."""
        return {state: len(self.jobs(state)) for state in STATES}

    def cancel(self, number: int) -> None:
        """Give a job up: it is dead, with `cancelled` as its evidence."""
        job = self.job(number)
        if job.state not in (WAITING, TAKEN):
            raise QueueError(f"job {number} is {job.state}")
        self._end(job, DEAD)
        job.evidence.append({"reason": "cancelled"})

    def retry(self, number: int) -> None:
        """Make a job due now, a dead one with all its attempts."""
        job = self.job(number)
        if job.state == DEAD:
            job.state, job.attempts, job.ended = WAITING, 0, None
        elif job.state != WAITING:
            raise QueueError(f"job {number} is {job.state}")
        job.due = self.now

    def drop(self, number: int) -> None:
        """Forget a job that is not in hand."""
        if self.job(number).state == TAKEN:
            raise QueueError(f"job {number} is {TAKEN}")
        del self._jobs[number]

    def close(self) -> None:
        """Do nothing: there is no connection."""

    def __enter__(self) -> MemoryQueue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.jobs(WAITING))

    # -- time

    def advance(self, seconds: float) -> None:
        """Put the queue's clock forward."""
        self.now += seconds

    # -- for the worker

    def take(self) -> Job | None:
        """Hand out the job that is next, putting the clock forward if none is due; None: no job."""
        waiting = self.jobs(WAITING)
        if not waiting:
            return None
        self.now = max(self.now, min(job.due for job in waiting))
        due = [job for job in waiting if job.due <= self.now]
        first = min(due, key=lambda job: (-job.priority, job.id))
        first.state = TAKEN
        return Job(first.id, first.payload, first.attempts + 1, first.submitted)

    def settle(self, id: int, outcome: Outcome) -> None:
        """Put down what has become of a job; a job that was cancelled meanwhile stays dead."""
        job = self.job(id)
        if job.state != TAKEN:
            return
        if isinstance(outcome, Done):
            job.result = None if outcome.result is None else jsonvalue.read(outcome.result)
            self._end(job, DONE)
            return
        job.attempts += 1
        job.evidence.append(jsonvalue.read(outcome.evidence))
        if isinstance(outcome, Discarded) or job.attempts >= job.max_attempts:
            self._end(job, DEAD)
            return
        job.state = WAITING
        if isinstance(outcome, Postponed):
            job.due = self.now + outcome.after
        else:
            job.due = self.now + self.policy.delay(job.attempts, chance=1.0)

    def give_back(self, id: int) -> None:
        """An interrupt has cut the job off: it waits again, and no attempt counts."""
        job = self.job(id)
        if job.state == TAKEN:
            job.state = WAITING

    def _end(self, job: MemoryJob, state: str) -> None:
        job.state, job.ended = state, self.now


def _checked(payload: Any, delay: float, priority: int) -> str:
    text = jsonvalue.written(payload)
    if jsonvalue.size(text) > MAX_PAYLOAD:
        raise ValueError("the payload is larger than 1 MiB")
    if not is_delay(delay):
        raise ValueError(f"delay={delay!r}: write seconds, from 0 to ten years")
    if not -100 <= priority <= 100:
        raise ValueError(f"priority={priority!r}: write a whole number from -100 to 100")
    return text
