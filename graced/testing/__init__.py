"""For tests of workers: one worker without a daemon, or the real daemon.

:func:`worker` runs a worker of yours in the test itself; the pytest fixture ``daemon`` starts
`graced run`. Loaded when they are asked for: pytest imports this package in every project.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from graced.testing.daemon import CommandFailed, Daemon
    from graced.testing.detached import DetachedWorker, worker
    from graced.testing.memory_queue import MemoryQueue

__all__ = ["CommandFailed", "Daemon", "DetachedWorker", "MemoryQueue", "worker"]

_HOMES = {
    "CommandFailed": "graced.testing.daemon",
    "Daemon": "graced.testing.daemon",
    "DetachedWorker": "graced.testing.detached",
    "MemoryQueue": "graced.testing.memory_queue",
    "worker": "graced.testing.detached",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'graced.testing' has no attribute {name!r}")
    value = getattr(__import__(home, fromlist=[name]), name)
    globals()[name] = value
    return value
