"""What clients ask of a keeper: to submit jobs, to wait for them, to list and change them.

What is asked is answered after the commit that makes it true. Workers are served by
:mod:`.server`; what a job may become is decided in :mod:`.dispatcher`.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import contextmanager
from itertools import islice

from graced import program
from graced.queue import messages, progress, wire
from graced.queue.protocol import Accepted, AnswerLost, QueueError, StorageError
from graced.queue.wire import Kind, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from graced.queue.connections import Connection, Connections
    from graced.queue.plan import KeeperPlan
    from graced.queue.protocol import Dispatcher, Storage

    Handler = Callable[[Dispatcher, Connection, bytes], None]
    Change = Callable[[Dispatcher, list[int], int], dict[int, str]]

MOMENT = 0.05  # seconds of answers before the others get their turn
STEP = 200  # jobs changed before they get it
MOST_QUESTIONS = 64  # of one client, before it has got an answer
MOST_WAITS = 1000  # jobs that one client waits for


class ClientRequests:
    """What clients have asked for and have not been told yet."""

    def __init__(
        self, storage: Storage, connections: Connections, plan: KeeperPlan
    ) -> None:
        self._pool = plan.pool
        self._file = plan.address.file  # beside it are its workers' locks
        self._storage = storage
        self._connections = connections
        self._log = plan.log
        # After the commit: to which, what, a body or the ids that make it, whether for new jobs.
        self._replies: list[tuple[Connection, int, bytes | Sequence[int], bool]] = []
        # Answered from the file, after the commit: which client asks, what is done for it.
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
            Kind.SHOW: self._show,
            Kind.RETRY: self._changed_by(_retry),
            Kind.DROP: self._changed_by(_drop),
            Kind.CANCEL: self._changed_by(_cancel),
            Kind.PAUSE: self._pause,
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
            if connection is None:
                question()
            elif self._connections.is_here(connection):
                with self._refusing(connection):
                    question()

    def change(self, dispatcher: Dispatcher) -> None:
        """Change some of the jobs for which this was asked."""
        if not self._changes or self._storage.write_paused:
            return
        change = self._changes.popleft()
        connection = change.connection
        if not self._connections.is_here(connection):
            return
        ids = list(islice(change.ids, STEP))
        with self._refusing(connection):
            change.refused |= change.act(dispatcher, ids, self._storage.clock.now())
            if len(ids) == STEP:
                self._changes.append(change)
                return
            answer = wire.encode({str(id): why for id, why in change.refused.items()})
            self._replies.append((connection, Kind.ANSWER, answer, False))

    @contextmanager
    def _refusing(self, connection: Connection) -> Iterator[None]:
        """Tell a client if the queue can't be used for what it has asked for."""
        try:
            yield
        except StorageError as trouble:
            self._connections.send(connection, Kind.REFUSED, wire.text(trouble))

    def committed(self, ended: Iterable[tuple[int, str]]) -> None:
        """It is written: say so, and tell those that wait for the jobs that have ended."""
        self.tell_refused()
        replies, self._replies = self._replies, []
        for connection, kind, said, _new in replies:
            body = said if isinstance(said, bytes) else _told(said)
            self._connections.send(connection, kind, body)
        for id, state in ended:
            self._say_end(id, state)
            for connection in self._waiters.pop(id, ()):
                connection.waits.discard(id)
                self.ask(lambda v=connection, i=id: self._tell_end(v, i), connection)  # type: ignore[misc]

    def tell_refused(self) -> None:
        """Tell which new jobs a server did not take; what else was asked has to wait for it."""
        replies, self._replies = self._replies, []
        for reply in replies:
            said = reply[2]
            if isinstance(said, Accepted) and said.refusal is not None:
                self._refuse(reply[0], said.refusal)
            else:
                self._replies.append(reply)

    def _say_end(self, id: int, state: str) -> None:
        if state == "done":
            self._log.debug("job %s is done", id, job=id)
        elif state == "cancelled":
            self._log.info("job %s is cancelled", id, job=id)
        elif state == "dead":
            advice = f"{program.name} jobs show {id} --pool {self._pool}"
            self._log.warning("job %s is dead; `%s` tells why", id, advice, job=id)

    def refuse_new(self, why: str) -> None:
        """New jobs could not be written."""
        replies, self._replies = self._replies, []
        for connection, kind, body, new in replies:
            if new:
                self._refuse(connection, why)
            else:
                self._replies.append((connection, kind, body, new))

    def left(self, connection: Connection) -> None:
        """A connection is gone."""
        self._end_stream(connection)
        for id in connection.waits:
            waiting = self._waiters.get(id, set())
            waiting.discard(connection)
            if not waiting:
                self._waiters.pop(id, None)

    # -- new jobs

    def _submit(self, dispatcher: Dispatcher, connection: Connection, body: bytes) -> None:
        payloads, terms = messages.parcel(body)
        if terms.unique is not None and len(payloads) != 1:
            raise ProtocolError("a unique key is for one job")

        def accept() -> tuple[int, Sequence[int]]:
            ids = dispatcher.submit(payloads, terms, self._storage.clock.now())
            if connection.submits_only:
                connection.submitted = [*connection.submitted[1 - MOST_WAITS :], ids]
            return Kind.SUBMITTED, ids

        self._new_jobs(connection, accept)

    def _open_stream(self, dispatcher: Dispatcher, connection: Connection, _body: bytes) -> None:
        self._end_stream(connection)

        def accept() -> tuple[int, bytes]:
            connection.stream = dispatcher.open_stream()
            return Kind.TAKEN_IN, b""

        self._new_jobs(connection, accept)

    def _chunk(self, dispatcher: Dispatcher, connection: Connection, body: bytes) -> None:
        payloads, terms = messages.parcel(body)
        if terms.unique is not None:
            raise ProtocolError("a unique key is for one job")
        stream = connection.stream
        if stream is None:
            self._connections.send(connection, Kind.REFUSED, b"the stream was refused")
            return

        def accept() -> tuple[int, bytes]:
            ids = dispatcher.stage(stream, payloads, terms, self._storage.clock.now())
            return Kind.TAKEN_IN, _told(ids)

        self._new_jobs(connection, accept)

    def _commit_stream(self, dispatcher: Dispatcher, connection: Connection, body: bytes) -> None:
        _payloads, terms = messages.parcel(body)
        stream, connection.stream = connection.stream, None
        if stream is None:
            self._connections.send(connection, Kind.REFUSED, b"the stream was refused")
            return

        def accept() -> tuple[int, bytes]:
            count = dispatcher.commit_stream(stream, terms, self._storage.clock.now())
            return Kind.SUBMITTED, wire.encode({"count": count})

        self._new_jobs(connection, accept)

    def _new_jobs(
        self, connection: Connection, accept: Callable[[], tuple[int, bytes | Sequence[int]]]
    ) -> None:
        """Take in new jobs, or say why not."""
        why = self._storage.refusal()
        if why is not None:
            self._refuse(connection, why)
            return
        try:
            kind, body = accept()
        except QueueError as error:
            self._refuse(connection, error)
            return
        self._replies.append((connection, kind, body, True))

    def _refuse(self, connection: Connection, why: QueueError | str) -> None:
        self._end_stream(connection)
        kind = Kind.LOST if isinstance(why, AnswerLost) else Kind.REFUSED
        self._connections.send(connection, kind, wire.text(why))

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
        page = self._storage.page(state, after, limit)
        if isinstance(page, int):
            self.ask(lambda: self._tell_page(connection, state, page, limit), connection)
            return
        progress.add(page, self._file)
        self._connections.send(connection, Kind.ANSWER, wire.encode(page))

    def _show(self, _dispatcher: Dispatcher, connection: Connection, body: bytes) -> None:
        id = messages.job_id(body)
        self._be_asked(connection, lambda: self._tell_job(connection, id))

    def _tell_job(self, connection: Connection, id: int) -> None:
        found = self._storage.job(id)
        progress.add([] if found is None else [found], self._file)
        self._connections.send(connection, Kind.ANSWER, wire.encode(found))

    def _changed_by(self, act: Change) -> Handler:
        """Return what takes a list of jobs that are to be changed in one way."""

        def take(_dispatcher: Dispatcher, connection: Connection, body: bytes) -> None:
            ids = messages.job_ids(body)
            if any(change.connection is connection for change in self._changes):
                raise ProtocolError("one list of jobs to change at a time; wait for an answer")
            self._changes.append(_Change(connection, ids, act))

        return take

    def _pause(self, dispatcher: Dispatcher, connection: Connection, body: bytes) -> None:
        paused = messages.paused(body)
        with self._refusing(connection):
            dispatcher.pause(paused, self._storage.clock.now())
            self._log.info("queue: paused" if paused else "queue: resumed")
            self._replies.append((connection, Kind.ANSWER, b"null", False))

    def _counts(self, _dispatcher: Dispatcher, connection: Connection, _body: bytes) -> None:
        self._be_asked(
            connection,
            lambda: self._connections.send(
                connection, Kind.ANSWER, wire.encode(self._storage.counts())
            ),
        )


class _Change:
    """Jobs that a client wants changed, those that are left of them."""

    def __init__(self, connection: Connection, ids: list[int], act: Change) -> None:
        self.connection = connection
        self.ids = iter(ids)
        self.act = act
        self.refused: dict[int, str] = {}


def _retry(dispatcher: Dispatcher, ids: list[int], now: int) -> dict[int, str]:
    return dispatcher.retry(ids, now)


def _drop(dispatcher: Dispatcher, ids: list[int], _now: int) -> dict[int, str]:
    return dispatcher.drop(ids)


def _cancel(dispatcher: Dispatcher, ids: list[int], now: int) -> dict[int, str]:
    return dispatcher.cancel(ids, now)


def _told(ids: Sequence[int]) -> bytes:
    return wire.encode({"ids": wire.runs(ids)})
