"""graced: worker pools that start at once, reload safely and never halve a piece of work."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from graced.cli.main import command
    from graced.client.queue import JobDead, JobInfo, NoSuchJob, Queue
    from graced.queue.job import Discard, Job, Retry
    from graced.queue.protocol import AnswerLost, QueueError
    from graced.workers.async_job_worker import AsyncJobWorker
    from graced.workers.async_worker import AsyncWorker
    from graced.workers.base import Worker, WorkerInterrupt
    from graced.workers.job_worker import JobWorker
    from graced.workers.socket_worker import SocketWorker

__version__ = "0.2.0"
__all__ = [
    "AnswerLost",
    "AsyncJobWorker",
    "AsyncWorker",
    "Discard",
    "Job",
    "JobDead",
    "JobInfo",
    "JobWorker",
    "NoSuchJob",
    "Queue",
    "QueueError",
    "Retry",
    "SocketWorker",
    "Worker",
    "WorkerInterrupt",
    "__version__",
    "command",
]

# Looked up when they are asked for: a command of graced needs none of them.
_HOMES = {
    "AnswerLost": "graced.queue.protocol",
    "AsyncJobWorker": "graced.workers.async_job_worker",
    "AsyncWorker": "graced.workers.async_worker",
    "Discard": "graced.queue.job",
    "Job": "graced.queue.job",
    "JobDead": "graced.client.queue",
    "JobInfo": "graced.client.queue",
    "JobWorker": "graced.workers.job_worker",
    "NoSuchJob": "graced.client.queue",
    "Queue": "graced.client.queue",
    "QueueError": "graced.queue.protocol",
    "Retry": "graced.queue.job",
    "SocketWorker": "graced.workers.socket_worker",
    "Worker": "graced.workers.base",
    "WorkerInterrupt": "graced.workers.base",
    "command": "graced.cli.main",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'graced' has no attribute {name!r}")
    value = getattr(__import__(home, fromlist=[name]), name)
    globals()[name] = value
    return value
