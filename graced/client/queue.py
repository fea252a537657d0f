"""A pool's queue in an application's hands: :class:`Queue`, and what it says of jobs.

Anything may import it, a web application say: it brings no daemon, forks nothing, and reads
YAML only if a configuration is named. Where the queue is, is found in :mod:`.find`.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Sequence
from itertools import chain

from graced.client.daemon import Where, control_of
from graced.client.find import (
    POLL_INTERVAL_S,
    ConfiguredPlace,
    Manner,
    QueueNotFound,
    URLPlace,
)
from graced.exitcodes import CONFIG
from graced.queue import jsonvalue
from graced.queue.job import BIGGEST, MAX_PAYLOAD
from graced.queue.protocol import (
    NO_SUCH_JOB,
    STATES,
    AnswerLost,
    QueueError,
    QueueGone,
    ServerGone,
)
from graced.queue.terms import Terms
from graced.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any, Self, TypeVar

    from graced.client.find import Place
    from graced.queue.protocol import ClientQueue, QueueView

    T = TypeVar("T")
    E = TypeVar("E", bound="QueueView")

PATIENCE = 60.0  # seconds for a keeper's answer, and for one that is being started
LOOK_S = 0.5  # seconds between two looks at a file that no daemon works off
PAGE = 500  # jobs asked for at once
ENDED = ("done", "dead")


class JobDead(Exception):
    """The job that was waited for is dead: it has failed for good, or was cancelled.

    ``evidence`` says why, its ``"reason"`` in one line; ``job`` is all that is known of it.
    """

    def __init__(self, job: JobInfo) -> None:
        self.job = job
        self.evidence: Mapping[str, Any] = job.evidence or {}
        reason = self.evidence.get("reason", "no reason was recorded")
        tries = f"{job.attempts} attempt{'s' if job.attempts != 1 else ''}"
        super().__init__(f"job {job.id} is dead after {tries}: {reason}")

    def __reduce__(self) -> tuple[Any, ...]:  # from one process to another
        return JobDead, (self.job,)


class JobInfo(Record):
    """What is known of a job. Moments are seconds since the epoch, as of time.time()."""

    id: int
    state: str  # waiting, taken, done, dead
    attempts: int  # those that count, the one in hand too
    max_attempts: int | None  # None: the pool's
    priority: int
    unique: str | None  # its key
    submitted: float
    due: float  # not before
    ended: float | None
    payload: Any
    result: Any  # what handle() returned
    evidence: Mapping[str, Any] | None  # of the last attempt that failed
    token: int  # of its last hand-out
    owner: str | None  # the worker that has it in hand, by its name in the queue
    cancelling: bool  # it is dead as soon as its worker is interrupted
    began: float | None  # its last hand-out
    schedule: str | None  # by its name, if one has made it,
    scheduled: float | None  #   and the instant that it stands for
    progress: Mapping[str, Any] | None = None  # of one in hand: `fraction` and `text`
    tries: Sequence[Mapping[str, Any]] = ()  # its attempts one by one: of job(), not of jobs()


class NoSuchJob(QueueError, LookupError):
    """There is no job of this number, or none any more: dropped, or kept no longer."""

    def __init__(self, number: int) -> None:
        self._number = number
        super().__init__(f"there is no job {number}: never was, was dropped, or is kept no longer")

    def __reduce__(self) -> tuple[Any, ...]:
        return NoSuchJob, (self._number,)


class Queue:
    """A pool's queue: to submit jobs, wait for them, and look after them.

    With a daemon everything goes through its queue's keeper, for users who may reach that;
    without one, through the file, for users who may write it. Threads may share it, and a
    process that was forked may use it on: each has a connection of its own. A keeper or a
    daemon that is started again is waited for, and what can be repeated is.

    All methods raise :class:`graced.QueueError` if it can't be done: the text says why, and
    what to do.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._own = _Own()
        self._all: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self.closed = False

    @classmethod
    def open(cls, source: str | os.PathLike[str] | None = None, *, pool: str | None = None) -> Self:
        """Return a pool's queue. ``pool`` may be left out where only one has a queue.

        ``source`` is the path of a configuration, None for the one that commands would find
        (``$GRACED_SOCKET``, ``$GRACED_CONFIG``, ``./config.yaml``, ``/etc/graced/config.yaml``),
        a queue's URL, or the path of a daemon's ``control.sock`` for users who can't read its
        configuration. Nothing is connected before it is needed.
        """
        manner = Manner(patience=PATIENCE)
        path = None if source is None else os.fspath(source)
        if path is not None and "://" in path:
            return cls(URLPlace(path, pool, manner))
        full = None if path is None else os.path.abspath(path)
        is_socket = full is not None and full.endswith(".sock")
        where = Where(socket=full, pool=pool) if is_socket else Where(full, pool=pool)
        return cls(ConfiguredPlace(where, lambda: _control(where), manner))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up the connections of all threads; those that wait get a QueueError."""
        self.closed = True
        for connection in list(self._all):
            connection.hang_up()
        if self._own.connection is not None:  # others close theirs: they may be in the middle
            self._leave(self._own.connection.end)

    # -- new jobs

    def submit(
        self,
        payload: Any,
        *,
        delay: float = 0.0,
        priority: int = 0,
        unique: str | None = None,
        max_attempts: int | None = None,
    ) -> int:
        """Submit a job and return its number: it is on the disk by then.

        ``payload`` is any JSON value up to 1 MiB. The job is due in ``delay`` seconds; among due
        ones the higher ``priority`` goes first, -100 to 100. While a job with the same ``unique``
        key, up to 200 bytes, waits or is in hand no second one is made, and its number is
        returned. It is dead after ``max_attempts``, else the pool's. TypeError or ValueError for
        what cannot be; AnswerLost, a QueueError, where it is not known whether it was accepted.
        """
        texts = [_text(payload)]
        terms = _terms(delay, priority, max_attempts, unique)
        ids: Sequence[int] = self._do(
            self._place.open,
            lambda end: end.submit(texts, terms),
            lambda error: not isinstance(error, AnswerLost),
        )
        return ids[0]

    def submit_many(
        self,
        payloads: Iterable[Any],
        *,
        delay: float = 0.0,
        priority: int = 0,
        max_attempts: int | None = None,
    ) -> Sequence[int]:
        """Submit any number of jobs, all or none, in bounded memory; return their numbers.

        What ``payloads`` raises is passed on, and nothing is submitted. Else as :meth:`submit`.
        """
        texts = _Texts(payloads)
        terms = _terms(delay, priority, max_attempts)
        ranges = self._do(
            self._place.open,
            lambda end: self._streamed(end, texts, terms),
            lambda _error: not texts.begun,
        )
        return Numbers(ranges)

    def _streamed(self, end: ClientQueue, texts: _Texts, terms: Terms) -> list[range]:
        """Stream payloads. A file has no other end meanwhile: what they ask of it goes by this."""
        own = self._own
        before = own.file
        own.file = None if end.shared else (end, os.getpid())
        try:
            return end.stream(texts, terms)
        finally:
            own.file = before

    # -- what becomes of them

    def wait(self, number: int, timeout: float | None = None) -> Any:
        """Wait for a job's end, and return what ``handle`` has returned.

        JobDead if it is dead; TimeoutError after ``timeout`` seconds; NoSuchJob if it is not
        there, or not any more. Where no daemon runs, one is waited for: until the time is
        over, else for a minute.
        """
        number = _number(number)
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            found = self._ended(number, deadline)
        except TimeoutError:
            text = f"job {number} has not ended within {timeout:g} s"
            raise TimeoutError(text) from None
        job = _info(found)
        if job.state == "dead":
            raise JobDead(job)
        return job.result

    def _ended(self, number: int, deadline: float | None) -> dict[str, Any]:
        """Return a job's listing once it is done or dead, over restarts of keeper and daemon."""
        patience = time.monotonic() + PATIENCE
        while True:
            try:
                found = self._do(self._place.view, lambda end: end.wait(number, _left(deadline)))
            except TimeoutError:  # or its answer was not there yet
                found = self._last_look(number)
            except ServerGone:  # it comes back, and knows what has become of the job
                found = {"state": "unknown"}
            if found["state"] == "gone":
                raise NoSuchJob(number)
            if found["state"] in ENDED:
                return found
            # So says its file, for no daemon runs now; or its server can't be reached.
            if deadline is None and time.monotonic() >= patience:
                raise QueueGone(f"no daemon runs; job {number} stays in the queue")
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError
            time.sleep(min(LOOK_S, LOOK_S if deadline is None else _left(deadline) or 0))

    def _last_look(self, number: int) -> dict[str, Any]:
        try:
            found = self._listing(number)
        except QueueError:  # members of submit_group may wait, and not look
            raise TimeoutError from None
        return found or {"state": "gone"}

    def job(self, number: int) -> JobInfo:
        """Return what is known of a job. NoSuchJob, a QueueError, if there is none."""
        found = self._listing(_number(number))
        if found is None:
            raise NoSuchJob(number)
        return _info(found)

    def _listing(self, number: int) -> dict[str, Any] | None:
        return self._do(self._place.view, lambda end: end.job(number))

    def jobs(
        self, state: str | None = None, *, after: int = 0, limit: int | None = None
    ) -> list[JobInfo]:
        """Return jobs in the order of their numbers: all, or those in a state.

        For pages of a long queue: at most ``limit`` of them, with numbers above ``after``.
        ValueError for a state that there is not.
        """
        if state is not None and state not in STATES:
            raise ValueError(f"there is no state {state!r}, only {', '.join(STATES)}")
        found: list[JobInfo] = []
        while limit is None or len(found) < limit:
            most = PAGE if limit is None else min(PAGE, limit - len(found))
            page = self._page(state, after, most)
            if not page:
                break
            found += map(_info, page)
            after = found[-1].id
        return found

    def _page(self, state: str | None, after: int, limit: int) -> list[dict[str, Any]]:
        return self._do(self._place.view, lambda end: end.jobs(state, after, limit))

    def counts(self) -> dict[str, Any]:
        """Return how many jobs are waiting, taken, done and dead."""
        return self._do(self._place.find, lambda end: end.counts())

    def retry(self, number: int) -> None:
        """Make a job due now, a dead one with all its attempts.

        QueueError if it is being worked on, or done; NoSuchJob if it is not there.
        """
        self._change(number, lambda end, ids: end.retry(ids), _is_not_dead)

    def cancel(self, number: int) -> None:
        """Have a job dead: at once if it waits, once its worker is interrupted if it is in hand.

        Its evidence is the reason ``cancelled``; no attempt counts. QueueError if it is done;
        NoSuchJob if it is not there.
        """
        self._change(number, lambda end, ids: end.cancel(ids), _is_cancelled)

    def drop(self, number: int) -> None:
        """Forget a job. QueueError if it is being worked on; NoSuchJob if it is not there."""
        self._change(number, lambda end, ids: end.drop(ids), lambda job: job is None)

    def _change(
        self,
        number: int,
        act: Callable[[ClientQueue, list[int]], dict[int, str]],
        is_so: Callable[[dict[str, Any] | None], bool],
    ) -> None:
        """Change a job; once more where the answer was lost, unless it is so already."""
        number = _number(number)
        lost: list[AnswerLost] = []

        def again(error: QueueGone) -> bool:
            if isinstance(error, AnswerLost):
                lost.append(error)
            return True

        refused = self._do(self._place.find, lambda end: act(end, [number]), again)
        if number in refused and not (lost and is_so(self._listing(number))):
            if refused[number] == NO_SUCH_JOB:
                raise NoSuchJob(number)
            raise QueueError(f"job {number}: {refused[number]}")

    # -- connections

    def _do(
        self,
        find: Callable[[], E | None],
        act: Callable[[E], T],
        may_repeat: Callable[[QueueGone], bool] = lambda _error: True,
    ) -> T:
        """Ask something of the queue, again if its keeper goes away and that is safe."""
        patience = time.monotonic() + PATIENCE
        while True:
            end: E = self._connected() or self._found(find)  # type: ignore[assignment]  # a ClientEnd is all
            try:
                return self._asked(end, act)
            except QueueGone as error:
                self._leave(end)
                if not may_repeat(error) or time.monotonic() >= patience or self.closed:
                    raise
            except QueueError:  # refused: the connection is as good as before
                raise
            except BaseException:  # the answer to this may still come: no other would be ours
                self._leave(end)
                raise
            finally:
                if not end.shared and end is not self._file():
                    end.close()
            time.sleep(POLL_INTERVAL_S)

    def _asked(self, end: E, act: Callable[[E], T]) -> T:
        """Ask something. A signal's handler, or what yields payloads, may ask meanwhile: by another
        connection, for the answers of this one would be taken for its own.
        """
        used, self._own.connection = self._own.connection, None
        try:
            return act(end)
        finally:
            self._own.connection = used

    def _file(self) -> ClientQueue | None:
        """Return the file's end that this thread has open, while it reads payloads for it."""
        end, pid = self._own.file or (None, 0)
        return end if pid == os.getpid() else None

    def _connected(self) -> ClientQueue | None:
        """Return this thread's connection, if it has one and is not the parent's."""
        if self.closed:
            raise QueueError("this Queue is closed; open another one")
        own = self._own.connection
        return own.end if own is not None and own.pid == os.getpid() else self._file()

    def _found(self, find: Callable[[], E | None]) -> E | _NoQueue:
        end = find()
        if end is None:
            return _NoQueue()
        if end.shared:
            self._own.connection = _Connection(end)  # type: ignore[arg-type]
            self._all.add(self._own.connection)
        return end

    def _leave(self, end: object) -> None:
        own = self._own.connection
        if own is not None and own.end is end:
            own.close()
            self._own.connection = None


