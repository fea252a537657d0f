"""Workers that need no code of the user's. Loaded when they are asked for."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from graced.workers.command import Command

__all__ = ["Command"]


def __getattr__(name: str) -> Any:
    if name != "Command":
        raise AttributeError(f"module 'graced.workers' has no attribute {name!r}")
    from graced.workers.command import Command

    globals()[name] = Command
    return Command
