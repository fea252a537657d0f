"""Jobs that survive: what users import of it. Loaded when it is asked for."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from graced.jobs.job import Discard, Job, Retry
    from graced.jobs.worker import JobWorker

__all__ = ["Discard", "Job", "JobWorker", "Retry"]

_HOMES = {"Discard": "job", "Job": "job", "JobWorker": "worker", "Retry": "job"}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'graced.jobs' has no attribute {name!r}")
    value = getattr(__import__(f"graced.jobs.{home}", fromlist=[name]), name)
    globals()[name] = value
    return value
