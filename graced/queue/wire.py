"""Frames between the keeper, the workers and the commands, over a Unix stream socket.

A frame is the length of its body (4 bytes, little-endian), its kind (1 byte), its body.
What goes around with every job is packed; the rest is JSON, for the socket is open to a
group, and marshal may crash on what a stranger writes. What frames mean is decided in
:mod:`.dispatcher`.
"""

from __future__ import annotations

import socket
import struct
from enum import IntEnum

from graced.host import unixsocket
from graced.queue.terms import AS_USUAL, Terms

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

MAX_BODY = 8 << 20
READ = 1 << 16  # bytes read from one connection before the others get their turn
MOST_TERMS = 4096  # bytes of a submit's terms in JSON
CHUNK_BYTES = 2 << 20  # a client closes a batch of payloads at this size,
CHUNK_JOBS = 1000  # or at this number: about 5 ms of the keeper's time
MOST_JOBS = 10_000  # payloads in one frame, however short: each takes its own memory


class Kind(IntEnum):
    """What a frame says. Numbers are never used twice: an old worker may talk to a new keeper.

    Those of 0.1 that mean nothing any more: 1, 3, 5, 10, 12, 13, 20, 21.
    """

    # A worker says
    HELLO = 40  # {"owner", "holds": [[id, token]], "cancels": bool}
    ASK = 2  # idle: hand me a job
    SETTLE = 41  # SETTLEMENT, then JSON text
    LEAVE = 4  # nothing in hand, nothing wanted
    WANT = 44  # COUNT: how many jobs it takes at once, in all; 0: no more
    PUT_BACK = 45  # HELD: it has not begun, and will not
    # A worker is told
    JOB = 42  # HANDOUT, then the payload
    SETTLED = 6  # COUNT: settles that are durable, of this connection
    CANCEL_JOB = 43  # {"id", "token"}, if it has said that it cancels single ones
    # A client says
    SUBMIT = 50  # PARCEL, terms, lengths, payloads
    STREAM = 11  # empty: what comes next belongs together
    CHUNK = 51  # PARCEL, terms, lengths, payloads
    STREAM_END = 52  # PARCEL, terms
    WAIT = 14  # {"id"}
    LIST = 15  # {"state", "after", "limit"}
    RETRY = 16  # {"ids"}
    DROP = 17  # {"ids"}
    COUNTS = 18  # empty
    CANCEL = 53  # {"ids"}
    SHOW = 54  # {"id"}
    PAUSE = 55  # {"paused"}
    # A client is told
    SUBMITTED = 56  # {"ids": [[first, count]]}; of a stream {"count"}
    TAKEN_IN = 57  # {"ids"}: the chunk is durable
    ANSWER = 22  # any JSON
    REFUSED = 23  # text: why not, and what to do
    LOST = 58  # text: why it is not known whether it was done
    # Keepers among themselves
    YIELD = 30  # leave the file to me, once your main process is gone
    OCCUPIED = 31  # text: not yet


HEADER = struct.Struct("<IB")
HANDOUT = struct.Struct("<QIQQQQ")  # id, attempt, submitted, confirmed settles, token, scheduled
SETTLEMENT = struct.Struct("<QQBBd")  # id, token, outcome, more, after (s)
COUNT = struct.Struct("<Q")
HELD = struct.Struct("<QQ")  # id, token
PARCEL = struct.Struct("<II")  # bytes of the terms in JSON, how many payloads


class ProtocolError(Exception):
    """The other side wrote what no frame can be."""


class Frames:
    """Bytes in, whole frames out."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = bytearray()

    @property
    def unfinished(self) -> int:
        """How many bytes of a frame have come that is not whole."""
        return len(self._rest)

    def feed(self, data: bytes) -> Iterable[tuple[int, bytes]]:
        """Return (kind, body) of each frame that is complete now."""
        rest = self._rest
        if not rest and len(data) >= 5 and HEADER.unpack_from(data)[0] == len(data) - 5:
            return ((data[4], data[5:]),)  # one whole frame: what nearly always comes
        rest += data
        return self._whole()

    def _whole(self) -> Iterator[tuple[int, bytes]]:
        rest = self._rest
        at = 0
        try:
            while len(rest) - at >= HEADER.size:
                length, kind = HEADER.unpack_from(rest, at)
                if length > MAX_BODY:
                    raise ProtocolError(
                        f"a frame of {length} bytes; at most {MAX_BODY} are allowed"
                    )
                end = at + HEADER.size + length
                if len(rest) < end:
                    break
                body = bytes(rest[at + HEADER.size : end])
                at = end
                yield kind, body
        finally:
            del rest[:at]


def frame(kind: int, body: bytes = b"") -> bytes:
    """Return one frame."""
    return HEADER.pack(len(body), kind) + body


def text(why: object) -> bytes:
    """Return a body that a person reads; a file's name in it may be in no encoding."""
    return str(why).encode("utf-8", "backslashreplace")


