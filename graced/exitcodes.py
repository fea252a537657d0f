"""The exit statuses of every command and process of graced, see sysexits.h(3head)."""

from __future__ import annotations

OK = 0
FAILED = 1  # another try may go better
USAGE = 2  # the command line is wrong
NO_DAEMON = 3  # none answers; of `graced doctor`: there is no such unit
BUG = 70  # in graced
CUT_OFF = 71  # of a zygote: its import has closed the way to say why it ends
ALREADY_RUNNING = 75  # another process holds the lock
CONFIG = 78  # the configuration is wrong
TIMED_OUT = 124  # of `graced submit --wait`, as timeout(1) has it
INTERRUPTED = 130  # by Ctrl-C, as a shell has it
BROKEN_PIPE = 141  # nothing reads the output any more, as a shell has it


class ReportedError(Exception):
    """What a command reports in its own words, without a traceback, and its exit status then."""

    exit_code = FAILED

    def __init__(self, text: str, exit_code: int | None = None) -> None:
        super().__init__(text)
        if exit_code is not None:
            self.exit_code = exit_code
