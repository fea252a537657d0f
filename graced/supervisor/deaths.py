"""What a process died of, in words for people and in few words for counts."""

from __future__ import annotations

import os

from graced.core.counters import DeathCause
from graced.host import process
from graced.host.scoreboard import ExitKind, Phase

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.host.process import Exit

PLANNED = (ExitKind.DRAINED, ExitKind.INTERRUPTED, ExitKind.TEARDOWN_RAISED)
_WHERE = {Phase.BORN: " in setup()", Phase.SETUP: " in setup()", Phase.TEARDOWN: " in teardown()"}
_CAUSES = {
    ExitKind.SETUP_FAILED: DeathCause.SETUP,
    ExitKind.MAX_ERRORS: DeathCause.MAX_ERRORS,
    ExitKind.RETURNED: DeathCause.RETURNED,
    ExitKind.OWN_HANDLER: DeathCause.RETURNED,
}


def cause(left: int, exit: Exit, *, oom_killed: bool) -> str:
    """Name what a worker died of, in one of few words, for counts."""
    if oom_killed:
        return DeathCause.OOM
    if exit.code != os.CLD_EXITED:
        return process.signal_name(exit.status)
    return _CAUSES.get(left, DeathCause.EXIT)


def reason(left: int, text: str, phase: int, exit: Exit, *, oom_killed: bool) -> str:
    """Say what a worker died of; `text` is what it has said itself."""
    if left and text:
        return text
    where = _WHERE.get(phase, "")
    if phase == Phase.BUSY and exit.code == os.CLD_EXITED:  # by os._exit(), or what it executed
        where = " in a round"
    if text:
        return f"{process.describe_exit(exit)}{where} ({text})"
    return how(exit, where, oom_killed=oom_killed)


def how(exit: Exit, where: str = "", *, oom_killed: bool) -> str:
    """Say how a process ended, and whether for want of memory."""
    return f"{process.describe_exit(exit)}{where}{' (out of memory)' if oom_killed else ''}"
