"""graced: worker pools that start at once, reload safely and never halve a piece of work."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from graced.jobs import Discard, Job, JobWorker, Retry
    from graced.socketworker import SocketWorker
    from graced.worker import Worker, WorkerInterrupt

__version__ = "0.1.0"
__all__ = [
    "Discard",
    "Job",
    "JobWorker",
    "Retry",
    "SocketWorker",
    "Worker",
    "WorkerInterrupt",
    "__version__",
]

# Looked up when they are asked for: a command of graced needs none of them.
_HOMES = {
    "Discard": "graced.jobs",
    "Job": "graced.jobs",
    "JobWorker": "graced.jobs",
    "Retry": "graced.jobs",
    "SocketWorker": "graced.socketworker",
    "Worker": "graced.worker",
    "WorkerInterrupt": "graced.worker",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'graced' has no attribute {name!r}")
    value = getattr(__import__(home, fromlist=[name]), name)
    globals()[name] = value
    return value
