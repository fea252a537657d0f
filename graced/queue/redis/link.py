"""A queue in Redis, as a keeper or a client talks to it: every call is one of our function.

What the calls do is in functions.lua; what is asked, and why, in
:mod:`graced.queue.servers.link`.
"""

from __future__ import annotations

from graced.queue.protocol import NO_SUCH_JOB, StorageError
from graced.queue.redis.connection import Connection
from graced.queue.servers.link import Answer, Expired, Handout, Submission
from graced.queue.standing import Standing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from graced.queue.policy import Policy
    from graced.queue.servers.link import HostName, Link, Settle, Turn
    from graced.queue.servers.url import ServerURL
    from graced.queue.standing import Wanted
    from graced.queue.terms import Terms

VERSION = 1  # of the function, and of what it keeps
FUNCTION = f"graced_{VERSION}"  # that of another version may stand beside it
WITHOUT_ROOM = f"{FUNCTION}_full"  # the same, where the server's memory is full
NEED_ROOM = ("submit", "stream_open", "stream_stage")
CALL_LIMIT = 10.0  # seconds
STEP = 1000  # jobs in one step of what can wait
TIMES = ("submitted", "due", "began", "ended", "scheduled", "since", "left")


class RedisLink:
    """See :class:`graced.queue.servers.link.Link`."""

    rings = True

    def __init__(self, url: ServerURL, queue: str, about: str) -> None:
        """Connect. ServerGone, StorageError, ClientMissing."""
        self._url = url
        self._prefix = f"{url.schema}:{{{queue}}}"
        self._connection = Connection(url, about, CALL_LIMIT)
        self._host, self._session = "", 0
        try:
            self._check()
            self._connection.listen(f"{self._prefix}:bell")
        except BaseException:  # closed, whatever it is; raised on
            self._connection.close()
            raise

    def _check(self) -> None:
        """See that the function is there, and that what is kept is not of a newer one."""
        found = self._call("check").get("version")
        if found is not None and found > VERSION:
            raise StorageError(
                f"{self._url.shown}: what it keeps is of a newer graced (version {found}, ours is"
                f" {VERSION}); upgrade graced on this host"
            )

    def fileno(self) -> int:
        return self._connection.fileno()

    def heard(self) -> list[str]:
        """Return what was rung since the last call; of what we have done ourselves, ends alone."""
        mine = self._connection.name
        heard = self._connection.heard()
        return [text for name, text in heard if name != mine or text.startswith("ended")]

    def close(self) -> None:
        self._connection.close()

    # -- a keeper's

    def join(self, host: HostName, lease: float, policy: Policy) -> list[Handout]:
        found = self._call(
            "join",
            version=VERSION,
            daemon=host.daemon,
            name=host.name,
            place=host.place,
            lease=lease,
            max_waiting=policy.max_waiting,
        )
        self._host, self._session = found["host"], found["session"]
        return [_handout(told) for told in found["held"]]

    def turn(self, turn: Turn, policy: Policy) -> Answer:
        """Do all of a turn, or nothing; without new jobs where the server's memory is full."""
        try:
            return self._turn(turn, policy, FUNCTION)
        except StorageError as trouble:
            if not trouble.full:
                raise
            refusal = str(trouble)
        answer = self._turn(turn.replace(submissions=()), policy, WITHOUT_ROOM)
        return answer.replace(accepted=[refusal] * len(turn.submissions))

    def _turn(self, turn: Turn, policy: Policy, function: str) -> Answer:
        retry = policy.retry
        found = self._connection.call(
            function,
            self._prefix,
            "turn",
            {
                "host": self._host,
                "session": self._session,
                "lease": turn.lease,
                "settles": [_settle(settle) for settle in turn.settles],
                "submissions": [_submission(submission) for submission in turn.submissions],
                "adopted": list(turn.adopted),
                "idle": list(turn.idle),
                "looks": turn.looks,
                "policy": [policy.max_attempts, retry.first, retry.factor, retry.limit],
            },
        )
        if found.get("lost"):
            return Answer(lost=True)
        due = found.get("due_in")
        return Answer(
            jobs=[_handout(told) for told in found["jobs"]],
            held=[_handout(told) for told in found["held"]],
            late=[(id, token) for id, token in found["late"]],
            accepted=[told if isinstance(told, str) else list(told) for told in found["accepted"]],
            cancelled=[(id, token) for id, token in found["cancelled"]],
            expired=[
                Expired(told["host"], told["daemon"], told["jobs"], told["lease"])
                for told in found["expired"]
            ],
            more=found["more"],
            paused=found["paused"],
            due_in=None if due is None else due / 1000,
        )

    def leave(self) -> None:
        if self._host:
            self._call("leave", host=self._host)

    def maintain(self, keep: float) -> bool:
        return bool(self._call("maintain", keep=keep, most=STEP)["more"])

    def adopt(self, name: str, wanted: Wanted, now: int) -> Standing:
        """Watch a schedule from now on; return where it stands."""
        rule, since, forget = wanted
        found = self._call("adopt", name=name, rule=rule, since=since, forget=forget, now=now)
        return Standing(rule, found["since"], found.get("last"))

    # -- new jobs

    def submit(self, payloads: Sequence[str], terms: Terms) -> list[int]:
        asked = _submission(Submission(payloads, terms))
        return list(self._call("submit", **asked)["ids"])

    def open_stream(self) -> int:
        return int(self._call("stream_open", host=self._host or None)["stream"])

    def stage(self, stream: int, payloads: Sequence[str], terms: Terms) -> list[int]:
        asked = _submission(Submission(payloads, terms))
        return list(self._call("stream_stage", stream=stream, **asked)["ids"])

    def commit_stream(self, stream: int, terms: Terms) -> int:
        return int(self._call("stream_commit", stream=stream, delay=terms.delay)["count"])

    def abort_stream(self, stream: int) -> None:
        self._call("stream_abort", stream=stream)

    # -- those there are

    def retry(self, ids: Sequence[int]) -> dict[int, str]:
        return self._each("retry", ids)

    def drop(self, ids: Sequence[int]) -> dict[int, str]:
        return self._each("drop", ids)

    def cancel(self, ids: Sequence[int]) -> tuple[dict[int, str], int]:
        told = self._each("cancel", ids)
        refused = {id: why for id, why in told.items() if why}
        return refused, len(told) - len(refused)

    def _each(self, what: str, ids: Sequence[int]) -> dict[int, str]:
        known = [id for id in ids if 0 < id < 1 << 46]  # as many as a number of the server's holds
        refused = dict.fromkeys(set(ids).difference(known), NO_SUCH_JOB)
        return refused | {int(id): why for id, why in self._call(what, ids=known)["refused"]}

    def pause(self, paused: bool) -> None:
        self._call("pause", paused=paused)

    def look(self, id: int, *, watch: bool = False) -> dict[str, Any] | None:
        if not 0 < id < 1 << 46:
            return None
        found = self._call("look", id=id, watch=watch).get("job")
        return None if found is None else _listing(found)

    def attempts(self, id: int) -> list[dict[str, Any]]:
        return [
            {"host": None, **_in_seconds(told)} for told in self._call("attempts", id=id)["tries"]
        ]

    def page(self, state: str | None, after: int, limit: int) -> list[dict[str, Any]]:
        found = self._call("page", state=state, after=min(after, 1 << 46), limit=limit)
        return [_listing(told) for told in found["jobs"]]

    def counts(self) -> dict[str, Any]:
        found = self._call("counts")
        if "oldest" in found:
            found["oldest"] /= 1000
        return found

    # -- how the server is

    def warnings(self) -> list[str]:
        """Return what the server does not promise, as it is set."""
        return _warnings(self._settings())

    def _settings(self) -> dict[str, str]:
        """Return how durable the server is set to be; nothing where it does not tell."""
        found: dict[str, str] = {}
        for name in ("appendonly", "appendfsync", "maxmemory-policy"):
            try:
                told = self._connection.run("CONFIG", "GET", name)
            except StorageError:  # as of a service that is rented
                return {}
            pairs = told.items() if isinstance(told, dict) else zip(told[::2], told[1::2])
            found |= {str(key): str(value) for key, value in pairs}
        return found

    def status(self) -> dict[str, Any]:
        """Return version, durability, hosts and counts."""
        settings = self._settings()
        about = self._connection.run("INFO", "server")
        hosts = self._call("hosts")["hosts"]
        return {
            "engine": "redis",
            "version": _version(about),
            "durability": ", ".join(f"{name}={value}" for name, value in settings.items()),
            "warnings": _warnings(settings),
            "hosts": [_in_seconds(host) for host in hosts],
            "counts": self.counts(),
        }

    def _call(self, what: str, **asked: Any) -> dict[str, Any]:
        function = FUNCTION if what in NEED_ROOM else WITHOUT_ROOM
        return self._connection.call(function, self._prefix, what, asked)


