"""A queue in PostgreSQL, as a keeper or a client talks to it: every call is one statement.

What the statements do is in schema.sql; what is asked, and why, in
:mod:`graced.queue.servers.link`.
"""

from __future__ import annotations

import json
import time

from graced import program
from graced.queue.postgresql.connection import Connection
from graced.queue.protocol import QueueError, StorageError
from graced.queue.servers.link import Answer, Expired, Handout
from graced.queue.standing import Standing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from graced.queue.policy import Policy
    from graced.queue.servers.link import HostName, Link, Submission, Turn
    from graced.queue.servers.url import ServerURL
    from graced.queue.standing import Wanted
    from graced.queue.terms import Terms

    Row = list[bytes | None]

VERSION = 1  # of the tables and functions
TURN_LIMIT = 5.0  # seconds for what others wait for
CALL_LIMIT = 20.0  # and for what takes its time
DURABILITY = ("synchronous_commit", "fsync", "synchronous_standby_names")
STEP = 1000  # jobs in one step of what can wait

# How long a submit waits for a transaction that is open and has the same unique key: longer than
# the server's deadlock_timeout, for two keepers in each other's way go on after that. All else in
# a keeper's turn waits along, so seldom that long.
PATIENCE, IMPATIENCE = b"1500ms", b"10ms"
IMPATIENT_FOR = 20.0  # seconds after it was in vain


