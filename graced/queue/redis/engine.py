"""Queues in Redis, as :mod:`graced.queue.engines` finds them.

Light to import: the client library is loaded by whoever connects.
"""

from __future__ import annotations

from graced import program
from graced.queue.redis.address import ADVICE, LIBRARY, URL_PATTERN, check_url

__all__ = ["ADVICE", "LIBRARY", "URL_PATTERN", "check_url"]  # parts of what an engine is

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from graced.queue.plan import KeeperPlan
    from graced.queue.protocol import ClientQueue, QueueView
    from graced.queue.redis.link import RedisLink
    from graced.queue.servers.storage import ServedQueue
    from graced.queue.servers.url import ServerURL
    from graced.settings import Pool


def queue_of(url: str, pool: str) -> str:
    """Return a queue's name: the pool's, unless the URL says another one."""
    return check_url(url).queue or pool


def file_of(url: str | None, pool: str, state_dir: str) -> str:
    """Return where the locks of a host's workers are. Raises QueueURLError."""
    check_url(url or "")
    return f"{state_dir}/{pool}.queue"


def described(url: str | None, file: str) -> tuple[str, str]:
    """Return what people are told that the queue is kept in, and the URL that leads to it."""
    shown = check_url(url or "").shown
    return shown, shown


def keeper_of(file: str) -> None:
    """No keeper has a queue for itself."""


def open_storage(plan: KeeperPlan, tell: Callable[[tuple[Any, ...]], None]) -> ServedQueue:
    """Return the queue as its keeper has it."""
    from graced.queue.servers.storage import ServedQueue

    url = check_url(plan.url or "")
    return ServedQueue(plan, tell, lambda: connect(url, plan.pool, plan.name), "redis", url.poll)


def connect(url: ServerURL, pool: str, program: str) -> RedisLink:
    """Connect. ServerGone, StorageError, ClientMissing."""
    from graced.queue.redis.link import RedisLink

    return RedisLink(url, url.queue or pool, f"{program} {pool}")


def open_offline(file: str, pool: Pool) -> ClientQueue:
    """Open a queue without a keeper. ServerGone, StorageError, ClientMissing."""
    from graced.queue.servers.client import ServerEnd

    url = check_url(pool.queue or "")
    return ServerEnd(lambda: connect(url, pool.name, f"{program.name} submit"))


def view_offline(file: str, pool: Pool) -> QueueView:
    """Look at a queue without a keeper."""
    return open_offline(file, pool)


def script(url: str) -> str:
    """Return what `graced queue init` runs, as redis-cli takes it."""
    from graced.queue.redis.setup import script

    return script(url)


def init(url: str) -> str:
    """Load the function, or renew it; return where it is."""
    from graced.queue.redis.setup import make

    return make(url)


def status(url: str, pool: str) -> dict[str, Any]:
    """Return how the server is, which hosts share a queue, and what is in it."""
    found = check_url(url)
    link = connect(found, pool, f"{program.name} queue status")
    try:
        return {"queue": found.queue or pool, "url": found.shown, **link.status()}
    finally:
        link.close()