class Numbers(Sequence[int]):
    """The numbers of jobs that were submitted together: ascending, and kept as ranges."""

    def __init__(self, ranges: Iterable[range]) -> None:
        self._ranges: list[range] = []
        for numbers in ranges:
            self._add(numbers)

    def _add(self, numbers: range) -> None:
        if self._ranges and self._ranges[-1].stop == numbers.start:
            numbers = range(self._ranges.pop().start, numbers.stop)
        self._ranges.append(numbers)

    def __len__(self) -> int:
        return sum(map(len, self._ranges))

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(self._ranges)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return list(self)[index]
        at = index + len(self) if index < 0 else index
        for numbers in self._ranges:
            if 0 <= at < len(numbers):
                return numbers[at]
            at -= len(numbers)
        raise IndexError(index)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as that of a list

    def __repr__(self) -> str:
        shown = ", ".join(f"{n.start}…{n.stop - 1}" for n in self._ranges[:5])
        return f"<{len(self)} jobs: {shown}{', …' if len(self._ranges) > 5 else ''}>"


class _Own(threading.local):
    """What each thread has of its own."""

    connection: _Connection | None = None
    file: tuple[ClientQueue, int] | None = None  # and the process that has opened it


class _Connection:
    """One thread's connection; it ends with its thread."""

    def __init__(self, end: ClientQueue) -> None:
        self.end = end
        self.pid = os.getpid()  # a forked child's copy is its parent's

    def hang_up(self) -> None:
        """End it, from any thread: one that sleeps on it wakes up."""
        if self.pid == os.getpid():
            self.end.hang_up()

    def close(self) -> None:
        self.hang_up()
        self.end.close()

    __del__ = close


