"""Which engines of queues there are: from the scheme of a queue's URL to the package that keeps it.

A further engine is one package with a module that does what
:class:`graced.queue.protocol.Engine` says, and one line here. Nobody else reads a queue's URL.
"""

from __future__ import annotations

from importlib import import_module

from graced.queue.address import QueueAddress, socket_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.queue.protocol import Engine

ENGINES = {"sqlite": "graced.queue.sqlite.engine"}
DEFAULT = "sqlite"  # for a pool that names no queue


def engine_called(scheme: str) -> Engine:
    """Return an engine by its scheme; ValueError if there is none."""
    if scheme not in ENGINES:
        raise ValueError(f"there is no queue engine {scheme!r}; there are {', '.join(ENGINES)}")
    return import_module(ENGINES[scheme])  # a module that is one


def engine_of(url: str | None) -> Engine:
    """Return the engine of a queue's URL, None being the default; ValueError if there is none."""
    return engine_called(DEFAULT if url is None else url.partition("://")[0])


def file_of(url: str | None, pool: str, state_dir: str) -> str:
    """Return what a pool's queue is kept in; ValueError says what is wrong with the URL."""
    return engine_of(url).file_of(url, pool, state_dir)


def address_of(
    url: str | None, pool: str, *, daemon_id: str, runtime_dir: str, state_dir: str
) -> QueueAddress:
    """Return where a daemon's workers find their pool's queue."""
    scheme = DEFAULT if url is None else url.partition("://")[0]
    file = file_of(url, pool, state_dir)
    return QueueAddress(daemon_id, socket_path(runtime_dir, pool), file, scheme)
