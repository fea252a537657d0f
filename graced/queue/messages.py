"""What workers and clients ask of a keeper: the bodies of their frames, read and checked.

ProtocolError is raised for what cannot be; nothing here changes anything. The frames
themselves are in :mod:`.wire`.
"""

from __future__ import annotations

import struct

from graced import settings
from graced.queue import jsonvalue, wire
from graced.queue.job import (
    BIGGEST,
    MAX_PAYLOAD,
    NOTHING_MORE,
    Discarded,
    Done,
    Outcome,
    Postponed,
    Raised,
    is_delay,
)
from graced.queue.protocol import STATES
from graced.queue.wire import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from graced.queue.terms import Terms

PAGE = 500  # jobs in one listing
MOST_IDS = 100_000  # jobs in one request to retry or to drop
MOST_JSON = 4 << 20  # bytes of a request in JSON, which takes many times that once it is read
LONGEST_NAME = 100  # characters of an owner's name
OUTCOMES: tuple[Callable[[str, float], Outcome], ...] = (
    lambda text, _after: Done(text) if text else NOTHING_MORE,
    lambda text, _after: Raised(text),
    Postponed,
    lambda text, _after: Discarded(text),
)


def introduction(body: bytes) -> tuple[str, list[tuple[int, int]], bool]:
    """Return which worker says HELLO, what it has in hand, whether it can cancel single jobs."""
    said = _fields(body)
    name, holds = said.get("owner"), said.get("holds")
    if not isinstance(name, str) or not isinstance(holds, list) or not all(map(_is_held, holds)):
        raise ProtocolError("a HELLO that says no owner or no jobs")
    if not name.replace(":", "").isalnum() or not name.isascii() or len(name) > LONGEST_NAME:
        raise ProtocolError("an owner of a strange name")
    return name, [(id, token) for id, token in holds], said.get("cancels") is True


def _is_held(job: Any) -> bool:
    return isinstance(job, list) and len(job) == 2 and all(map(_is_number, job))


def capacity(body: bytes) -> int:
    """Return how many jobs a worker takes at once."""
    try:
        [count] = wire.COUNT.unpack(body)
    except struct.error:
        raise ProtocolError("a WANT that cannot be read") from None
    if count > settings.MOST_AT_ONCE:
        raise ProtocolError(f"{count} jobs at once; at most {settings.MOST_AT_ONCE}")
    return int(count)


def held(body: bytes) -> tuple[int, int]:
    """Return the job that a worker puts back, and its token."""
    try:
        id, token = wire.HELD.unpack(body)
    except struct.error:
        raise ProtocolError("a PUT_BACK that cannot be read") from None
    return id, token


def settlement(body: bytes) -> tuple[int, int, Outcome, bool]:
    """Return the job, its token, what became of it, and whether another one is wanted."""
    try:
        id, token, number, more, after = wire.SETTLEMENT.unpack_from(body)
        outcome = OUTCOMES[number](body[wire.SETTLEMENT.size :].decode(), after)
    except (struct.error, IndexError, UnicodeDecodeError):
        raise ProtocolError("a settle that cannot be read") from None
    if not is_delay(after):
        raise ProtocolError("a delay must be between 0 and ten years")
    return id, token, outcome, bool(more)


def parcel(body: bytes) -> tuple[list[str], Terms]:
    """Return the payloads of what is submitted, and their terms."""
    payloads, terms = wire.unpack_payloads(body)
    if terms.schedule is not None:
        raise ProtocolError("a schedule's jobs are submitted by the daemon alone")
    if any(jsonvalue.size(p) > MAX_PAYLOAD for p in payloads):
        raise ProtocolError(f"a payload is at most {MAX_PAYLOAD} bytes of JSON")
    return payloads, terms


def job_id(body: bytes) -> int:
    """Return the job that a client waits for, or asks about."""
    return _number(_fields(body), "id")


def job_ids(body: bytes) -> list[int]:
    """Return the jobs that are to be retried, dropped or cancelled."""
    ids = _fields(body).get("ids")
    if not isinstance(ids, list) or not all(type(id) is int for id in ids):
        raise ProtocolError("ids is not a list of numbers")
    if len(ids) > MOST_IDS:
        raise ProtocolError(f"{len(ids)} jobs at once; at most {MOST_IDS}")
    return ids


def page(body: bytes) -> tuple[str | None, int, int]:
    """Return the state that is to be listed, after which id, and how many jobs."""
    wanted = _fields(body)
    after, limit = _number(wanted, "after"), _number(wanted, "limit")
    state = wanted.get("state")
    if state is not None and state not in STATES:
        raise ProtocolError(f"no such state; there are {', '.join(STATES)}")
    return state, after, max(1, min(limit, PAGE))


def paused(body: bytes) -> bool:
    """Return whether jobs are to be withheld from now on."""
    wanted = _fields(body).get("paused")
    if not isinstance(wanted, bool):
        raise ProtocolError("paused is neither true nor false")
    return wanted


def _fields(body: bytes) -> dict[str, Any]:
    if len(body) > MOST_JSON:
        raise ProtocolError(f"a request of {len(body)} bytes; at most {MOST_JSON}")
    fields = wire.decode(body)
    if not isinstance(fields, dict):
        raise ProtocolError("a request is a JSON object")
    return fields


def _number(fields: dict[str, Any], name: str) -> int:
    number: Any = fields.get(name)
    if not _is_number(number):
        raise ProtocolError(f"{name} is no number from 0 to {BIGGEST}")
    return number  # type: ignore[no-any-return]


def _is_number(found: Any) -> bool:
    return type(found) is int and 0 <= found <= BIGGEST


# What is shown to people

MAX_SHOWN_TEXT = 300  # characters of a payload,
MAX_SHOWN_STACK = 1500  #   and of a traceback


def shortened(job: dict[str, Any]) -> dict[str, Any]:
    """Return a job's listing with its long texts cut short; the payload is JSON as a text."""
    shown = {**job, "payload": _cut(str(job.get("payload")), MAX_SHOWN_TEXT)}
    shown.pop("result", None)
    if job.get("evidence"):
        evidence = jsonvalue.read(job["evidence"])
        shown["evidence"] = {
            key: _cut(value, MAX_SHOWN_STACK) if isinstance(value, str) else value
            for key, value in evidence.items()
        }
    return shown


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
