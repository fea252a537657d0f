"""Where a host keeps its workers' locks, and how it is known to its server.

What has the same place sees the same locks: by them a daemon that comes back proves that the one
before it is gone, and need not wait for the end of its lease.
"""

from __future__ import annotations

import os
import socket
from hashlib import sha256

from graced.queue import liveness
from graced.queue.servers.link import HostName

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.queue.address import QueueAddress

KEEPER = 0  # the number under which a keeper has a lock of its own; workers' begin with 1
NAME = "place"


def host_name(address: QueueAddress, pool: str, daemon: str) -> HostName:
    """Return the name under which a pool of this daemon takes its lease."""
    name = socket.gethostname()
    machine = _read("/etc/machine-id")
    place = sha256("\0".join((_mark(address.file), machine, name)).encode()).hexdigest()[:32]
    return HostName(f"{address.daemon_id}/{pool}/{daemon}", name, place)


def _mark(file: str) -> str:
    """Return what stands in the folder of the locks alone: a copy of it is on another machine."""
    folder = liveness.folder(file)
    path = f"{folder}/{NAME}"
    os.makedirs(folder, 0o700, exist_ok=True)
    if not (mark := _read(path)):
        mark = os.urandom(16).hex()
        with open(f"{path}.{os.getpid()}", "w", encoding="ascii") as made:
            made.write(mark)
        os.rename(made.name, path)
    return mark


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(100).strip()
    except OSError:
        return ""


def keeper_lives(file: str, daemon: str) -> bool:
    """Whether the keeper of another daemon at this place is there."""
    owner = f"{daemon.partition('/')[0]}:{KEEPER}"
    return liveness.lives(file, owner, remove=False)
