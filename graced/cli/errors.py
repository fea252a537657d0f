"""Why a command does not do what it was asked."""

from __future__ import annotations

from graced.exitcodes import ReportedError


class CommandError(ReportedError):
    """What cannot be done as the command line says it."""