def encode(value: Any) -> bytes:
    """Return a JSON body: pure ASCII, so that file names in no encoding come through too."""
    import json

    return json.dumps(value, separators=(",", ":")).encode()


def decode(body: bytes) -> Any:
    """Return the value of a JSON body; ProtocolError if it is none."""
    import json

    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a body that is not JSON: {error}") from None


def pack_payloads(payloads: Sequence[str], terms: Terms) -> bytes:
    """Return the body of a SUBMIT or a CHUNK."""
    raw = [payload.encode() for payload in payloads]
    lengths = struct.pack(f"<{len(raw)}I", *map(len, raw))
    told = b"{}" if terms is AS_USUAL else encode(terms.told())
    return b"".join([PARCEL.pack(len(told), len(raw)), told, lengths, *raw])


def unpack_payloads(body: bytes) -> tuple[list[str], Terms]:
    """Return the payloads of a SUBMIT or a CHUNK, and their terms."""
    try:
        size, count = PARCEL.unpack_from(body)
        if count > MOST_JOBS:
            raise ProtocolError(
                f"{count} jobs at once; at most {MOST_JOBS}, or any number as a stream"
            )
        if size > MOST_TERMS:
            raise ProtocolError(f"terms of {size} bytes; at most {MOST_TERMS}")
        at = PARCEL.size + size
        told = body[PARCEL.size : at]
        terms = AS_USUAL if told == b"{}" else Terms.read(decode(told))
        lengths = struct.unpack_from(f"<{count}I", body, at)
        at += 4 * count
        payloads = []
        for length in lengths:
            payloads.append(body[at : at + length].decode())
            at += length
    except (struct.error, UnicodeDecodeError) as error:
        raise ProtocolError(f"payloads that cannot be read: {error}") from None
    except ValueError as error:
        raise ProtocolError(str(error)) from None
    if at != len(body):
        raise ProtocolError("payloads of other lengths than announced")
    return payloads, terms


def runs(ids: Sequence[int]) -> list[tuple[int, int]]:
    """Return numbers as the first and the count of each run of them."""
    if isinstance(ids, range):
        return [(ids.start, len(ids))]
    found: list[tuple[int, int]] = []
    for id in ids:
        if found and id == sum(found[-1]):
            found[-1] = found[-1][0], found[-1][1] + 1
        else:
            found.append((id, 1))
    return found


def connect(path: str, *, blocking: bool = False) -> socket.socket:
    """Return a socket connected to a path; OSError if nothing listens.

    Where many others are connecting too, BlockingIOError, or a moment's wait.
    """
    return _socket(unixsocket.connect, path, blocking=blocking)


def connect_to_daemon(path: str) -> socket.socket:
    """Return a blocking socket connected to a daemon's; OSError, or UntrustedSocketError."""
    return _socket(unixsocket.connect_to_daemon, path, blocking=True)


def listen(path: str, mode: int = 0o660) -> socket.socket:
    """Return a non-blocking listening socket that took a path's place in one step."""
    return _socket(lambda sock, place: unixsocket.bind(sock, place, mode), path)


def _socket(
    name: Callable[[socket.socket, str], None], path: str, *, blocking: bool = False
) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.setblocking(blocking)
    try:
        name(sock, path)
    except BaseException:  # closed, whatever it is; raised on
        sock.close()
        raise
    return sock


def receive(sock: socket.socket) -> bytes | None:
    """Return what has come, or None; nothing but `b""` comes from a process that is gone."""
    try:
        return sock.recv(READ)
    except BlockingIOError:
        return None
    except OSError:  # reset by the other side
        return b""
