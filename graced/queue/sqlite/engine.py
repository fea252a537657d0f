"""The embedded engine, as :mod:`graced.queue.engines` finds it: one SQLite file a queue.

Light to import: what opens the file is loaded by whoever opens it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from graced.queue.plan import KeeperPlan
    from graced.queue.sqlite.offline import FileEnd, FileView
    from graced.queue.sqlite.storage import QueueFile
    from graced.settings import Pool

SCHEME = "sqlite"


def file_of(url: str | None, pool: str, state_dir: str) -> str:
    """Return the queue's file; ValueError says what is wrong with the URL."""
    if url is None:
        return f"{state_dir}/{pool}.db"
    _scheme, _, path = url.partition("://")
    if not path.startswith("/") or path == "/" or path.endswith("/"):
        raise ValueError(
            f"cannot use {url!r} as a queue; write sqlite:///jobs.db (in state_dir)"
            " or sqlite:////srv/jobs.db (absolute)"
        )
    return path[1:] if path.startswith("//") else f"{state_dir}{path}"


def url_of(file: str) -> str:
    """Return the URL by which any pool can have the queue that is in a file."""
    return f"{SCHEME}:///{file}"


def open_storage(plan: KeeperPlan, tell: Callable[[tuple[Any, ...]], None]) -> QueueFile:
    """Return the file as its keeper has it."""
    from graced.queue.sqlite.storage import QueueFile

    return QueueFile(plan, tell)


def keeper_of(file: str) -> str | None:
    """Return the socket of the keeper that has a file, if there is one."""
    from graced.queue.sqlite.lock import holder_of

    return holder_of(file)


def open_offline(file: str, pool: Pool) -> FileEnd:
    """Open a queue that no keeper has. Raises QueueLockedError, StorageError."""
    from graced.queue.sqlite.offline import FileEnd

    return FileEnd(file, pool)


def view_offline(file: str) -> FileView:
    """Look at a queue that no keeper has, and leave it to whoever wants it."""
    from graced.queue.sqlite.offline import FileView

    return FileView(file)
