"""Where a queue in Redis is: its URL, and the library that can follow it."""

from __future__ import annotations

from graced.queue.address import Library
from graced.queue.servers import url as server_url

SCHEMES = ("redis", "rediss", "unix")
LIBRARY = Library("redis", "redis", "python3-redis")
ADVICE = "write redis://host:6379/0, rediss:// with TLS, or unix:///path.sock"
URL_PATTERN = r"(redis|rediss|unix)://[^\x00-\x1f]*"


def check_url(url: str) -> server_url.ServerURL:
    """Return what a URL says. Raises QueueURLError."""
    return server_url.read(url, ADVICE)
