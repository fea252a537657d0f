"""What runs inside a worker. Here: the workers that need no code of the user's, loaded late."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from graced.workers.command import Command
    from graced.workers.program import Program

__all__ = ["Command", "Program"]

_HOMES = {"Command": "graced.workers.command", "Program": "graced.workers.program"}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'graced.workers' has no attribute {name!r}")
    value = globals()[name] = getattr(__import__(home, fromlist=[name]), name)
    return value
