"""`graced check`: would `graced run` start? Read, then load each pool's class in a child.

User code may print, hang, exit or crash while it is imported; it does so in a process of its own,
as the user that the workers will be.
"""

from __future__ import annotations

import _thread
import os
import select
import signal
import sys
import time
from contextlib import suppress

from graced.core.units import show_duration
from graced.family import LoadError
from graced.host import configfile, process
from graced.host.log import say
from graced.loader import load_class, refuse_threads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final, NoReturn

    from graced.core.settings import Pool, Settings

WRONG: Final = 78
LONGEST_REASON: Final = 65536


def check(reading: configfile.Reading, show: bool) -> int:
    """Print every problem on standard error; return the exit status."""
    for problem in reading.problems:
        say(str(problem))
    if reading.settings is None:
        return WRONG
    if show:
        print(configfile.show(reading), end="", flush=True)
    pools = reading.settings.pools.values()
    reasons = [(pool, reason) for pool in pools if (reason := _why_not(pool, reading.settings))]
    for pool, reason in reasons:
        key = f"pools.{pool.name}.worker"
        say(f"{reading.sources.get(key, reading.path)}: {key}: {reason}")
    if reasons:
        return WRONG
    if not show:
        print(f"{reading.path}: ok")
    return 0


def _why_not(pool: Pool, settings: Settings) -> str | None:
    """Return in a line why the pool's class can't be loaded, None if it can."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        _load(pool, settings, write)
    os.close(write)
    try:
        os.setpgid(child, child)  # the child does it too; whoever comes first
    except OSError:
        pass
    try:
        return _judge(child, read, pool.ready_timeout)
    finally:
        os.close(read)


def _judge(child: int, read: int, bound: float) -> str | None:
    deadline = time.monotonic() + bound
    watch = os.pidfd_open(child)
    try:
        said = _told(read, watch, deadline)
    finally:
        process.end_group(child)  # whatever the import has started goes too
        status = os.waitpid(child, 0)[1]
        os.close(watch)
    if said is None:
        return f"its import hangs, or takes longer than ready_timeout ({show_duration(bound)})"
    if said.startswith(b"-"):
        return said[1:].decode("utf-8", "replace")
    return None if said == b"+" else f"its import ended the process: {_ending(status)}"


def _told(read: int, watch: int, deadline: float) -> bytes | None:
    """Return what the child has said at its end, None if that did not come in time."""
    said = b""
    poll = select.poll()
    poll.register(read, select.POLLIN)
    poll.register(watch, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        for fd, _ in poll.poll(left * 1000):
            data = os.read(read, LONGEST_REASON) if fd == read else b""
            said += data
            if not data:  # the end of the pipe, or of the process while others hold the pipe
                return said
    return None


def _ending(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f"killed by {process.signal_name(-code)}"
    return f"exit status {code}"


def _load(pool: Pool, settings: Settings, write: int) -> NoReturn:
    said = "-a bug in graced: no answer"
    try:
        said = _loaded(pool, settings)
    except BaseException as error:  # noqa: BLE001 - the child must end here, whatever it is
        said = f"-{type(error).__name__}: {error}"
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                with suppress(OSError):  # what the code has printed is not what is checked
                    stream.flush()
        os.write(write, said.encode("utf-8", "backslashreplace")[: select.PIPE_BUF])
        os._exit(0)


def _loaded(pool: Pool, settings: Settings) -> str:
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    process.redirect_stdin()
    os.dup2(2, 1)  # standard output is ours
    __import__("graced.worker")  # as the zygote has it, who may read it or not
    try:
        process.change_user(settings.user, settings.group)
        os.environ.update(pool.env)
        threads = _thread._count()
        load_class(pool)
        if pool.preload:
            refuse_threads(threads)
    except LoadError as error:
        return f"-{error.reason}"
    except process.ProcessError as error:
        return f"-{error}"
    return "+"
