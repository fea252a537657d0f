"""A queue as its clients reach it: over the keeper's socket.

A client's end blocks, and gives up when the keeper does.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from contextlib import suppress

from graced import program
from graced.host import unixsocket
from graced.queue import jsonvalue, wire
from graced.queue.protocol import AnswerLost, NotPermitted, QueueError, QueueGone
from graced.queue.terms import AS_USUAL
from graced.queue.wire import Kind, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from graced.queue.terms import Terms

    Sleep = Callable[[int, int, float | None], bool]

STOPPED = 3.0  # seconds after which a keeper that does not answer is told of
LOOK = 0.05  # seconds between two looks at one that is stopped
SECOND = 1000  # ms
IDS_AT_ONCE = 10_000  # numbers in one request to retry or to drop


def sleep_until_ready(fd: int, event: int, seconds: float | None) -> bool:
    """Sleep until a descriptor can be read or written: True; False once the time is over."""
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(None if seconds is None else max(seconds, 0) * SECOND))


class ClientEnd:
    """A client's end, see :class:`graced.queue.protocol.ClientQueue`."""

    shared = True

    def __init__(
        self,
        path: str,
        tell: Callable[[str], None] = lambda _text: None,
        *,
        patience: float | None = None,
        sleep: Sleep = sleep_until_ready,
    ) -> None:
        """Connect. QueueGone if no keeper has the queue. ``tell`` hears why an answer is late.

        An answer that has not come after ``patience`` seconds is taken for lost.
        """
        self._path = path
        self._tell = tell
        self._patience = patience
        self.sleep = sleep
        try:
            self._sock = wire.connect_to_daemon(path)
        except (FileNotFoundError, ConnectionRefusedError):
            raise QueueGone(f"{path}: no daemon keeps this queue") from None
        except unixsocket.UntrustedSocketError as error:
            raise QueueError(str(error)) from None
        except PermissionError:
            remedy = "be root, the daemon's user or in its group"
            raise NotPermitted(f"{path}: permission denied; {remedy}") from None
        except OSError as error:
            raise QueueError(f"{path}: {error.strerror or error}") from None
        self._frames = wire.Frames()
        self._heard: list[tuple[int, bytes]] = []

    def submit(self, payloads: Sequence[str], terms: Terms = AS_USUAL) -> Sequence[int]:
        answer = self._ask(Kind.SUBMIT, wire.pack_payloads(payloads, terms), Kind.SUBMITTED)
        return [id for ids in _ranges(answer) for id in ids]

    def stream(self, payloads: Iterable[str], terms: Terms = AS_USUAL) -> list[range]:
        ids = []
        self._ask(Kind.STREAM, b"", Kind.TAKEN_IN)
        for chunk in chunks(payloads):
            body = wire.pack_payloads(chunk, terms)
            ids += _ranges(self._ask(Kind.CHUNK, body, Kind.TAKEN_IN))
        self._ask(Kind.STREAM_END, wire.pack_payloads([], terms), Kind.SUBMITTED)
        return ids

    def wait(self, job: int, timeout: float | None = None) -> dict[str, Any]:
        """Return the job's listing once it is done, dead or gone; TimeoutError after seconds.

        After a TimeoutError the connection can only be closed: its answer may still come.
        """
        body = wire.encode({"id": job})
        return wire.decode(self._ask(Kind.WAIT, body, Kind.ANSWER, timeout))  # type: ignore[no-any-return]

    def jobs(self, state: str | None, after: int, limit: int) -> list[dict[str, Any]]:
        wanted = {"state": state, "after": after, "limit": limit}
        return self._question(Kind.LIST, wanted)  # type: ignore[no-any-return]

    def job(self, id: int) -> dict[str, Any] | None:
        return self._question(Kind.SHOW, {"id": id})  # type: ignore[no-any-return]

    def retry(self, ids: Sequence[int]) -> dict[int, str]:
        return self._change(Kind.RETRY, ids)

    def drop(self, ids: Sequence[int]) -> dict[int, str]:
        return self._change(Kind.DROP, ids)

    def cancel(self, ids: Sequence[int]) -> dict[int, str]:
        return self._change(Kind.CANCEL, ids)

    def pause(self, paused: bool) -> None:
        self._question(Kind.PAUSE, {"paused": paused})

    def counts(self) -> dict[str, Any]:
        return self._question(Kind.COUNTS, {})  # type: ignore[no-any-return]

    def hang_up(self) -> None:
        with suppress(OSError):  # closed before
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._sock.close()

    def _change(self, kind: Kind, ids: Sequence[int]) -> dict[int, str]:
        refused: dict[int, str] = {}
        for at in range(0, len(ids), IDS_AT_ONCE):
            answer = self._question(kind, {"ids": list(ids[at : at + IDS_AT_ONCE])})
            refused |= {int(id): why for id, why in answer.items()}
        return refused

    def _question(self, kind: Kind, value: object) -> Any:
        return wire.decode(self._ask(kind, wire.encode(value), Kind.ANSWER))

    def _ask(
        self, kind: Kind, body: bytes, expected: Kind, timeout: float | None = None
    ) -> bytes:
        self._check_keeper(may_be_stopped=kind == Kind.WAIT)
        watch = _ReplyWait(self, timeout if kind == Kind.WAIT else self._patience, kind)
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # refused: the reason can be read
                self._send(wire.frame(kind, body), watch)
            answer, said = self._next(watch)
        except TimeoutError:
            raise
        except (OSError, struct.error, ProtocolError) as error:
            why = f"the queue's keeper is gone: {error}"
            raise AnswerLost(f"{why}; it is not known whether it was done") from None
        if answer == Kind.REFUSED:
            raise QueueError(said.decode(errors="replace"))
        if answer == Kind.LOST:
            raise AnswerLost(said.decode(errors="replace"))
        if answer != expected:
            raise QueueError("the queue's keeper is of another version; restart the daemon")
        return said

    def _check_keeper(self, *, may_be_stopped: bool) -> None:
        """Ask nothing of a keeper that is gone, or stopped: what becomes of it is not known."""
        if not self._heard and self._has_closed():
            raise QueueGone("the queue's keeper is gone")
        end = time.monotonic() + STOPPED
        while not may_be_stopped and (stopped := self.stopped()) is not None:
            if time.monotonic() >= end:
                raise QueueError(f"{stopped}; nothing was asked of it")
            time.sleep(LOOK)

    def _has_closed(self) -> bool:
        try:
            return not self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def stopped(self) -> str | None:
        """Return that the keeper is stopped, and what to do; None as far as we can see."""
        from graced.host import process

        pid = unixsocket.peer(self._sock)[0]
        if not pid or not process.is_stopped(pid):  # 0: of another container
            return None
        return f"{self._path}: the queue's keeper is stopped; 'kill -CONT {pid}' lets it go on"

    def late(self) -> None:
        """An answer does not come: say why."""
        hint = f"'{program.name} health' may tell why"
        late = f"{self._path}: the keeper has not answered yet; {hint}"
        self._tell(f"{self.stopped() or late}; waiting")

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

    def __init__(self, end: ClientEnd, timeout: float | None, kind: Kind) -> None:
        self._end = end
        self._is_long = kind == Kind.WAIT  # what is asked for may take its time
        self._since = time.monotonic()
        self._timeout = timeout
        self._told = False

    def wait(self, sock: socket.socket, event: int) -> None:
        """Wait until the socket can be read or written. TimeoutError, AnswerLost."""
        while not self._end.sleep(sock.fileno(), event, self._look()):
            waited = time.monotonic() - self._since
            if self._timeout is not None and waited >= self._timeout:
                self._give_up(self._timeout)
            late = waited > STOPPED and not self._is_long
            if not self._told and (late or self._end.stopped() is not None):
                self._told = True
                self._end.late()

    def _look(self) -> float | None:
        """Return the seconds until there is something to be said."""
        look = None if self._told else 1.0
        if self._timeout is None:
            return look
        left = max(self._since + self._timeout - time.monotonic(), 0.0)
        return left if look is None else min(look, left)

    def _give_up(self, timeout: float) -> None:
        if self._is_long:
            raise TimeoutError(f"the job has not ended within {timeout:g} s")
        why = f"the queue's keeper has not answered for {timeout:g} s"
        raise AnswerLost(f"{why}; it is not known whether it was done")


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
