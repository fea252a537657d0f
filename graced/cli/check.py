"""`graced check`: would `graced run` start? Read, then load each pool's class in a child.

User code may print, hang, exit or crash while it is imported; it does so in a process of its own,
as the user that the workers will be.
"""

from __future__ import annotations

import os
import select
import signal
import time

from graced import clock
from graced.config import reader
from graced.exitcodes import CONFIG, CUT_OFF
from graced.host import credentials, descriptors, process, signals
from graced.host.interpreter import Before, set_environment
from graced.log.console import say
from graced.settings import PROGRAM, Pool, Schedule, Settings
from graced.units import show_duration
from graced.workers.context import LoadError
from graced.workers.importer import late_variables, load_class, preload, takes_no_jobs

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import NoReturn

INSTANTS = 3  # of each schedule
MAX_REASON_BYTES = 65536
LAST_WORDS_S = 0.5  # for other processes that hold the pipe when the import has ended


def check(args: argparse.Namespace) -> int:
    """Print every problem on standard error; return the exit status."""
    reading = reader.read(args.config, os.environ, args.set)
    for problem in reading.problems:
        say(str(problem))
    if reading.settings is None:
        return CONFIG
    if args.show:
        print(reader.show(reading), end="", flush=True)
    wrong = [pool for pool in reading.settings.pools.values() if not _is_right(pool, reading)]
    if wrong:
        return CONFIG
    if not args.show:
        print(f"{reading.path}: ok")
        for schedule in reading.settings.schedules.values():
            print(f"schedule {schedule.name} (pool {schedule.pool}): {', '.join(_next(schedule))}")
    return 0


def _is_right(pool: Pool, reading: reader.ConfigReading) -> bool:
    """Load the pool's class, and say what is wrong with it, and where that stands."""
    assert reading.settings is not None

    def where(key: str) -> str:
        return f"{reading.sources.get(key, reading.path)}: {key}"

    place = where(f"pools.{pool.name}.worker")
    reason = _why_not(pool, reading.settings, place)
    if reason is None:
        return True
    part, _, why = reason.partition(": ")
    if pool.scheduled and reason == takes_no_jobs(pool):
        place = where(f"schedules.{pool.scheduled[0]}.pool")
    elif (key := f"pools.{pool.name}.{part}") in reading.sources:  # an option is to blame
        place, reason = where(key), why
    say(f"{place}: {reason}")
    return False


def _next(schedule: Schedule) -> Iterator[str]:
    """Yield the next instants of a schedule, as clocks show them in its zone."""
    from graced.cron import following, rule_of, shown

    zone, instant = clock.zone(schedule.zone), int(time.time())
    for _ in range(INSTANTS):
        found = following(rule_of(schedule), zone, instant)
        if found is None:
            return
        instant = found
        yield shown(instant, zone)


def _why_not(pool: Pool, settings: Settings, where: str) -> str | None:
    """Return in a line why the pool's class can't be loaded, None if it can; say the warnings."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        _load(pool, settings, write)
    os.close(write)
    try:
        return _judge(child, read, pool.ready_timeout, where)
    finally:
        os.close(read)


def _judge(child: int, read: int, bound: float, where: str) -> str | None:
    deadline = time.monotonic() + bound
    watch = os.pidfd_open(child)
    try:
        said = _told(read, watch, deadline)
    finally:
        process.end_child(child)  # whatever the import has started goes too
        status = os.waitpid(child, 0)[1]
        os.close(watch)
    if said is None:
        return f"its import hangs, or takes longer than ready_timeout ({show_duration(bound)})"
    told = said.decode("utf-8", "replace").split("\0")[1:]
    for line in told:
        if line.startswith("~"):
            say(f"{where}: warning: {line[1:]}")
    for line in told:
        if line.startswith("-"):
            return line[1:]
    if os.waitstatus_to_exitcode(status) == CUT_OFF:
        return process.CUT_OFF_TOLD
    return None if "+" in told else f"its import ended the process: {_ending(status)}"


def _told(read: int, watch: int, deadline: float) -> bytes | None:
    """Return what the child has said at its end, None if that did not come in time.

    What its import has forked may hold the pipe, and have a word to say.
    """
    said = b""
    poll = select.poll()
    waiting = {read, watch}
    for fd in waiting:
        poll.register(fd, select.POLLIN)
    while waiting and (left := deadline - time.monotonic()) > 0:
        for fd, _ in poll.poll(left * 1000):
            data = os.read(read, MAX_REASON_BYTES) if fd == read else b""
            said += data
            if not data:
                poll.unregister(fd)
                waiting.discard(fd)
            if fd == watch:
                deadline = time.monotonic() + LAST_WORDS_S
    return None if watch in waiting else said


def _ending(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f"killed by {process.signal_name(-code)}"
    return f"exit status {code}"


def _load(pool: Pool, settings: Settings, write: int) -> NoReturn:
    status = 0
    try:
        said = _loaded(pool, settings, write)
    except BaseException as error:  # noqa: BLE001 - the child must end here, whatever it is
        said = f"\0-{type(error).__name__}: {error}"
    try:
        process.flush()  # what the code has printed is not what is checked
        if said is None:
            status = CUT_OFF
        else:
            os.write(write, said.encode("utf-8", "backslashreplace")[: select.PIPE_BUF])
    finally:
        os._exit(status)


def _loaded(pool: Pool, settings: Settings, write: int) -> str | None:
    """Return what to tell: an answer after each NUL, + or a -reason, and ~warnings.

    None if the descriptor for it is lost.
    """
    os.setsid()  # and a group: no terminal, so nothing can be typed into it
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    descriptors.redirect_stdin()
    os.dup2(2, 1)  # standard output is ours
    __import__("graced.workers.base")  # as the zygote has it, even if the user may not read it
    warnings = []
    before = Before([write], signals.PASSED_BY)
    try:
        credentials.change_user(settings.user, settings.group)
        set_environment(pool.env)
        late = late_variables(pool)
        if late is not None:
            warnings.append(late)
        if pool.preload:
            warnings += preload(pool, before)[1]
        else:
            load_class(pool)
        if pool.worker == PROGRAM:
            from graced.workers.program import look_up

            warnings += look_up(pool)
    except LoadError as error:
        if before.lost_fds():
            return None
        return f"\0-{error.reason}"
    except credentials.CredentialsError as error:
        return f"\0-{error}"
    return "".join(f"\0~{each}" for each in warnings) + "\0+"
