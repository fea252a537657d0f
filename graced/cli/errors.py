"""Why a command about jobs does not do what it was asked, and its exit status then."""

from __future__ import annotations


class CommandError(Exception):
    """What cannot be done; says why, and has the exit status."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code
