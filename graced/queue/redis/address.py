"""Where a queue in Redis is: its URL, and the library that can follow it."""

from __future__ import annotations

from graced.queue.address import Library, QueueURLError
from graced.queue.servers import url as server_url

LIBRARY = Library("redis", "redis", "python3-redis")
ADVICE = "write redis://host:6379/0, rediss:// with TLS, or unix:///path.sock"
URL_PATTERN = r"(redis|rediss|unix)://[^\x00-\x1f]*"


def check_url(url: str) -> server_url.ServerURL:
    """Return what a URL says. Raises QueueURLError."""
    found = server_url.read(url, ADVICE)
    if not url.startswith("unix:"):
        _check_place(found.library)
    return found


def _check_place(url: str) -> None:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise QueueURLError("has a host or a port that can't be", ADVICE) from None
    database = parts.path.strip("/")
    if database and not database.isdecimal():  # the library would take the first one
        raise QueueURLError(f"names the database {database!r}, and Redis numbers them", ADVICE)
