"""The exit statuses of every command and process of graced, see sysexits.h(3head)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

OK: Final = 0
FAILED: Final = 1  # another try may go better
USAGE: Final = 2  # the command line is wrong
NO_DAEMON: Final = 3  # none answers; of `graced doctor`: there is no such unit
BUG: Final = 70  # in graced
CUT_OFF: Final = 71  # of a zygote: its import has closed the way to say why it ends
ALREADY_RUNNING: Final = 75  # another process holds the lock
CONFIG: Final = 78  # the configuration is wrong
TIMED_OUT: Final = 124  # of `graced submit --wait`, as timeout(1) has it
INTERRUPTED: Final = 130  # by Ctrl-C, as a shell has it
BROKEN_PIPE: Final = 141  # nothing reads the output any more, as a shell has it


class ReportedError(Exception):
    """What a command reports in its own words, without a traceback, and its exit status then."""

    exit_code = FAILED

    def __init__(self, text: str, exit_code: int | None = None) -> None:
        super().__init__(text)
        if exit_code is not None:
            self.exit_code = exit_code