class PostgresLink:
    """See :class:`graced.queue.servers.link.Link`."""

    def __init__(self, url: ServerURL, queue: str, about: str) -> None:
        """Connect. ServerGone, StorageError, ClientMissing."""
        self._queue = _text(queue)
        self._schema = quoted(url.schema)
        self._url = url
        self._connection = Connection(url, about)
        self._host = self._session = b""
        self._limit = TURN_LIMIT
        self._patient_from = 0.0
        try:
            self._check()
        except BaseException:  # closed, whatever it is; raised on
            self._connection.close()
            raise

    def _check(self) -> None:
        """See that the tables are there and ours, and whether the server can ring."""
        [[version, backend, reads_only, bell]] = self._connection.run(
            "SELECT version, pg_backend_pid(), pg_is_in_recovery(),"
            f" {self._schema}.bell($1) FROM {self._schema}.meta",
            [self._queue],
            limit=TURN_LIMIT,
        )
        found, place = int(version or 0), self._url.shown
        if found > VERSION:
            raise StorageError(
                f"{place}: its tables are those of a newer graced (version {found}, ours is"
                f" {VERSION}); upgrade graced on this host"
            )
        if found < VERSION:
            raise StorageError(
                f"{place}: its tables are those of an older graced (version {found}, ours is"
                f" {VERSION}); run `{program.name} queue init`"
            )
        if reads_only == b"t":
            raise StorageError(f"{place}: the server is a standby, and read-only")
        self.rings = int(backend or 0) == self._connection.backend  # else a pooler is in between
        self._prepares = self.rings
        if self.rings:
            # Each statement has its index, whatever the statistics of a table that was just empty,
            # and however many rows a plan expects whose LIMIT is a parameter.
            self._connection.run(
                "SELECT set_config('enable_seqscan', 'off', false),"
                " set_config('enable_bitmapscan', 'off', false),"
                " set_config('enable_hashjoin', 'off', false),"
                " set_config('enable_mergejoin', 'off', false),"
                " set_config('plan_cache_mode', 'force_generic_plan', false),"
                " set_config('jit', 'off', false),"  # it takes longer than what it is for
                " set_config('default_transaction_isolation', 'read committed', false)",
                limit=TURN_LIMIT,
            )
            self._connection.run(f"LISTEN {(bell or b'').decode()}", limit=TURN_LIMIT)

    def fileno(self) -> int:
        return self._connection.fileno()

    def heard(self) -> list[str]:
        """Return what was rung since the last call; of what we have done ourselves, ends alone."""
        mine = self._connection.backend
        heard = self._connection.heard()
        return [text for pid, text in heard if pid != mine or text.startswith("ended")]

    def close(self) -> None:
        self._connection.close()

    # -- a keeper's

    def join(self, host: HostName, lease: float, policy: Policy) -> list[Handout]:
        rows = self._call(
            "host_join",
            [
                self._queue,
                _text(host.daemon),
                _text(host.name),
                _text(host.place),
                _number(lease),
                _number(policy.max_waiting),
            ],
            limit=TURN_LIMIT,
        )
        [[_kind, self._host, self._session, *_], *held] = rows  # type: ignore[assignment]
        return [_handout(row) for row in held]

    def turn(self, turn: Turn, policy: Policy) -> Answer:
        settles, order = turn.settles, _order(turn.submissions)
        asked = [turn.submissions[n] for n in order]
        firsts, first = [], 1
        for submission in asked:
            firsts.append(first)
            first += len(submission.payloads)
        terms = [submission.terms for submission in asked]
        retry = policy.retry
        is_patient = time.monotonic() >= self._patient_from
        rows = self._call(
            "turn",
            [
                self._queue,
                self._host,
                self._session,
                _number(turn.lease),
                _array(settle.id for settle in settles),
                _array(settle.token for settle in settles),
                _array(settle.kind for settle in settles),
                _array(settle.failures for settle in settles),
                _array(settle.after for settle in settles),
                _array(settle.text for settle in settles),
                _array(firsts),
                _array(t.delay for t in terms),
                _array(t.priority for t in terms),
                _array(t.unique for t in terms),
                _array(t.max_attempts or None for t in terms),
                _array(t.schedule for t in terms),
                _array(t.scheduled for t in terms),
                _array(payload for submission in asked for payload in submission.payloads),
                _array(turn.adopted),
                _array(turn.idle),
                b"t" if turn.looks else b"f",
                _array((policy.max_attempts, retry.first, retry.factor, retry.limit)),
                PATIENCE if is_patient else IMPATIENCE,
            ],
            limit=self._limit,
        )
        if asked and is_patient and any(row[0] == b"busy" for row in rows):
            self._patient_from = time.monotonic() + IMPATIENT_FOR
        return _answer(rows, order)

    def leave(self) -> None:
        if self._host:
            self._call("host_leave", [self._host], limit=TURN_LIMIT)

    def maintain(self, keep: float) -> bool:
        done = self._call(
            "maintain",
            [self._queue, _number(keep), _number(STEP)],
            limit=CALL_LIMIT,
        )
        return done[0][0] == b"t"

    def adopt(self, name: str, wanted: Wanted, now: int) -> Standing:
        """Watch a schedule from now on; return where it stands."""
        rule, since, forget = wanted
        [[since_then, last]] = self._call(
            "adopt",
            [
                self._queue,
                _text(name),
                _text(rule),
                _number(since),
                b"t" if forget else b"f",
                _number(now),
            ],
            limit=TURN_LIMIT,
        )
        return Standing(rule, int(since_then or 0), None if last is None else int(last))

    # -- new jobs

    def submit(self, payloads: Sequence[str], terms: Terms) -> list[int]:
        asked = [self._queue, _number(len(payloads)), _text(terms.unique)]
        refusal = self._call("refusal", asked, limit=CALL_LIMIT)
        if refusal[0][0] is not None:
            raise QueueError(refusal[0][0].decode())
        [[ids]] = self._call(
            "accept_soon",
            [
                PATIENCE,
                self._queue,
                _array(payloads),
                _number(terms.delay),
                _number(terms.priority),
                _text(terms.unique),
                _number(terms.max_attempts or None),
                _text(terms.schedule),
                _number(terms.scheduled),
            ],
            limit=CALL_LIMIT,
        )
        return _numbers(ids)

    def open_stream(self) -> int:
        [[stream]] = self._call("stream_open", [self._queue, self._host or None], limit=TURN_LIMIT)
        return int(stream or 0)

    def stage(self, stream: int, payloads: Sequence[str], terms: Terms) -> list[int]:
        [[ids]] = self._call(
            "stream_stage",
            [
                self._queue,
                _number(stream),
                _array(payloads),
                _number(terms.priority),
                _number(terms.max_attempts or None),
            ],
            limit=CALL_LIMIT,
        )
        return _numbers(ids)

    def commit_stream(self, stream: int, terms: Terms) -> int:
        [[count]] = self._call(
            "stream_commit",
            [_number(stream), _number(terms.delay)],
            limit=CALL_LIMIT,
        )
        return int(count or 0)

    def abort_stream(self, stream: int) -> None:
        self._call("stream_abort", [_number(stream)], limit=CALL_LIMIT)

    # -- those there are

    def retry(self, ids: Sequence[int]) -> dict[int, str]:
        return self._each("retry", ids)

    def drop(self, ids: Sequence[int]) -> dict[int, str]:
        return self._each("drop_jobs", ids)

    def cancel(self, ids: Sequence[int]) -> tuple[dict[int, str], int]:
        told = self._each("cancel", ids)
        refused = {id: why for id, why in told.items() if why}
        return refused, len(told) - len(refused)

    def _each(self, function: str, ids: Sequence[int]) -> dict[int, str]:
        known = [id for id in ids if 0 < id < 1 << 63]
        refused = dict.fromkeys(set(ids).difference(known), "no such job")
        rows = self._call(function, [self._queue, _array(known)], limit=CALL_LIMIT)
        return refused | {int(id or 0): _read(why) for id, why in rows}

    def pause(self, paused: bool) -> None:
        self._call("pause", [self._queue, b"t" if paused else b"f"], limit=TURN_LIMIT)

    def look(self, id: int, *, watch: bool = False) -> dict[str, Any] | None:
        [[found]] = self._call(
            "look",
            [self._queue, _number(id), b"t" if watch else b"f"],
            limit=TURN_LIMIT,
        )
        return None if found is None else json.loads(found)

    def attempts(self, id: int) -> list[dict[str, Any]]:
        rows = self._call("attempts_of", [_number(id)], limit=TURN_LIMIT)
        return [json.loads(found or b"null") for [found] in rows]

    def page(self, state: str | None, after: int, limit: int) -> list[dict[str, Any]]:
        rows = self._call(
            "listed",
            [self._queue, _text(state), _number(after), _number(limit)],
            limit=CALL_LIMIT,
        )
        return [json.loads(listing or b"null") for _job, listing in rows]

    def counts(self) -> dict[str, Any]:
        [row] = self._call("counts", [self._queue], limit=CALL_LIMIT)
        waiting, taken, done, dead, oldest, paused = row
        counts: dict[str, Any] = {
            name: int(number or 0)
            for name, number in zip(
                ("waiting", "taken", "done", "dead"), (waiting, taken, done, dead), strict=True
            )
        }
        if oldest is not None:
            counts["oldest"] = float(oldest)
        return {**counts, "paused": paused == b"t"}

    # -- how the server is

    def warnings(self) -> list[str]:
        """Return what the server does not promise, as it is set."""
        return _warnings(self._settings())

    def _settings(self) -> dict[str, str]:
        names = ", ".join(f"current_setting('{name}')" for name in DURABILITY)
        [row] = self._connection.run(f"SELECT {names}", limit=TURN_LIMIT)
        return dict(zip(DURABILITY, map(_read, row), strict=True))

    def status(self) -> dict[str, Any]:
        """Return version, durability, hosts and counts."""
        settings = self._settings()
        hosts = self._call("hosts_of", [self._queue], limit=TURN_LIMIT)
        return {
            "engine": "postgresql",
            "version": self._connection.parameter("server_version"),
            "durability": ", ".join(f"{name}={value}" for name, value in settings.items()),
            "warnings": _warnings(settings),
            "hosts": [json.loads(host or b"null") for [host] in hosts],
            "counts": self.counts(),
        }

    # -- statements

    def _call(
        self, function: str, parameters: Sequence[bytes | None] = (), *, limit: float
    ) -> list[Row]:
        """Call one of our functions."""
        places = ", ".join(f"${n}" for n in range(1, len(parameters) + 1))
        statement = f"SELECT * FROM {self._schema}.{function}({places})"
        return self._connection.run(statement, parameters, limit=limit, prepare=self._prepares)


