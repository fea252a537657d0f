"""The embedded engine, as :mod:`graced.queue.engines` finds it: one SQLite file a queue.

Light to import: what opens the file is loaded where it is opened.
"""

from __future__ import annotations

from graced.queue.address import QueueURLError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from graced.queue.plan import KeeperPlan
    from graced.queue.sqlite.offline import FileEnd, FileView
    from graced.queue.sqlite.storage import QueueFile
    from graced.settings import Pool

SCHEME = "sqlite"
LIBRARY = None
ADVICE = "write sqlite:///jobs.db (in state_dir) or sqlite:////var/lib/jobs.db"
URL_PATTERN = r"sqlite:///[^?#\x00-\x1f]*[^/?#\x00-\x1f]"


def check_url(url: str) -> str:
    """Return the path of a URL. Raises QueueURLError."""
    path = url.partition("://")[2]
    if not path.startswith("/"):
        raise QueueURLError("names a host", ADVICE)
    if path.endswith("/") or path == "/:memory:":
        raise QueueURLError("names no file", ADVICE)
    if any(c in "?#" or c < " " for c in path):
        raise QueueURLError("is more than the path of a file", ADVICE)
    return path


def queue_of(url: str, pool: str) -> str:
    """There is one in a file."""
    return ""


def file_of(url: str | None, pool: str, state_dir: str) -> str:
    """Return the queue's file. Raises QueueURLError."""
    if url is None:
        return f"{state_dir}/{pool}.db"
    path = check_url(url)
    return path[1:] if path.startswith("//") else f"{state_dir}{path}"


def described(url: str | None, file: str) -> tuple[str, str]:
    """Return what a queue is kept in, and the URL by which any pool can have it."""
    return file, f"{SCHEME}:///{file}"


def open_storage(plan: KeeperPlan, tell: Callable[[tuple[Any, ...]], None]) -> QueueFile:
    """Return the file as its keeper has it."""
    from graced.queue.sqlite.storage import QueueFile

    return QueueFile(plan, tell)


def script(url: str) -> str:
    """A file needs nothing."""
    return ""


def init(url: str) -> str:
    """A file is made where it is opened first."""
    return url


def status(url: str, pool: str, file: str) -> dict[str, Any]:
    """Return how a queue is kept, and what is in it; no other host shares it."""
    from graced.queue.sqlite.offline import FileView

    return {"queue": pool, "url": described(url, file)[1], **FileView(file).status()}


def keeper_of(file: str) -> str | None:
    """Return the socket of the keeper that has a file, if there is one."""
    from graced.queue.sqlite.lock import holder_of

    return holder_of(file)


def open_offline(file: str, pool: Pool) -> FileEnd:
    """Open a queue that no keeper has. Raises QueueLockedError, StorageError."""
    from graced.queue.sqlite.offline import FileEnd

    return FileEnd(file, pool)


def view_offline(file: str, pool: Pool) -> FileView:
    """Look at a queue that no keeper has, and leave it free."""
    from graced.queue.sqlite.offline import FileView

    return FileView(file)
