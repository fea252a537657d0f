"""The URL of a queue on a server: what graced reads, what the library gets, what is shown.

A password is in the URL for the library alone. Nothing else may be shown, logged or raised.
"""

from __future__ import annotations

import re

from graced import units
from graced.queue.address import QueueURLError
from graced.record import Record

OWN = ("queue", "schema", "poll")  # the parameters that are ours, and not the library's
SECRET = ("password", "sslpassword", "ssl_password", "oauth_client_secret", "scram_client_key")
LONGEST_NAME = 100  # characters of a queue's name
LONGEST_SCHEMA = 60  # bytes
SHORTEST_POLL = 0.1  # seconds
HIDDEN = "***"

_START = r"([^@/?#:]+:/{0,2}[^@/?#:]*):"
_REST = r"[^@?]*(?:\?(?:[\w%]+=.*)?)?"
_PASSWORD = rf"(?s){_START}([^@/?#]*)@({_REST})"
_PORT = rf"[\w.,:\]-]*(?:/{_REST})?"  # or ports, of several hosts
_UNQUOTED = rf"(?s){_START}(?!{_PORT}$)(.*)@(.*)"  # that has @ / ? # in it


class ServerURL(Record):
    """A queue's URL, taken apart."""

    library: str  # for the client library
    shown: str  # for people
    queue: str | None = None  # None: as the pool is called
    schema: str = "graced"
    poll: float | None = None  # seconds
    secrets: tuple[str, ...] = ()

    def scrub(self, text: str) -> str:
        """Return a text of the library's without what is secret."""
        for secret in self.secrets:
            text = text.replace(secret, HIDDEN)
        return text


def read(url: str, advice: str) -> ServerURL:
    """Take a URL apart. Raises QueueURLError; `advice` says what to write."""
    if any(c < " " for c in url):
        raise QueueURLError("has control characters", advice)
    found = re.fullmatch(_PASSWORD, url)
    if found is None and re.fullmatch(_UNQUOTED, url) is not None:
        raise QueueURLError(
            "has a password with one of @ / ? # in it", "write %40, %2F, %3F or %23 for it"
        )
    before, mark, query = url.partition("?")
    own: dict[str, str] = {}
    others = []
    for part in query.split("&") if mark else []:
        name, _, value = part.partition("=")
        if name in OWN:
            own[name] = _unquoted(value)
        else:
            others.append(part)
    secrets = [part.partition("=")[2] for part in others if _is_secret(part)]
    if found is not None:
        secrets.append(found[2])
    secrets += [_unquoted(secret) for secret in secrets]
    return ServerURL(
        library=_joined(before, others),
        shown=shown(url),
        queue=_name(own.get("queue"), advice),
        schema=_schema(own.get("schema", "graced"), advice),
        poll=_poll(own.get("poll"), advice),
        secrets=tuple({secret for secret in secrets if secret}),
    )


def shown(url: str) -> str:
    """Return any queue's URL as people may see it."""
    if (found := re.fullmatch(_PASSWORD, url) or re.fullmatch(_UNQUOTED, url)) is not None:
        url = f"{found[1]}:{HIDDEN}@{found[3]}"
    before, mark, query = url.partition("?")
    parts = [
        f"{part.partition('=')[0]}={HIDDEN}" if _is_secret(part) else part
        for part in query.split("&")
    ]
    return before + mark + "&".join(parts)


def _is_secret(part: str) -> bool:
    return _unquoted(part.partition("=")[0]).lower() in SECRET


def _joined(before: str, parts: list[str]) -> str:
    return f"{before}?{'&'.join(parts)}" if parts else before


def _unquoted(text: str) -> str:
    from urllib.parse import unquote

    return unquote(text)


def _name(name: str | None, advice: str) -> str | None:
    if name is not None and not 0 < len(name) <= LONGEST_NAME:
        raise QueueURLError(f"names a queue of {len(name)} characters", advice)
    return name


def _schema(name: str, advice: str) -> str:
    if not 0 < len(name.encode()) <= LONGEST_SCHEMA or name.startswith("pg_"):
        raise QueueURLError(f"names the schema {name!r}, which can't be", advice)
    return name


def _poll(text: str | None, advice: str) -> float | None:
    if text is None:
        return None
    try:
        seconds = units.duration(text)
    except ValueError:
        raise QueueURLError(f"says poll={text}", "write a duration such as poll=1s") from None
    if seconds < SHORTEST_POLL:
        raise QueueURLError(f"says poll={text}", "write at least poll=100ms")
    return seconds
