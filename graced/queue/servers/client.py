"""A client's end of a queue on a server, without a daemon in between."""

from __future__ import annotations

import os
import select
import socket
import time
from contextlib import suppress

from graced.queue.client_end import chunks
from graced.queue.protocol import QueueGone, ServerGone
from graced.queue.terms import Terms
from graced.queue.wire import runs
from graced.units import MAX_DURATION_S

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from graced.queue.servers.link import Link

LOOK = 1.0  # seconds between two looks at a job that is waited for
OVER = ("done", "dead")
USUAL = Terms()
STEP = 500  # jobs changed at once


class ServerEnd:
    """See :class:`graced.queue.protocol.ClientQueue`. One thread at a time."""

    shared = True

    def __init__(self, connect: Callable[[], Link]) -> None:
        """Connect. ServerGone, StorageError, ClientMissing."""
        self._connect = connect
        self._link = connect()
        self._is_hung_up = False

    def _reached(self) -> Link:
        """Return the connection, a new one if the last one was lost. QueueGone once hung up."""
        if self._is_hung_up:  # by another thread, while this one waits
            raise QueueGone("the connection to the queue was closed")
        with suppress(ServerGone):  # since we asked last: that closes it
            self._link.heard()
        if self._link.fileno() < 0:
            self._link = self._connect()
        return self._link

    def submit(self, payloads: Sequence[str], terms: Terms = USUAL) -> Sequence[int]:
        link = self._reached()
        try:
            return link.submit(payloads, terms)
        except ServerGone as error:
            raise error.lost() from None

    def stream(self, payloads: Iterable[str], terms: Terms = USUAL) -> list[range]:
        link = self._reached()
        stream = link.open_stream()
        ids: list[range] = []
        is_staged = False
        try:
            for chunk in chunks(payloads):
                staged = link.stage(stream, chunk, terms)
                ids += [range(first, first + count) for first, count in runs(staged)]
            is_staged = True
            link.commit_stream(stream, terms)
        except ServerGone as error:
            raise error.lost() if is_staged else error from None
        except BaseException:  # taken back, whatever it is; raised on
            link.abort_stream(stream)
            _finish(link)
            raise
        _finish(link)
        return ids

    def wait(self, job: int, timeout: float | None = None) -> dict[str, Any]:
        end = float("inf") if timeout is None else time.monotonic() + timeout
        while (found := self._reached().look(job, watch=True)) is not None:
            if found["state"] in OVER:
                return found
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"job {job} is {found['state']} after {timeout:g} s")
            self._await_ring(min(left, LOOK))
        return {"id": job, "state": "gone"}

    def _await_ring(self, seconds: float) -> None:
        if self._link.heard():  # it has come along with an answer
            return
        fd = self._link.fileno()
        if fd < 0:
            return
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if poll.poll(seconds * 1000):
            self._link.heard()

    def hang_up(self) -> None:
        """Wake up whoever sleeps on the connection, in another thread: there comes nothing."""
        self._is_hung_up = True
        with suppress(OSError), socket.socket(fileno=os.dup(self._link.fileno())) as same:
            same.shutdown(socket.SHUT_RDWR)

    def jobs(self, state: str | None, after: int, limit: int) -> list[dict[str, Any]]:
        return self._reached().page(state, after, limit)

    def job(self, id: int) -> dict[str, Any] | None:
        found = self._reached().look(id)
        return None if found is None else {**found, "tries": self._link.attempts(id)}

    def retry(self, ids: Sequence[int]) -> dict[int, str]:
        return _in_steps(self._reached().retry, ids)

    def drop(self, ids: Sequence[int]) -> dict[int, str]:
        return _in_steps(self._reached().drop, ids)

    def cancel(self, ids: Sequence[int]) -> dict[int, str]:
        link = self._reached()
        return _in_steps(lambda some: link.cancel(some)[0], ids)

    def pause(self, paused: bool) -> None:
        self._reached().pause(paused)

    def counts(self) -> dict[str, Any]:
        return self._reached().counts()

    def close(self) -> None:
        self._link.close()


def _finish(link: Link) -> None:
    """Do what can wait: no daemon may be there that would."""
    while link.maintain(MAX_DURATION_S):
        pass


def _in_steps(
    act: Callable[[Sequence[int]], dict[int, str]], ids: Sequence[int]
) -> dict[int, str]:
    """Change jobs, a few at once: meanwhile workers have their turns. Return the refusals."""
    refused: dict[int, str] = {}
    for first in range(0, len(ids), STEP):
        refused |= act(ids[first : first + STEP])
    return refused
