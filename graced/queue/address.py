"""Where a pool's queue is, and how it and its workers are named: said here, and nowhere else."""

from __future__ import annotations

import os

from graced.record import Record

_PREFIX = "queue-"
_SUFFIX = ".sock"


class QueueURLError(ValueError):
    """A URL that leads to no queue: what is wrong with it, and what to write."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"the URL of a queue {what}; {remedy}")
        self.what = what
        self.remedy = remedy


class Library(Record):
    """The client library that an engine needs, and how it is installed."""

    module: str
    extra: str  # of graced
    package: str  # of Debian

    @property
    def remedy(self) -> str:
        """What to do where it is missing."""
        return f"pip install 'graced[{self.extra}]', or on Debian apt install {self.package}"


class QueueAddress(Record):
    """Where a queue is reached, and under which names the workers of a daemon are known there."""

    daemon_id: str  # letters and digits; another one for each main process
    socket: str  # where its keeper listens, absolute
    file: str  # what the engine keeps it in, absolute; its workers' locks stand beside it
    engine: str = "sqlite"  # the scheme of its URL

    def owner(self, worker: int) -> str:
        """Return a worker's name in the queue."""
        return f"{self.daemon_id}:{worker}"

    def worker(self, owner: str) -> int:
        """Return the number of the worker that has a name in the queue."""
        return int(owner.rpartition(":")[2])

    def is_ours(self, owner: str) -> bool:
        """Whether a name in the queue is that of a worker of this main process."""
        return owner.startswith(f"{self.daemon_id}:")


def socket_path(runtime_dir: str, pool: str) -> str:
    """Return where the keeper of a pool's queue listens."""
    return os.path.join(runtime_dir, f"{_PREFIX}{pool}{_SUFFIX}")


def pools_with_socket(runtime_dir: str) -> list[str]:
    """Return the pools whose keepers have, or had, a socket in a folder."""
    try:
        names = os.listdir(runtime_dir)
    except OSError:
        return []
    found = [name for name in names if name.startswith(_PREFIX) and name.endswith(_SUFFIX)]
    return sorted(name.removeprefix(_PREFIX).removesuffix(_SUFFIX) for name in found)