def _warnings(settings: dict[str, str]) -> list[str]:
    found = []
    if settings["synchronous_commit"] == "off":
        what = "synchronous_commit is off: when the server crashes, the last jobs that it accepted"
        found.append(f"{what} or settled may be as before; set it to on for this role or database")
    if settings["fsync"] == "off":
        what = "fsync is off: a crash of the server's machine may cost all jobs"
        found.append(f"{what}; set it to on")
    return found


def quoted(name: str) -> str:
    """Return a name as SQL has it."""
    return '"{}"'.format(name.replace('"', '""'))


# Values in PostgreSQL's text format


def _text(value: str | None) -> bytes | None:
    return None if value is None else value.encode()


def _number(value: float | None) -> bytes | None:
    return None if value is None else repr(value).encode()


def _array(values: Iterable[str | float | None]) -> bytes:
    return f"{{{','.join(map(_element, values))}}}".encode()


def _element(value: str | float | None) -> str:
    if value is None:
        return "NULL"
    if not isinstance(value, str):
        return repr(value)
    return '"{}"'.format(value.replace("\\", "\\\\").replace('"', '\\"'))


def _read(text: bytes | None) -> str:
    return (text or b"").decode()


def _numbers(text: bytes | None) -> list[int]:
    return [int(number) for number in text.strip(b"{}").split(b",") if number] if text else []


