"""The keeper's counter: where clients submit jobs, wait for them, list, retry and drop them.

What is asked is answered after the commit that makes it true. Workers are served by
:mod:`graced.jobs.service`; what a job may become is decided in :mod:`graced.jobs.ledger`.
"""

from __future__ import annotations

from graced.jobs import requests, wire
from graced.jobs.queue import QueueError
from graced.jobs.row import DEAD, DONE, NAMES
from graced.jobs.trouble import Trouble
from graced.jobs.wire import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.host.log import Log
    from graced.jobs.book import Book
    from graced.jobs.ledger import Ledger
    from graced.jobs.visitors import Visitor, Visitors

    Handler = Callable[[Ledger, Visitor, bytes], None]


class Counter:
    """What clients have asked for and have not been told yet."""

    def __init__(self, book: Book, visitors: Visitors, log: Log) -> None:
        self._book = book
        self._visitors = visitors
        self._log = log
        self._replies: list[tuple[Visitor, int, bytes, bool]] = []  # after the commit; for new jobs
        self._questions: list[Callable[[], None]] = []  # answered from the file, after the commit
        self._waiters: dict[int, list[Visitor]] = {}
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

    def ask(self, question: Callable[[], None]) -> None:
        """Have something answered after the next commit."""
        self._questions.append(question)

    def answer(self) -> None:
        """Answer what has been asked about what is in the file now."""
        questions, self._questions = self._questions, []
        for question in questions:
            question()

    def committed(self, ledger: Ledger) -> None:
        """It is written: say so, and tell those who wait for the jobs that have ended."""
        replies, self._replies = self._replies, []
        for visitor, kind, body, _new in replies:
            self._visitors.send(visitor, kind, body)
        for id, state in ledger.ended():
            if state == DEAD:
                self._log.warning("job %s is dead; `graced jobs --state dead` tells why", id)
            for visitor in self._waiters.pop(id, ()):
                self.ask(lambda v=visitor, i=id: self._tell_end(v, i))  # type: ignore[misc]

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
        for waiting in self._waiters.values():
            if visitor in waiting:
                waiting.remove(visitor)

    # -- new jobs

    def _submit(self, ledger: Ledger, visitor: Visitor, body: bytes) -> None:
        payloads, delay, max_attempts = requests.parcel(body)

        def accept() -> tuple[int, bytes]:
            first, count = ledger.submit(payloads, delay, max_attempts, self._book.clock.now())
            return Kind.SUBMITTED, wire.encode({"first": first, "count": count})

        self._new_jobs(visitor, accept)

    def _open_stream(self, ledger: Ledger, visitor: Visitor, _body: bytes) -> None:
        self._end_stream(visitor)

        def accept() -> tuple[int, bytes]:
            visitor.stream = ledger.open_stream()
            return Kind.TAKEN_IN, b""

        self._new_jobs(visitor, accept)

    def _chunk(self, ledger: Ledger, visitor: Visitor, body: bytes) -> None:
        payloads, _delay, max_attempts = requests.parcel(body)
        stream = visitor.stream
        if stream is None:
            self._visitors.send(visitor, Kind.REFUSED, b"the stream was refused")
            return

        def accept() -> tuple[int, bytes]:
            ledger.stage(stream, payloads, max_attempts, self._book.clock.now())
            return Kind.TAKEN_IN, b""

        self._new_jobs(visitor, accept)

    def _seal(self, ledger: Ledger, visitor: Visitor, body: bytes) -> None:
        _payloads, delay, _max_attempts = requests.parcel(body)
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
        id = requests.job_id(body)
        self.ask(lambda: self._wait_for(visitor, id))

    def _wait_for(self, visitor: Visitor, id: int) -> None:
        found = self._book.listing(id)
        if found is None or found["state"] in (NAMES[DONE], NAMES[DEAD]):
            self._tell_end(visitor, id)
        else:
            self._waiters.setdefault(id, []).append(visitor)

    def _tell_end(self, visitor: Visitor, id: int) -> None:
        found = self._book.listing(id) or {"id": id, "state": "gone"}
        self._visitors.send(visitor, Kind.ANSWER, wire.encode(found))

    def _list(self, _ledger: Ledger, visitor: Visitor, body: bytes) -> None:
        states, after, limit = requests.page(body)
        self.ask(lambda: self._tell_page(visitor, states, after, limit))

    def _tell_page(self, visitor: Visitor, states: tuple[int, ...], after: int, limit: int) -> None:
        try:
            page = self._book.page(states, after, limit)
        except Trouble as trouble:
            self._visitors.send(visitor, Kind.REFUSED, str(trouble).encode())
            return
        self._visitors.send(visitor, Kind.ANSWER, wire.encode(page))

    def _retry(self, ledger: Ledger, visitor: Visitor, body: bytes) -> None:
        self._change(visitor, body, lambda ids: ledger.retry(ids, self._book.clock.now()))

    def _drop(self, ledger: Ledger, visitor: Visitor, body: bytes) -> None:
        self._change(visitor, body, ledger.drop)

    def _change(
        self, visitor: Visitor, body: bytes, act: Callable[[list[int]], dict[int, str]]
    ) -> None:
        ids = requests.job_ids(body)
        try:
            refused = act(ids)
        except Trouble as trouble:
            self._visitors.send(visitor, Kind.REFUSED, str(trouble).encode())
            return
        answer = wire.encode({str(id): why for id, why in refused.items()})
        self._replies.append((visitor, Kind.ANSWER, answer, False))

    def _counts(self, _ledger: Ledger, visitor: Visitor, _body: bytes) -> None:
        self.ask(
            lambda: self._visitors.send(visitor, Kind.ANSWER, wire.encode(self._book.counts()))
        )