def _warnings(settings: dict[str, str]) -> list[str]:
    if not settings:
        return ["the server does not tell how it is set (CONFIG GET): its durability is unknown"]
    found = []
    lost = "when the server crashes, the last jobs that it accepted or settled may be as before"
    if settings.get("appendonly") != "yes":
        found.append(f"appendonly is off: {lost}, or all; set appendonly yes")
    elif settings.get("appendfsync") != "always":
        found.append(
            f"appendfsync is {settings.get('appendfsync')}: {lost}; set appendfsync always"
        )
    if settings.get("maxmemory-policy") != "noeviction":
        found.append(
            f"maxmemory-policy is {settings.get('maxmemory-policy')}: where memory is short, the"
            " server forgets jobs; set maxmemory-policy noeviction"
        )
    return found


def _version(about: Any) -> str:
    if isinstance(about, dict):
        return str(about.get("valkey_version") or about.get("redis_version", ""))
    lines = dict(line.split(":", 1) for line in str(about).splitlines() if ":" in line)
    return lines.get("valkey_version") or lines.get("redis_version", "")


def _settle(settle: Settle) -> dict[str, Any]:
    return {
        "id": settle.id,
        "token": settle.token,
        "kind": settle.kind,
        "text": settle.text,
        "failures": settle.failures,
        "after": settle.after,
    }


def _submission(submission: Submission) -> dict[str, Any]:
    terms = submission.terms
    return {
        "payloads": list(submission.payloads),
        "terms": {
            "delay": terms.delay,
            "priority": terms.priority,
            "unique": terms.unique,
            "max_attempts": terms.max_attempts or None,
            "schedule": terms.schedule,
            "scheduled": terms.scheduled,
        },
    }


def _handout(told: dict[str, Any]) -> Handout:
    return Handout(
        told["id"],
        told["token"],
        told["owner"],
        told.get("daemon") or "",
        told["failures"],
        told.get("limit") or 0,
        told["submitted"],
        told["due"],
        told.get("scheduled"),
        told["payload"],
    )


LISTED = (
    "max_attempts unique began ended owner host result evidence progress schedule scheduled".split()
)


def _listing(told: dict[str, Any]) -> dict[str, Any]:
    return {**dict.fromkeys(LISTED), **_in_seconds(told)}


def _in_seconds(told: dict[str, Any]) -> dict[str, Any]:
    return {k: v / 1000 if k in TIMES and v is not None else v for k, v in told.items()}


connect: Callable[[ServerURL, str, str], Link] = RedisLink
