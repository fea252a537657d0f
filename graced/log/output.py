"""Where records go and how they look: level, format and sink in one."""

from __future__ import annotations

from graced.log.formats import FORMATS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.log.sinks import Sink

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class Output:
    """Level, format and sink, shared by a log and everything bound from it."""

    __slots__ = ("format", "level", "sink")

    def __init__(self, level: str, format: str, sink: Sink) -> None:
        self.level = LEVELS[level]
        self.format = FORMATS[format]
        self.sink = sink
        if format == "json":
            import json  # noqa: F401  # later the library may be out of reach, as for another user
