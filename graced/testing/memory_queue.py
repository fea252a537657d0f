"""A queue in memory, for one worker in a test: which worker gets which job, and what becomes of it.

It is a :class:`graced.Queue`, without a file, a keeper or a second worker. Its clock is its own:
nothing waits for a delay, the clock is put forward.
"""

from __future__ import annotations

import threading
import time

from graced.client.queue import JobDead, JobInfo, Queue
from graced.queue import jsonvalue
from graced.queue.job import Discarded, Done, Job, Outcome, Postponed
from graced.queue.policy import Policy
from graced.queue.protocol import STATES
from graced.queue.terms import Terms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

WAITING, TAKEN, DONE, DEAD = STATES
OPEN = (WAITING, TAKEN)
CANCELLED = '{"reason":"cancelled","cancelled":true}'


class MemoryQueue(Queue):
    """Jobs for the worker of a test; all that :class:`graced.Queue` offers, in memory."""

    def __init__(self, payloads: Iterable[Any] = (), policy: Policy | None = None) -> None:
        self._jobs = _Jobs(policy or Policy())
        super().__init__(self._jobs)
        self.submit_many(payloads)

    def wait(self, number: int, timeout: float | None = None) -> Any:
        """Return the result of a job that has ended. JobDead if it is dead.

        TimeoutError at once if it has not ended: no worker has it while a test waits.
        """
        job = self.job(number)
        if job.state == DEAD:
            raise JobDead(job)
        if job.state != DONE:
            raise TimeoutError(f"job {number} is {job.state}, and no worker runs meanwhile")
        return job.result

    def __len__(self) -> int:
        return len(self._jobs.of(WAITING))

    # -- time

    @property
    def now(self) -> float:
        """What its clock shows, in seconds since the epoch."""
        return self._jobs.now

    def advance(self, seconds: float) -> None:
        """Put its clock forward."""
        self._jobs.now += seconds

    # -- for the worker

    def take(self) -> Job | None:
        """Hand out the job that is next, putting the clock forward if none is due; None: no job."""
        return self._jobs.take()

    def settle(self, id: int, outcome: Outcome) -> None:
        """Put down what has become of a job in hand."""
        self._jobs.settle(id, outcome)

    def tell_progress(self, job: Job, fraction: float | None, text: str) -> None:
        """Put down how far a job in hand is."""
        self._jobs.tell_progress(job, fraction, text)

    def give_back(self, id: int) -> None:
        """If the job is still in hand, an interrupt has cut it off: no attempt counts."""
        self._jobs.give_back(id)


class _Row:
    """A job."""

    def __init__(self, id: int, payload: str, terms: Terms, now: float) -> None:
        self.id = id
        self.payload = payload
        self.terms = terms
        self.state = WAITING
        self.failures = 0
        self.token = 0
        self.submitted = now
        self.due = now + terms.delay
        self.began: float | None = None
        self.ended: float | None = None
        self.result: str | None = None
        self.evidence: str | None = None
        self.cancelling = False
        self.progress: dict[str, Any] | None = None  # as it was last told
        self.tries: list[dict[str, Any]] = []

    def listing(self) -> dict[str, Any]:
        own = ("id", "state", "token", "submitted", "due", "began", "ended", "payload", "result")
        more = ("evidence", "cancelling", "progress", "tries")
        told = {name: getattr(self, name) for name in (*own, *more)}
        told |= {name: getattr(self.terms, name) for name in ("priority", "unique", "schedule")}
        told["scheduled"] = self.terms.scheduled
        told["attempts"] = self.failures + (self.state in (TAKEN, DONE))
        told["max_attempts"] = self.terms.max_attempts or None
        return {**dict.fromkeys(JobInfo.__match_args__), **told}


