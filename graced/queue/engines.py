"""Which engines of queues there are: from the scheme of a queue's URL to the package that keeps it.

A further engine is one package and one line here. Nothing else reads a queue's URL.
"""

from __future__ import annotations

from importlib import import_module

from graced.queue.address import QueueAddress, QueueURLError, socket_path
from graced.queue.servers.engine import ServerEngine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.queue.plan import KeeperPlan
    from graced.queue.protocol import Engine

ENGINES = {  # a module that does what the protocol says, or the address of a server's package
    "sqlite": "graced.queue.sqlite.engine",
    "postgresql": "graced.queue.postgresql.address",
    "postgres": "graced.queue.postgresql.address",
    "redis": "graced.queue.redis.address",
    "rediss": "graced.queue.redis.address",
    "unix": "graced.queue.redis.address",
}
DEFAULT = "sqlite"  # for a pool that names no queue


def engine_called(scheme: str) -> Engine:
    """Return an engine by its scheme. Raises QueueURLError."""
    if scheme not in ENGINES:
        remedy = engine_called(DEFAULT).ADVICE
        raise QueueURLError(f"names no queue engine, only {', '.join(ENGINES)}", remedy)
    module = import_module(ENGINES[scheme])
    return module if module.LIBRARY is None else ServerEngine(module)


def engine_of(url: str | None) -> Engine:
    """Return the engine of a queue's URL, None being the default. Raises QueueURLError."""
    return engine_called(DEFAULT if url is None else url.partition("://")[0])


def is_served(url: str | None) -> bool:
    """Whether a queue is on a server, and hosts have its jobs on lease."""
    return server_of(url) is not None


def server_of(url: str | None) -> str | None:
    """Return what kind of server a queue is on; None for the embedded one."""
    library = engine_of(url).LIBRARY
    return None if library is None else library.extra


def place_of(plan: KeeperPlan) -> str:
    """Return what a queue is kept in, as people may see it."""
    return engine_called(plan.address.engine).described(plan.url, plan.address.file)[0]


def url_of(plan: KeeperPlan) -> str:
    """Return the URL by which any pool can have a queue, as people may see it."""
    return engine_called(plan.address.engine).described(plan.url, plan.address.file)[1]


def identity(url: str, pool: str) -> str:
    """Return what two pools with the same queue have in common."""
    engine = engine_of(url)
    return f"{url} {engine.queue_of(url, pool)}"


def missing_library(url: str) -> tuple[str, str] | None:
    """Return what is to be installed before a queue can be used, and how; None if nothing is."""
    from importlib.util import find_spec

    engine = engine_of(url)
    library = engine.LIBRARY
    if library is None or find_spec(library.module) is not None:
        return None
    return f"its client library {library.module} is not installed", library.remedy


def check_url(url: str) -> None:
    """Raise QueueURLError if a URL leads to no queue."""
    engine_of(url).check_url(url)


def url_pattern() -> str:
    """Return what the URLs of all engines look like, as a regular expression."""
    patterns = dict.fromkeys(engine_called(scheme).URL_PATTERN for scheme in ENGINES)
    return f"({'|'.join(patterns)})"


def file_of(url: str | None, pool: str, state_dir: str) -> str:
    """Return what a pool's queue is kept in. Raises QueueURLError."""
    return engine_of(url).file_of(url, pool, state_dir)


def address_of(
    url: str | None, pool: str, *, daemon_id: str, runtime_dir: str, state_dir: str
) -> QueueAddress:
    """Return where a daemon's workers find their pool's queue."""
    scheme = DEFAULT if url is None else url.partition("://")[0]
    file = file_of(url, pool, state_dir)
    return QueueAddress(daemon_id, socket_path(runtime_dir, pool), file, scheme)