def _handout(row: Row) -> Handout:
    _kind, id, token, failures, limit, submitted, due, scheduled, owner, daemon, payload = row
    return Handout(
        int(id or 0),
        int(token or 0),
        _read(owner),
        _read(daemon),
        int(failures or 0),
        int(limit or 0),
        round(float(submitted or 0) * 1000),
        round(float(due or 0) * 1000),
        None if scheduled is None else round(float(scheduled) * 1000),
        _read(payload),
    )


def _order(submissions: Sequence[Submission]) -> list[int]:
    """Return the order to accept jobs in: by keys, or two keepers would wait for each other."""
    keys = [submission.terms.unique for submission in submissions]
    order = list(range(len(keys)))
    having = [n for n in order if keys[n] is not None]
    for n, first in zip(having, sorted(having, key=lambda n: keys[n] or ""), strict=True):
        order[n] = first
    return order


def _answer(rows: Sequence[Row], order: Sequence[int]) -> Answer:
    jobs, held, late, cancelled, expired = [], [], [], [], []
    accepted: list[list[int] | str] = ["it was not accepted"] * len(order)
    for row in rows:
        kind, id, token, failures, limit, number, _, _, owner, daemon, text = row
        if kind == b"job":
            jobs.append(_handout(row))
        elif kind == b"held":
            held.append(_handout(row))
        elif kind == b"late":
            late.append((int(id or 0), int(token or 0)))
        elif kind == b"cancel":
            cancelled.append((int(id or 0), int(token or 0)))
        elif kind == b"new":
            accepted[order[int(id or 0) - 1]] = _numbers(text)
        elif kind in (b"full", b"busy"):
            accepted[order[int(id or 0) - 1]] = _read(text)
        elif kind == b"expired":
            count = int(failures or 0)
            expired.append(Expired(_read(owner), _read(daemon), count, float(number or 0)))
        elif kind == b"turn":
            due = None if number is None else max(float(number), 0.0)
            more, paused = failures == b"1", limit == b"1"
            return Answer(False, jobs, held, late, accepted, cancelled, expired, more, paused, due)
    return Answer(lost=True)


connect: Callable[[ServerURL, str, str], Link] = PostgresLink