class _Jobs:
    """All jobs, as :class:`graced.queue.protocol.ClientQueue` has them, and where to find them."""

    shared = True  # there is nothing to be closed

    def __init__(self, policy: Policy) -> None:
        self.now = time.time()
        self._policy = policy
        self._rows: dict[int, _Row] = {}
        self._lock = threading.Lock()  # threads of a worker may submit
        self._last = 0
        self._tokens = 0
        self._paused = False

    def open(self) -> _Jobs:
        return self

    find = view = open

    def close(self) -> None:
        pass

    hang_up = close

    def of(self, state: str) -> list[_Row]:
        return [row for row in list(self._rows.values()) if row.state == state]

    # -- for clients

    def submit(self, payloads: Sequence[str], terms: Terms) -> Sequence[int]:
        with self._lock:
            holder = self._holder(terms.unique)
            if holder is not None:
                return [holder]
            ids = range(self._last + 1, self._last + 1 + len(payloads))
            self._rows |= {
                id: _Row(id, payload, terms, self.now)
                for id, payload in zip(ids, payloads, strict=True)
            }
            self._last += len(payloads)
            return ids

    def _holder(self, key: str | None) -> int | None:
        """Return the open job that has a unique key."""
        for row in list(self._rows.values()):
            if key is not None and row.terms.unique == key and row.state in OPEN:
                return row.id
        return None

    def stream(self, payloads: Iterable[str], terms: Terms) -> list[range]:
        texts = list(payloads)  # none is accepted if one is no JSON value
        ids = self.submit(texts, terms)
        return [range(ids[0], ids[-1] + 1)] if ids else []

    def wait(self, job: int, timeout: float | None = None) -> dict[str, Any]:
        return self.job(job) or {"id": job, "state": "gone"}

    def job(self, id: int) -> dict[str, Any] | None:
        row = self._rows.get(id)
        return None if row is None else row.listing()

    def jobs(self, state: str | None, after: int, limit: int) -> list[dict[str, Any]]:
        rows = [row for row in list(self._rows.values()) if state in (None, row.state)]
        return [row.listing() for row in rows if row.id > after][:limit]

    def counts(self) -> dict[str, Any]:
        return {state: len(self.of(state)) for state in STATES}

    def pause(self, paused: bool) -> None:
        self._paused = paused

    def retry(self, ids: Sequence[int]) -> dict[int, str]:
        return self._each(ids, self._retry)

    def drop(self, ids: Sequence[int]) -> dict[int, str]:
        return self._each(ids, self._drop)

    def cancel(self, ids: Sequence[int]) -> dict[int, str]:
        return self._each(ids, self._cancel)

    def _each(self, ids: Sequence[int], act: Callable[[_Row], str | None]) -> dict[int, str]:
        refused = {}
        for id in ids:
            row = self._rows.get(id)
            why = "no such job" if row is None else act(row)
            if why is not None:
                refused[id] = why
        return refused

    def _retry(self, row: _Row) -> str | None:
        if row.state not in (WAITING, DEAD):
            return f"is {row.state}"
        if row.state == DEAD:
            holder = self._holder(row.terms.unique)
            if holder is not None:
                return f"job {holder} with the same unique key is open"
            row.state, row.failures, row.ended, row.evidence = WAITING, 0, None, None
            row.due = self.now
        row.due = min(row.due, self.now)
        return None

    def _drop(self, row: _Row) -> str | None:
        if row.state == TAKEN:
            return f"is {TAKEN}"
        del self._rows[row.id]
        return None

    def _cancel(self, row: _Row) -> str | None:
        if row.state == DONE:
            return f"is {DONE}"
        row.cancelling = row.state == TAKEN
        if row.state == WAITING:
            self._end(row, DEAD, CANCELLED)
        return None

    # -- for the worker

    def take(self) -> Job | None:
        waiting = self.of(WAITING)
        if not waiting or self._paused:
            return None
        self.now = max(self.now, min(row.due for row in waiting))
        due = [row for row in waiting if row.due <= self.now]
        row = min(due, key=lambda row: (-row.terms.priority, row.due, row.id))
        self._tokens += 1
        row.state, row.token, row.began, row.progress = TAKEN, self._tokens, self.now, None
        return Job(
            row.id,
            jsonvalue.read(row.payload),
            row.failures + 1,
            row.submitted,
            row.token,
            row.terms.scheduled,
        )

    def settle(self, id: int, outcome: Outcome) -> None:
        row = self._rows[id]
        if isinstance(outcome, Done):
            row.result = outcome.result
            self._end(row, DONE, None)
            return
        if row.cancelling:
            self._end_cancelled(row)
            return
        row.failures += 1
        self._note(row, row.failures, outcome.evidence)
        limit = row.terms.max_attempts or self._policy.max_attempts
        if isinstance(outcome, Discarded) or row.failures >= limit:
            self._end(row, DEAD, outcome.evidence)
        else:
            row.state, row.evidence = WAITING, outcome.evidence
            usual = self._policy.delay(row.failures, chance=1.0)
            row.due = self.now + (outcome.after if isinstance(outcome, Postponed) else usual)

    def tell_progress(self, job: Job, fraction: float | None, text: str) -> None:
        row = self._rows.get(job.id)
        if row is not None and row.state == TAKEN and row.token == job.token:
            row.progress = {"fraction": fraction, "text": text}

    def give_back(self, id: int) -> None:
        row = self._rows.get(id)
        if row is None or row.state != TAKEN:
            return
        if row.cancelling:
            self._end_cancelled(row)
        else:
            row.state = WAITING

    def _end_cancelled(self, row: _Row) -> None:
        self._note(row, row.failures + 1, CANCELLED, counts=False)
        self._end(row, DEAD, CANCELLED)

    def _note(self, row: _Row, attempt: int, evidence: str, *, counts: bool = True) -> None:
        row.tries.append(
            {
                "attempt": attempt,
                "token": row.token,
                "began": row.began,
                "ended": self.now,
                "owner": None,
                "counts": counts,
                "evidence": evidence,
            }
        )

    def _end(self, row: _Row, state: str, evidence: str | None) -> None:
        row.state, row.ended, row.evidence, row.cancelling = state, self.now, evidence, False
