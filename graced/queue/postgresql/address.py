"""Where a queue in PostgreSQL is: its URL, and the library that can follow it."""

from __future__ import annotations

from graced.queue.address import Library
from graced.queue.servers import url as server_url

LIBRARY = Library("psycopg", "postgresql", "python3-psycopg")
ADVICE = "write postgresql://user@host/database, as for psql"
URL_PATTERN = r"postgres(ql)?://[^\x00-\x1f]*"


def check_url(url: str) -> server_url.ServerURL:
    """Return what a URL says. Raises QueueURLError."""
    return server_url.read(url, ADVICE)
