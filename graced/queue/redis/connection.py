"""One connection to Redis: a call goes out, its answer comes in, within a time limit.

No rules of the queue here. What is rung comes over a connection of its own: while a connection
listens, nothing can be asked on it.
"""

from __future__ import annotations

import json
import os

from graced import program
from graced.queue.protocol import ClientMissing, QueueError, ServerGone, StorageError
from graced.queue.redis.address import LIBRARY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from graced.queue.servers.url import ServerURL

CONNECT_LIMIT = 3.0  # seconds
NO_ROOM = "the server's memory is full (maxmemory): no room for new jobs; make some"
INIT = f"run `{program.name} queue init`"
LOGIN = ("NOAUTH", "WRONGPASS", "NOPERM")


def client_library() -> Any:
    """Return redis-py. ClientMissing if it is not there."""
    try:
        import redis
    except ImportError:
        raise ClientMissing(f"{LIBRARY.module} is not installed; {LIBRARY.remedy}") from None
    return redis


class Connection:
    """One client. ServerGone closes it; ``close`` may be called again and again."""

    def __init__(self, url: ServerURL, about: str, limit: float) -> None:
        """Connect. ServerGone if it can't be reached, StorageError if it does not let us in."""
        self._redis = redis = client_library()
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        self.url = url
        self.name = os.urandom(8).hex()
        tcp: dict[str, Any] = {"socket_connect_timeout": CONNECT_LIMIT, "socket_keepalive": True}
        if url.library.startswith("unix:"):
            tcp = {}
        try:
            self._client = redis.Redis.from_url(
                url.library,
                client_name="".join(c if "!" <= c <= "~" else "-" for c in about),
                decode_responses=True,
                encoding_errors="surrogatepass",
                socket_timeout=limit,
                retry=Retry(NoBackoff(), 0),  # a call whose answer was lost may have happened
                max_connections=2,
                **tcp,
            )
            pool = self._client.connection_pool
            pool.connection_class(**pool.connection_kwargs)  # does it know all that the URL says?
        except (ValueError, TypeError) as error:
            raise StorageError(f"{url.shown}: {url.scrub(str(error))}") from None
        self._bell: Any = None
        self._open = True

    def fileno(self) -> int:
        """Return the descriptor that turns readable when somebody rings, -1 once it is closed."""
        if not self._open or self._bell is None or self._bell.connection is None:
            return -1
        sock = self._bell.connection._sock
        return -1 if sock is None else int(sock.fileno())

    def listen(self, channel: str) -> None:
        """Hear what is rung from now on."""
        self._bell = self._client.pubsub(ignore_subscribe_messages=True)
        self._try(lambda: self._bell.subscribe(channel))

    def heard(self) -> list[tuple[str, str]]:
        """Return what was rung: by whom, and what it says. Never blocks."""
        heard = []
        while self.fileno() >= 0:
            if not self._try(lambda: self._bell.connection.can_read(timeout=0)):
                break
            if (message := self._try(self._bell.get_message)) is not None:
                sender, _, text = str(message["data"]).partition(" ")
                heard.append((sender, text))
        return heard

    def run(self, *words: str) -> Any:
        """Run a command of Redis's own."""
        return self._try(lambda: self._client.execute_command(*words))

    def call(self, function: str, prefix: str, what: str, asked: dict[str, Any]) -> dict[str, Any]:
        """Call our function; QueueError where it refuses."""
        text = json.dumps(asked, ensure_ascii=False)
        found: dict[str, Any] = json.loads(
            self.run("FCALL", function, "1", prefix, what, text, self.name)
        )
        if isinstance(why := found.get("refused"), str):
            raise QueueError(why)
        return found

    def close(self) -> None:
        """Close both connections."""
        if self._open:
            self._open = False
            if self._bell is not None:
                self._bell.close()
            self._client.connection_pool.disconnect()

    def _try(self, act: Callable[[], Any]) -> Any:
        redis = self._redis
        try:
            return act()
        except redis.AuthenticationError as error:
            self.close()
            raise StorageError(f"{self.url.shown}: {self._words(error)}") from None
        except (redis.ConnectionError, redis.TimeoutError, OSError, ValueError) as error:
            self.close()
            raise ServerGone(f"{self.url.shown}: {self._words(error)}") from None
        except redis.RedisError as error:
            raise self._failure(self._words(error)) from None

    def _words(self, error: Exception) -> str:
        lines = str(error).strip().splitlines()
        return self.url.scrub(lines[0] if lines else type(error).__name__)

    def _failure(self, words: str) -> StorageError:
        place = self.url.shown
        if "Function not found" in words:
            return StorageError(f"{place}: the queue's functions are missing; {INIT}")
        if "unknown command" in words and ("FCALL" in words or "FUNCTION" in words):
            return StorageError(f"{place}: the server is older than Redis 7.0, which is needed")
        if "READONLY" in words or "read only replica" in words:
            return StorageError(f"{place}: the server is a replica, and read-only")
        if "maxmemory" in words:
            return StorageError(f"{place}: {NO_ROOM}", full=True)
        if words.startswith(LOGIN) or "permission" in words:
            return StorageError(f"{place}: {words}; give the daemon's user all keys and commands")
        return StorageError(f"{place}: {words}")
