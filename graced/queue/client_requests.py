"""What clients ask of a keeper: to submit jobs, wait for them, list, retry and drop them.

What is asked is answered after the commit that makes it true. Workers are served by
:mod:`.server`; what a job may become is decided in :mod:`.dispatcher`.
"""

from __future__ import annotations

import time
from collections import deque
from itertools import islice

from graced import program
from graced.queue import messages, wire
from graced.queue.protocol import QueueError, StorageError
from graced.queue.wire import Kind, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from graced.log.logger import Log
    from graced.queue.connections import Connection, Connections
    from graced.queue.protocol import Dispatcher, Storage

    Handler = Callable[[Dispatcher, Connection, bytes], None]

MOMENT = 0.05  # seconds of answers before the others get their turn
STEP = 200  # jobs retried or dropped before they get it
MOST_QUESTIONS = 64  # of one client, before it has got an answer
MOST_WAITS = 1000  # jobs that one client waits for


class ClientRequests:
    """What clients have asked for and have not been told yet."""

    def __init__(self, storage: Storage, connections: Connections, log: Log) -> None:
        self._storage = storage
        self._connections = connections
        self._log = log
        self._replies: list[
            tuple[Connection, int, bytes, bool]
        ] = []  # after the commit; for new jobs
        # Answered from the file, after the commit: who asks, and what is done for it.
        self._questions: deque[tuple[Connection | None, Callable[[], None]]] = deque()
        self._changes: deque[_Change] = deque()
        self._waiters: dict[int, set[Connection]] = {}
        self.handlers: dict[int, Handler] = {
            Kind.SUBMIT: self._submit,
            Kind.STREAM: self._open_stream,
            Kind.CHUNK: self._chunk,
            Kind.STREAM_END: self._commit_stream,
            Kind.WAIT: self._wait,
            Kind.LIST: self._list,
            Kind.RETRY: self._retry,
            Kind.DROP: self._drop,
            Kind.COUNTS: self._counts,
        }

    # -- what has become of it

    def ask(self, question: Callable[[], None], connection: Connection | None = None) -> None:
        """Have something answered after the next commit."""
        if connection is not None:
            connection.questions += 1
        self._questions.append((connection, question))

    def _be_asked(self, connection: Connection, question: Callable[[], None]) -> None:
        """Have something answered to a client that leaves some time to the others."""
        if connection.questions >= MOST_QUESTIONS:
            raise ProtocolError(f"{MOST_QUESTIONS} questions at once; wait for an answer")
        self.ask(question, connection)

    @property
    def is_busy(self) -> bool:
        """Whether something has been asked for that only takes time."""
        return bool(self._questions) or (bool(self._changes) and not self._storage.write_paused)

    def answer(self) -> None:
        """Answer what has been asked about what is in the file now, for a moment."""
        end = time.monotonic() + MOMENT
        while self._questions and time.monotonic() < end:
            connection, question = self._questions.popleft()
            if connection is not None:
                connection.questions -= 1
            if connection is None or self._connections.is_here(connection):
                question()

    def change(self, dispatcher: Dispatcher) -> None:
        """Retry or drop some of the jobs that this was asked for."""
        if not self._changes or self._storage.write_paused:
            return
        change = self._changes.popleft()
        connection = change.connection
        if not self._connections.is_here(connection):
            return
        ids = list(islice(change.ids, STEP))
        act = dispatcher.drop if change.drop else self._retry_in(dispatcher)
        try:
            change.refused |= act(ids)
        except StorageError as trouble:
            self._connections.send(connection, Kind.REFUSED, str(trouble).encode())
            return
        if len(ids) == STEP:
            self._changes.append(change)
            return
        answer = wire.encode({str(id): why for id, why in change.refused.items()})
        self._replies.append((connection, Kind.ANSWER, answer, False))

    def _retry_in(self, dispatcher: Dispatcher) -> Callable[[list[int]], dict[int, str]]:
        return lambda ids: dispatcher.retry(ids, self._storage.clock.now())

    def committed(self, dispatcher: Dispatcher) -> None:
        """It is written: say so, and tell those who wait for the jobs that have ended."""
        replies, self._replies = self._replies, []
        for connection, kind, body, _new in replies:
            self._connections.send(connection, kind, body)
        for id, state in dispatcher.ended():
            if state == "dead":
                self._log.warning(
                    "job %s is dead; `%s jobs --state dead` tells why", id, program.name
                )
            for connection in self._waiters.pop(id, ()):
                connection.waits.discard(id)
                self.ask(lambda v=connection, i=id: self._tell_end(v, i), connection)  # type: ignore[misc]

    def refuse_new(self, why: str) -> None:
        """New jobs could not be written."""
        replies, self._replies = self._replies, []
        for connection, kind, body, new in replies:
            if new:
                self._refuse(connection, why)
            else:
                self._replies.append((connection, kind, body, new))

    def left(self, connection: Connection) -> None:
        """Somebody's connection is gone."""
        self._end_stream(connection)
        for id in connection.waits:
            waiting = self._waiters.get(id, set())
            waiting.discard(connection)
            if not waiting:
                self._waiters.pop(id, None)

    # -- new jobs

    def _submit(self, dispatcher: Dispatcher, connection: Connection, body: bytes) -> None:
        payloads, delay, max_attempts = messages.parcel(body)

        def accept() -> tuple[int, bytes]:
            first, count = dispatcher.submit(
                payloads, delay, max_attempts, self._storage.clock.now()
            )
            if connection.submits_only:
                connection.submitted = [
                    *connection.submitted[1 - MOST_WAITS :],
                    range(first, first + count),
                ]
            return Kind.SUBMITTED, wire.encode({"first": first, "count": count})

        self._new_jobs(connection, accept)

    def _open_stream(self, dispatcher: Dispatcher, connection: Connection, _body: bytes) -> None:
        self._end_stream(connection)

        def accept() -> tuple[int, bytes]:
            connection.stream = dispatcher.open_stream()
            return Kind.TAKEN_IN, b""

        self._new_jobs(connection, accept)

    def _chunk(self, dispatcher: Dispatcher, connection: Connection, body: bytes) -> None:
        payloads, _delay, max_attempts = messages.parcel(body)
        stream = connection.stream
        if stream is None:
            self._connections.send(connection, Kind.REFUSED, b"the stream was refused")
            return

        def accept() -> tuple[int, bytes]:
            dispatcher.stage(stream, payloads, max_attempts, self._storage.clock.now())
            return Kind.TAKEN_IN, b""

        self._new_jobs(connection, accept)

    def _commit_stream(self, dispatcher: Dispatcher, connection: Connection, body: bytes) -> None:
        _payloads, delay, _max_attempts = messages.parcel(body)
        stream, connection.stream = connection.stream, None
        if stream is None:
            self._connections.send(connection, Kind.REFUSED, b"the stream was refused")
            return

        def accept() -> tuple[int, bytes]:
            count = dispatcher.commit_stream(stream, delay, self._storage.clock.now())
            return Kind.SUBMITTED, wire.encode({"first": None, "count": count})

        self._new_jobs(connection, accept)

    def _new_jobs(self, connection: Connection, accept: Callable[[], tuple[int, bytes]]) -> None:
        """Take in new jobs, or say why not."""
        why = self._storage.refusal()
        if why is not None:
            self._refuse(connection, why)
            return
        try:
            kind, body = accept()
        except QueueError as error:
            self._refuse(connection, str(error))
            return
        self._replies.append((connection, kind, body, True))

    def _refuse(self, connection: Connection, why: str) -> None:
        self._end_stream(connection)
        self._connections.send(connection, Kind.REFUSED, why.encode())

    def _end_stream(self, connection: Connection) -> None:
        if connection.stream is not None and self._storage.dispatcher is not None:
            self._storage.dispatcher.abort_stream(connection.stream)
        connection.stream = None

    # -- those there are

    def _wait(self, _dispatcher: Dispatcher, connection: Connection, body: bytes) -> None:
        id = messages.job_id(body)
        if connection.submits_only and not any(id in jobs for jobs in connection.submitted):
            raise ProtocolError("you may wait for a job on the connection that has submitted it")
        if len(connection.waits) >= MOST_WAITS:
            raise ProtocolError(f"one connection waits for at most {MOST_WAITS} jobs")
        self._be_asked(connection, lambda: self._wait_for(connection, id))

    def _wait_for(self, connection: Connection, id: int) -> None:
        found = self._storage.listing(id)
        if found is None or found["state"] in ("done", "dead"):
            self._tell_end(connection, id)
        else:
            connection.waits.add(id)
            self._waiters.setdefault(id, set()).add(connection)

    def _tell_end(self, connection: Connection, id: int) -> None:
        found = self._storage.listing(id) or {"id": id, "state": "gone"}
        self._connections.send(connection, Kind.ANSWER, wire.encode(found))

    def _list(self, _dispatcher: Dispatcher, connection: Connection, body: bytes) -> None:
        state, after, limit = messages.page(body)
        self._be_asked(connection, lambda: self._tell_page(connection, state, after, limit))

    def _tell_page(self, connection: Connection, state: str | None, after: int, limit: int) -> None:
        try:
            page = self._storage.page(state, after, limit)
        except StorageError as trouble:
            self._connections.send(connection, Kind.REFUSED, str(trouble).encode())
            return
        self._connections.send(connection, Kind.ANSWER, wire.encode(page))

    def _retry(self, _dispatcher: Dispatcher, connection: Connection, body: bytes) -> None:
        self._change(connection, messages.job_ids(body), drop=False)

    def _drop(self, _dispatcher: Dispatcher, connection: Connection, body: bytes) -> None:
        self._change(connection, messages.job_ids(body), drop=True)

    def _change(self, connection: Connection, ids: list[int], *, drop: bool) -> None:
        if any(change.connection is connection for change in self._changes):
            raise ProtocolError(
                "one list of jobs to retry or to drop at a time; wait for an answer"
            )
        self._changes.append(_Change(connection, ids, drop=drop))

    def _counts(self, _dispatcher: Dispatcher, connection: Connection, _body: bytes) -> None:
        self._be_asked(
            connection,
            lambda: self._connections.send(
                connection, Kind.ANSWER, wire.encode(self._storage.counts())
            ),
        )


class _Change:
    """Jobs that a client wants retried or dropped, those that are left of them."""

    def __init__(self, connection: Connection, ids: list[int], *, drop: bool) -> None:
        self.connection = connection
        self.ids = iter(ids)
        self.drop = drop
        self.refused: dict[int, str] = {}