class _NoQueue:
    """What there is where no keeper is, and nothing was ever submitted."""

    shared = True  # there is nothing to be closed

    def wait(self, job: int, _timeout: float | None = None) -> dict[str, Any]:
        return {"id": job, "state": "gone"}

    def jobs(self, *_page: object) -> list[dict[str, Any]]:
        return []

    def counts(self) -> dict[str, Any]:
        return dict.fromkeys(STATES, 0)

    def retry(self, ids: Sequence[int]) -> dict[int, str]:
        return dict.fromkeys(ids, NO_SUCH_JOB)

    drop = cancel = retry

    def job(self, id: int) -> None:
        return None


class _Texts:
    """Payloads as JSON texts, read one by one."""

    def __init__(self, payloads: Iterable[Any]) -> None:
        self._payloads = payloads
        self.begun = False

    def __iter__(self) -> Iterator[str]:
        self.begun = True
        return map(_text, self._payloads)


# What is handed in and out


def _control(where: Where) -> str:
    from graced.config.identity import UnknownDaemonError

    try:
        return control_of(where)
    except UnknownDaemonError as error:
        text = f"{error}; or open the path of the daemon's control.sock"
        raise QueueNotFound(text, CONFIG) from None


def _is_not_dead(job: dict[str, Any] | None) -> bool:
    return job is not None and job["state"] != "dead"


