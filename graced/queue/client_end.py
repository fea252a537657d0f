"""A queue as its clients reach it: over the keeper's socket.

A client's end blocks, and gives up when the keeper does.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from contextlib import suppress

from graced.host import process, unixsocket
from graced.queue import jsonvalue, wire
from graced.queue.protocol import QueueError, QueueGone
from graced.queue.terms import AS_USUAL
from graced.queue.wire import Kind, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from graced.queue.terms import Terms

STOPPED = 3.0  # seconds after which a keeper that does not answer is told of
LOOK = 0.05  # seconds between two looks at one that is stopped
SECOND = 1000  # ms
IDS_AT_ONCE = 10_000  # numbers in one request to retry or to drop


class ClientEnd:
    """A client's end, see :class:`graced.queue.protocol.ClientQueue`."""

    def __init__(self, path: str, tell: Callable[[str], None] = lambda _text: None) -> None:
        """Connect. QueueGone if nobody keeps the queue. ``tell`` hears why an answer is late."""
        self._path = path
        self._tell = tell
        try:
            self._sock = wire.connect_to_daemon(path)
        except (FileNotFoundError, ConnectionRefusedError):
            raise QueueGone(f"{path}: no daemon keeps this queue") from None
        except unixsocket.UntrustedSocketError as error:
            raise QueueError(str(error)) from None
        except PermissionError:
            remedy = "be root, the daemon's user or in its group"
            raise QueueError(f"{path}: permission denied; {remedy}") from None
        except OSError as error:
            raise QueueError(f"{path}: {error.strerror or error}") from None
        self._frames = wire.Frames()
        self._heard: list[tuple[int, bytes]] = []

    def submit(self, payloads: Sequence[str], terms: Terms = AS_USUAL) -> Sequence[int]:
        """Accept all the payloads durably, or none: return their ids, or raise QueueError."""
        answer = self._ask(Kind.SUBMIT, wire.pack_payloads(payloads, terms), Kind.SUBMITTED)
        return [id for ids in _ranges(answer) for id in ids]

    def stream(self, payloads: Iterable[str], terms: Terms = AS_USUAL) -> list[range]:
        """Accept any number of payloads, all or none, in bounded memory; return their ids."""
        ids = []
        self._ask(Kind.STREAM, b"", Kind.TAKEN_IN)
        for chunk in chunks(payloads):
            body = wire.pack_payloads(chunk, terms)
            ids += _ranges(self._ask(Kind.CHUNK, body, Kind.TAKEN_IN))
        self._ask(Kind.STREAM_END, wire.pack_payloads([], terms), Kind.SUBMITTED)
        return ids

    def wait(self, job: int) -> dict[str, Any]:
        """Return the job's listing once it is done, dead or gone."""
        return self._question(Kind.WAIT, {"id": job})  # type: ignore[no-any-return]

    def jobs(self, state: str | None, after: int, limit: int) -> list[dict[str, Any]]:
        """Return a page of jobs in the order of their ids, beginning after one."""
        wanted = {"state": state, "after": after, "limit": limit}
        return self._question(Kind.LIST, wanted)  # type: ignore[no-any-return]

    def job(self, id: int) -> dict[str, Any] | None:
        """Return a job's listing with its attempts one by one; None if there is no such job."""
        return self._question(Kind.SHOW, {"id": id})  # type: ignore[no-any-return]

    def retry(self, ids: Sequence[int]) -> dict[int, str]:
        """Make jobs due now, dead ones with all their attempts; return the refusals by id."""
        return self._change(Kind.RETRY, ids)

    def drop(self, ids: Sequence[int]) -> dict[int, str]:
        """Forget jobs that nobody works on; return the refusals by id."""
        return self._change(Kind.DROP, ids)

    def cancel(self, ids: Sequence[int]) -> dict[int, str]:
        """Have jobs dead that are not done: now, or once their worker is interrupted."""
        return self._change(Kind.CANCEL, ids)

    def pause(self, paused: bool) -> None:
        """Hand out no further jobs until it is said otherwise, over restarts."""
        self._question(Kind.PAUSE, {"paused": paused})

    def counts(self) -> dict[str, Any]:
        """Return how many jobs there are in each state, and the age of the oldest due one."""
        return self._question(Kind.COUNTS, {})  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def _change(self, kind: Kind, ids: Sequence[int]) -> dict[int, str]:
        refused: dict[int, str] = {}
        for at in range(0, len(ids), IDS_AT_ONCE):
            answer = self._question(kind, {"ids": list(ids[at : at + IDS_AT_ONCE])})
            refused |= {int(id): why for id, why in answer.items()}
        return refused

    def _question(self, kind: Kind, value: object) -> Any:
        return wire.decode(self._ask(kind, wire.encode(value), Kind.ANSWER))

    def _ask(self, kind: Kind, body: bytes, expected: Kind) -> bytes:
        if kind != Kind.WAIT:
            self._check_keeper()
        watch = _ReplyWait(self, is_long=kind == Kind.WAIT)
        try:
            self._send(wire.frame(kind, body), watch)
            answer, said = self._next(watch)
        except (OSError, struct.error, ProtocolError) as error:
            raise QueueGone(f"the queue's keeper is gone: {error}") from None
        if answer == Kind.REFUSED:
            raise QueueError(said.decode(errors="replace"))
        if answer != expected:
            raise QueueError("the queue's keeper is of another version; restart the daemon")
        return said

    def _check_keeper(self) -> None:
        """Ask nothing of a keeper that is stopped: nobody could say what became of it."""
        end = time.monotonic() + STOPPED
        while (stopped := self.stopped()) is not None:
            if time.monotonic() >= end:
                raise QueueError(f"{stopped}; nothing was asked of it")
            time.sleep(LOOK)

    def stopped(self) -> str | None:
        """Return that the keeper is stopped, and what to do; None as far as we can see."""
        pid = unixsocket.peer(self._sock)[0]
        if not pid or not process.is_stopped(pid):  # 0: of another container
            return None
        return f"{self._path}: the queue's keeper is stopped; 'kill -CONT {pid}' lets it go on"

    def late(self) -> None:
        """An answer does not come: say why."""
        stopped = self.stopped()
        self._tell(f"{stopped or f'{self._path}: the keeper has not answered yet'}; waiting")

    def _send(self, data: bytes, watch: _ReplyWait) -> None:
        left = memoryview(data)
        while left:
            watch.wait(self._sock, select.POLLOUT)
            with suppress(BlockingIOError):
                left = left[self._sock.send(left, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT) :]

    def _next(self, watch: _ReplyWait) -> tuple[int, bytes]:
        while not self._heard:
            watch.wait(self._sock, select.POLLIN)
            data = self._sock.recv(wire.READ)
            if not data:
                raise ProtocolError("it has closed the connection")
            self._heard += self._frames.feed(data)
        return self._heard.pop(0)


class _ReplyWait:
    """Waits for a keeper, and has it said, once, if that takes long."""

    def __init__(self, end: ClientEnd, *, is_long: bool) -> None:
        self._end = end
        self._is_long = is_long  # what is asked for may take its time
        self._since = time.monotonic()
        self._told = False

    def wait(self, sock: socket.socket, event: int) -> None:
        """Wait until the socket can be read or written."""
        poll = select.poll()
        poll.register(sock, event)
        while not poll.poll(None if self._told else SECOND):
            late = time.monotonic() - self._since > STOPPED and not self._is_long
            if late or self._end.stopped() is not None:
                self._told = True
                self._end.late()


def _ranges(answer: bytes) -> list[range]:
    return [range(first, first + count) for first, count in wire.decode(answer)["ids"]]


def chunks(payloads: Iterable[str]) -> Iterable[list[str]]:
    """Yield the payloads in batches of a size that the keeper takes at once."""
    chunk: list[str] = []
    size = 0
    for payload in payloads:
        chunk.append(payload)
        size += jsonvalue.size(payload)
        if len(chunk) >= wire.CHUNK_JOBS or size >= wire.CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
