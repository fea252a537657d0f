"""The keeper's counter: where clients submit jobs, wait for them, list, retry and drop them.

What is asked is answered after the commit that makes it true. Workers are served by
:mod:`.server`; what a job may become is decided in :mod:`.dispatcher`.
"""

from __future__ import annotations

import time
from collections import deque
from itertools import islice

from graced.queue import messages, wire
from graced.queue.protocol import QueueError
from graced.queue.sqlite.errors import Trouble
from graced.queue.sqlite.rows import DEAD, DONE, NAMES
from graced.queue.wire import Kind, Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.log.logger import Log
    from graced.queue.connections import Visitor, Visitors
    from graced.queue.sqlite.dispatcher import Ledger
    from graced.queue.sqlite.storage import Book

    Handler = Callable[[Ledger, Visitor, bytes], None]

MOMENT = 0.05  # seconds of answers before the others get their turn
STEP = 200  # jobs retried or dropped before they get it
MOST_QUESTIONS = 64  # of one client, before it has got an answer
MOST_WAITS = 1000  # jobs that one client waits for


class Counter:
    """What clients have asked for and have not been told yet."""

    def __init__(self, book: Book, visitors: Visitors, log: Log) -> None:
        self._book = book
        self._visitors = visitors
        self._log = log
        self._replies: list[tuple[Visitor, int, bytes, bool]] = []  # after the commit; for new jobs
        # Answered from the file, after the commit: who asks, and what is done for it.
        self._questions: deque[tuple[Visitor | None, Callable[[], None]]] = deque()
        self._changes: deque[_Change] = deque()
        self._waiters: dict[int, set[Visitor]] = {}
        self.handlers: dict[int, Handler] = {
            Kind.SUBMIT: self._submit,
            Kind.STREAM: self._open_stream,
            Kind.CHUNK: self._chunk,
            Kind.STREAM_END: self._seal,
            Kind.WAIT: self._wait,
            Kind.LIST: self._list,
            Kind.RETRY: self._retry,
            Kind.DROP: self._drop,
            Kind.COUNTS: self._counts,
        }

    # -- what has become of it

    def ask(self, question: Callable[[], None], visitor: Visitor | None = None) -> None:
        """Have something answered after the next commit."""
        if visitor is not None:
            visitor.questions += 1
        self._questions.append((visitor, question))

    def _be_asked(self, visitor: Visitor, question: Callable[[], None]) -> None:
        """Have something answered to a client that leaves some time to the others."""
        if visitor.questions >= MOST_QUESTIONS:
            raise Protocol(f"{MOST_QUESTIONS} questions at once; wait for an answer")
        self.ask(question, visitor)

    @property
    def is_busy(self) -> bool:
        """Whether something has been asked for that only takes time."""
        return bool(self._questions) or (bool(self._changes) and not self._book.rests)

    def answer(self) -> None:
        """Answer what has been asked about what is in the file now, for a moment."""
        end = time.monotonic() + MOMENT
        while self._questions and time.monotonic() < end:
            visitor, question = self._questions.popleft()
            if visitor is not None:
                visitor.questions -= 1
            if visitor is None or self._visitors.is_here(visitor):
                question()

    def change(self, ledger: Ledger) -> None:
        """Retry or drop some of the jobs that this was asked for."""
        if not self._changes or self._book.rests:
            return
        change = self._changes.popleft()
        visitor = change.visitor
        if not self._visitors.is_here(visitor):
            return
        ids = list(islice(change.ids, STEP))
        act = ledger.drop if change.drop else self._retry_in(ledger)
        try:
            change.refused |= act(ids)
        except Trouble as trouble:
            self._visitors.send(visitor, Kind.REFUSED, str(trouble).encode())
            return
        if len(ids) == STEP:
            self._changes.append(change)
            return
        answer = wire.encode({str(id): why for id, why in change.refused.items()})
        self._replies.append((visitor, Kind.ANSWER, answer, False))

    def _retry_in(self, ledger: Ledger) -> Callable[[list[int]], dict[int, str]]:
        return lambda ids: ledger.retry(ids, self._book.clock.now())

    def committed(self, ledger: Ledger) -> None:
        """It is written: say so, and tell those who wait for the jobs that have ended."""
        replies, self._replies = self._replies, []
        for visitor, kind, body, _new in replies:
            self._visitors.send(visitor, kind, body)
        for id, state in ledger.ended():
            if state == DEAD:
                self._log.warning("job %s is dead; `graced jobs --state dead` tells why", id)
            for visitor in self._waiters.pop(id, ()):
                visitor.waits.discard(id)
                self.ask(lambda v=visitor, i=id: self._tell_end(v, i), visitor)  # type: ignore[misc]

    def refuse_new(self, why: str) -> None:
        """New jobs could not be written."""
        replies, self._replies = self._replies, []
        for visitor, kind, body, new in replies:
            if new:
                self._refuse(visitor, why)
            else:
                self._replies.append((visitor, kind, body, new))

    def left(self, visitor: Visitor) -> None:
        """Somebody's connection is gone."""
        self._end_stream(visitor)
        for id in visitor.waits:
            waiting = self._waiters.get(id, set())
            waiting.discard(visitor)
            if not waiting:
                self._waiters.pop(id, None)

    # -- new jobs

    def _submit(self, ledger: Ledger, visitor: Visitor, body: bytes) -> None:
        payloads, delay, max_attempts = messages.parcel(body)

        def accept() -> tuple[int, bytes]:
            first, count = ledger.submit(payloads, delay, max_attempts, self._book.clock.now())
            if visitor.submits_only:
                visitor.submitted = [
                    *visitor.submitted[1 - MOST_WAITS :],
                    range(first, first + count),
                ]
            return Kind.SUBMITTED, wire.encode({"first": first, "count": count})

        self._new_jobs(visitor, accept)

    def _open_stream(self, ledger: Ledger, visitor: Visitor, _body: bytes) -> None:
        self._end_stream(visitor)

        def accept() -> tuple[int, bytes]:
            visitor.stream = ledger.open_stream()
            return Kind.TAKEN_IN, b""

        self._new_jobs(visitor, accept)

    def _chunk(self, ledger: Ledger, visitor: Visitor, body: bytes) -> None:
        payloads, _delay, max_attempts = messages.parcel(body)
        stream = visitor.stream
        if stream is None:
            self._visitors.send(visitor, Kind.REFUSED, b"the stream was refused")
            return

        def accept() -> tuple[int, bytes]:
            ledger.stage(stream, payloads, max_attempts, self._book.clock.now())
            return Kind.TAKEN_IN, b""

        self._new_jobs(visitor, accept)

    def _seal(self, ledger: Ledger, visitor: Visitor, body: bytes) -> None:
        _payloads, delay, _max_attempts = messages.parcel(body)
        stream, visitor.stream = visitor.stream, None
        if stream is None:
            self._visitors.send(visitor, Kind.REFUSED, b"the stream was refused")
            return

        def accept() -> tuple[int, bytes]:
            count = ledger.seal(stream, delay, self._book.clock.now())
            return Kind.SUBMITTED, wire.encode({"first": None, "count": count})

        self._new_jobs(visitor, accept)

    def _new_jobs(self, visitor: Visitor, accept: Callable[[], tuple[int, bytes]]) -> None:
        """Take in new jobs, or say why not."""
        if self._book.trouble is not None:
            self._refuse(visitor, self._book.trouble)
            return
        try:
            kind, body = accept()
        except QueueError as error:
            self._refuse(visitor, str(error))
            return
        self._replies.append((visitor, kind, body, True))

    def _refuse(self, visitor: Visitor, why: str) -> None:
        self._end_stream(visitor)
        self._visitors.send(visitor, Kind.REFUSED, why.encode())

    def _end_stream(self, visitor: Visitor) -> None:
        if visitor.stream is not None and self._book.ledger is not None:
            self._book.ledger.scrap(visitor.stream)
        visitor.stream = None

    # -- those there are

    def _wait(self, _ledger: Ledger, visitor: Visitor, body: bytes) -> None:
        id = messages.job_id(body)
        if visitor.submits_only and not any(id in jobs for jobs in visitor.submitted):
            raise Protocol("you may wait for a job on the connection that has submitted it")
        if len(visitor.waits) >= MOST_WAITS:
            raise Protocol(f"who waits for {MOST_WAITS} jobs waits for no other")
        self._be_asked(visitor, lambda: self._wait_for(visitor, id))

    def _wait_for(self, visitor: Visitor, id: int) -> None:
        found = self._book.listing(id)
        if found is None or found["state"] in (NAMES[DONE], NAMES[DEAD]):
            self._tell_end(visitor, id)
        else:
            visitor.waits.add(id)
            self._waiters.setdefault(id, set()).add(visitor)

    def _tell_end(self, visitor: Visitor, id: int) -> None:
        found = self._book.listing(id) or {"id": id, "state": "gone"}
        self._visitors.send(visitor, Kind.ANSWER, wire.encode(found))

    def _list(self, _ledger: Ledger, visitor: Visitor, body: bytes) -> None:
        states, after, limit = messages.page(body)
        self._be_asked(visitor, lambda: self._tell_page(visitor, states, after, limit))

    def _tell_page(self, visitor: Visitor, states: tuple[int, ...], after: int, limit: int) -> None:
        try:
            page = self._book.page(states, after, limit)
        except Trouble as trouble:
            self._visitors.send(visitor, Kind.REFUSED, str(trouble).encode())
            return
        self._visitors.send(visitor, Kind.ANSWER, wire.encode(page))

    def _retry(self, _ledger: Ledger, visitor: Visitor, body: bytes) -> None:
        self._change(visitor, messages.job_ids(body), drop=False)

    def _drop(self, _ledger: Ledger, visitor: Visitor, body: bytes) -> None:
        self._change(visitor, messages.job_ids(body), drop=True)

    def _change(self, visitor: Visitor, ids: list[int], *, drop: bool) -> None:
        if any(change.visitor is visitor for change in self._changes):
            raise Protocol("one list of jobs to retry or to drop at a time; wait for an answer")
        self._changes.append(_Change(visitor, ids, drop=drop))

    def _counts(self, _ledger: Ledger, visitor: Visitor, _body: bytes) -> None:
        self._be_asked(
            visitor,
            lambda: self._visitors.send(visitor, Kind.ANSWER, wire.encode(self._book.counts())),
        )


class _Change:
    """Jobs that a client wants retried or dropped, those that are left of them."""

    def __init__(self, visitor: Visitor, ids: list[int], *, drop: bool) -> None:
        self.visitor = visitor
        self.ids = iter(ids)
        self.drop = drop
        self.refused: dict[int, str] = {}
