"""Queues on a server, as :mod:`graced.queue.engines` finds them.

Light to import: the client library is loaded by whoever connects.
"""

from __future__ import annotations

import os
from importlib import import_module

from graced import program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from graced.queue.plan import KeeperPlan
    from graced.queue.protocol import ClientQueue, QueueView, Storage
    from graced.queue.servers.link import Link
    from graced.queue.servers.url import ServerURL
    from graced.settings import Pool

_LOCKS = ".queue"  # a pool's locks are in a file's place that has its name and this


class ServerEngine:
    """A kind of server, from the module `address` of its package, which has `link` and `setup`."""

    def __init__(self, address: Any) -> None:
        self._package = address.__package__
        self.LIBRARY, self.ADVICE = address.LIBRARY, address.ADVICE
        self.URL_PATTERN: str = address.URL_PATTERN
        self.check_url: Callable[[str], ServerURL] = address.check_url

    def _part(self, name: str) -> Any:
        return import_module(f"{self._package}.{name}")

    def connect(self, url: ServerURL, pool: str, about: str) -> Link:
        """Connect. ServerGone, StorageError, ClientMissing."""
        link: Link = self._part("link").connect(url, url.queue or pool, about)
        return link

    def queue_of(self, url: str, pool: str) -> str:
        """Return a queue's name: the pool's, unless the URL says another one."""
        return self.check_url(url).queue or pool

    def file_of(self, url: str | None, pool: str, state_dir: str) -> str:
        """Return where the locks of a host's workers are. Raises QueueURLError."""
        self.check_url(url or "")
        return f"{state_dir}/{pool}{_LOCKS}"

    def described(self, url: str | None, file: str) -> tuple[str, str]:
        """Return what people are told that the queue is kept in, and the URL that leads to it."""
        found = self.check_url(url or "")
        if found.queue is not None:
            return found.shown, found.shown
        pool = os.path.basename(file).removesuffix(_LOCKS)
        return found.shown, f"{found.shown}{'&' if '?' in found.shown else '?'}queue={pool}"

    def keeper_of(self, file: str) -> None:
        """No keeper has a queue for itself."""

    def open_storage(self, plan: KeeperPlan, tell: Callable[[tuple[Any, ...]], None]) -> Storage:
        """Return the queue as its keeper has it."""
        from graced.queue.servers.storage import ServedQueue

        url, about = self.check_url(plan.url or ""), f"{plan.name} {plan.pool}"
        name = self._package.rpartition(".")[2]
        return ServedQueue(plan, tell, lambda: self.connect(url, plan.pool, about), name, url.poll)

    def open_offline(self, file: str, pool: Pool) -> ClientQueue:
        """Open a queue without a keeper. ServerGone, StorageError, ClientMissing."""
        from graced.queue.servers.client import ServerEnd

        url, about = self.check_url(pool.queue or ""), f"{program.name} submit {pool.name}"
        return ServerEnd(lambda: self.connect(url, pool.name, about))

    def view_offline(self, file: str, pool: Pool) -> QueueView:
        """Look at a queue without a keeper."""
        return self.open_offline(file, pool)

    def script(self, url: str) -> str:
        """Return what `graced queue init` runs, as the server's own command takes it."""
        script: str = self._part("setup").script(url)
        return script

    def init(self, url: str) -> str:
        """Make what the server needs, or bring it up to date; return where it is."""
        place: str = self._part("setup").make(url)
        return place

    def status(self, url: str, pool: str, file: str) -> dict[str, Any]:
        """Return how the server is, which hosts share a queue, and what is in it."""
        found = self.check_url(url)
        link = self.connect(found, pool, f"{program.name} queue status {pool}")
        try:
            return {"queue": found.queue or pool, "url": found.shown, **link.status()}
        finally:
            link.close()