def _is_cancelled(job: dict[str, Any] | None) -> bool:
    return job is not None and (job["state"] == "dead" or job["cancelling"])


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)


def _text(payload: Any) -> str:
    try:
        text = jsonvalue.written(payload)
    except (TypeError, ValueError) as error:
        raise type(error)(f"the payload is no JSON value: {error}") from None
    if jsonvalue.size(text) > MAX_PAYLOAD:
        raise ValueError(f"the payload is more than {MAX_PAYLOAD} bytes of JSON")
    return text


def _number(number: int) -> int:
    if type(number) is not int:
        raise TypeError(f"a job's number is an int, not {type(number).__name__}")
    if number < 0:
        raise ValueError(f"a job's number is not negative: {number}")
    if number > BIGGEST:
        raise NoSuchJob(number)
    return number


def _terms(
    delay: Any, priority: int, max_attempts: int | None, unique: str | None = None
) -> Terms:
    if type(priority) is not int:
        raise TypeError(f"priority={priority!r}: write a whole number")
    if max_attempts is not None and type(max_attempts) is not int:
        raise TypeError(f"max_attempts={max_attempts!r}: write a whole number")
    if unique is not None and type(unique) is not str:
        raise TypeError(f"unique={unique!r}: write a text")
    if isinstance(delay, str):
        raise TypeError(f"delay={delay!r}: write a number of seconds")
    if max_attempts is not None and max_attempts < 1:
        raise ValueError(f"max_attempts={max_attempts!r}: write 1 or more")
    terms = Terms(delay, max_attempts or 0, priority, unique)
    problem = terms.problem()
    if problem is not None:
        raise ValueError(problem)
    return terms.replace(delay=float(delay))


def _info(job: dict[str, Any]) -> JobInfo:
    known = {name: job[name] for name in JobInfo.__match_args__ if name in job}
    value = jsonvalue.read_or_text
    known |= {name: value(job[name]) for name in ("payload", "result", "evidence")}
    tries = [{**each, "evidence": value(each["evidence"])} for each in job.get("tries", ())]
    return JobInfo(**{**known, "tries": tries})
