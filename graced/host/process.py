"""Processes: prctl, signal masks, process groups, and how processes end.

The standard library has no prctl(2). What a process has open is in :mod:`.descriptors`, which user
it is in :mod:`.credentials`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import time

from graced import program
from graced.exitcodes import BUG
from graced.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Iterable
    from typing import Any, NoReturn

    def _sigmask(how: int, mask: Iterable[int], /) -> set[int]: ...
else:
    # The public function turns each of 64 signals into an enum member at every call: at each
    # fork, and at each of user code's.
    from _signal import pthread_sigmask as _sigmask

MAX_ANCESTORS = 1000  # looked at; parents may change meanwhile, and lead in a circle
CUT_OFF_TOLD = "its import has closed descriptors of graced's; let it close only what it has opened"
_SET_PDEATHSIG = 1
_SET_NAME = 15
_SET_CHILD_SUBREAPER = 36
_ALL_SIGNALS = frozenset(map(int, signal.valid_signals()))
_SIGNAL_STACK = 1 << 20  # bytes; 64 signals, each with the registers of a large processor


libc = ctypes.CDLL(None, use_errno=True)
_signal_stack: list[tuple[bytes, ctypes.c_char]] = []  # what is in use is not to be freed


def c_error(what: str) -> OSError:
    """Return the error of a function of C that has just returned -1."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)


class Exit(Record):
    """How a process ended, as waitid(2) tells it."""

    pid: int
    code: int  # os.CLD_EXITED, os.CLD_KILLED or os.CLD_DUMPED
    status: int  # exit status or signal


# This process


def prctl(option: int, value: int | bytes) -> None:
    """Set something of this process, see prctl(2). OSError."""
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise c_error(f"prctl({option})")


def become_subreaper() -> None:
    """Become the parent of every descendant whose own parent leaves, see prctl(2)."""
    prctl(_SET_CHILD_SUBREAPER, 1)


def refuse_orphans() -> None:
    """Let descendants whose parent leaves go to the next subreaper above, see prctl(2)."""
    prctl(_SET_CHILD_SUBREAPER, 0)


def set_parent_death_signal(number: int) -> None:
    """Get a signal when the parent dies; 0: none. Lost by fork.

    Check getppid() afterwards: the parent may be gone already.
    """
    prctl(_SET_PDEATHSIG, number)


def set_name(role: str = "") -> None:
    """Set what `ps -o comm` shows: the program's name, and what this process is in it."""
    prctl(_SET_NAME, program.process_name(role).encode())


def lead_a_group() -> None:
    """Be in a process group of one's own, unless one leads a session and so is already."""
    pid = os.getpid()
    try:
        os.setpgid(pid, pid)
    except PermissionError:
        pass


def leave_terminal() -> None:
    """Lead a process group; where there is a terminal a session too: no code can type into it.

    Only there: processes of several sessions wake each other late on a busy machine, since its
    time is shared out among sessions first. See sched(7), the autogroup feature.
    """
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.ENXIO:  # none
            lead_a_group()
            return
    os.setsid()


def block(*numbers: int) -> set[int]:
    """Block some signals; return those that were blocked before."""
    return _sigmask(signal.SIG_BLOCK, numbers)


def block_all() -> set[int]:
    """Block all signals; return those that were blocked before."""
    return _sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)


def restore(mask: Iterable[int]) -> None:
    """Block these signals and no others."""
    _sigmask(signal.SIG_SETMASK, mask)


def wait_for_signal(number: int) -> None:
    """Sleep until a signal comes, which must be blocked."""
    signal.sigwait((number,))


def enlarge_signal_stack() -> None:
    """Let many signals come at once: their handlers pile up on faulthandler's small stack.

    To be called after faulthandler was asked for anything: the first time it sets its own.
    Inherited by fork. Takes memory only when it is used.
    """
    if not _signal_stack:
        import mmap
        from struct import pack

        area = mmap.mmap(-1, _SIGNAL_STACK, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        start = ctypes.c_char.from_buffer(area)
        stack_t = pack("PiN", ctypes.addressof(start), 0, _SIGNAL_STACK)
        _signal_stack.append((stack_t, start))
    if libc.sigaltstack(_signal_stack[0][0], None) != 0:
        raise c_error("sigaltstack")


def in_child(life: Callable[[], object]) -> NoReturn:
    """Run a forked child to its end: whatever happens, it never returns into its parent's code."""
    status = BUG
    try:
        life()
        status = 0
    except BaseException as error:  # the child must end here, whatever it is
        sys.__excepthook__(type(error), error, error.__traceback__)
        raise
    finally:
        try:
            flush()
        finally:
            os._exit(status)


def flush() -> None:
    """Write out what is buffered, since os._exit doesn't; user code may have put anything there."""
    streams: list[Any] = [getattr(sys, name, None) for name in ("stdout", "stderr")]
    flushes: list[Callable[[], object]] = [s.flush for s in streams if hasattr(s, "flush")]
    if "logging" in sys.modules:
        import logging

        flushes.insert(0, logging.shutdown)
    for each in flushes:
        try:
            each()
        except (OSError, ValueError):  # it has no reader, or it is closed
            pass
        except Exception as error:  # noqa: BLE001  # whatever the user's own raises
            sys.__excepthook__(type(error), error, error.__traceback__)


# Other processes


def signal_process(pid: int, number: int) -> bool:
    """Send a signal; False if there is no such process, or it has become another user's."""
    if pid < 1:
        raise ValueError(f"{pid} names no single process")
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def is_foreign(pid: int) -> bool:
    """Return whether a process is another user's, so that we may not signal it."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        pass
    return False


def end_group(pgid: int) -> bool:
    """Kill a process group; False if no process is in it."""
    if pgid <= 1:  # 0 would be our own
        raise ValueError(f"{pgid} is no group of ours")
    try:
        os.killpg(pgid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    except PermissionError:  # only processes of other users are left in it
        return False
    return True


def group_is_empty(pgid: int) -> bool:
    """Return whether no process is left in a group, be it a zombie."""
    try:
        os.killpg(pgid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def living_in(groups: Container[int]) -> dict[int, int]:
    """Return the processes of these groups that have not ended, and the group of each.

    A look at all of /proc. Zombies are left out: one that another process has yet to reap
    keeps its group alive for the kernel, but does nothing any more.
    """
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as stat:
                letter, _parent, group = stat.read().rpartition(b") ")[2].split()[:3]
        except (OSError, ValueError):  # it has just ended
            continue
        if letter not in (b"Z", b"X") and int(group) in groups:
            found[int(name)] = int(group)
    return found


def end_child(pid: int) -> None:
    """Kill a child, not reaped yet, that leads a group, or is about to, and all that are in it."""
    end_group(pid)
    signal_process(pid, signal.SIGKILL)
    end_group(pid)


def peek_exit() -> Exit | None:
    """Return how some child ended, without reaping it; None if none has."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else Exit(found.si_pid, found.si_code, found.si_status)


def is_child(pid: int) -> bool:
    """Return whether a process is a child of ours, be it one that has ended."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def reap(pid: int) -> None:
    """Let go of a child that has ended: its number is free from here on."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        pass


def describe_exit(exit: Exit) -> str:
    """Say how a process ended: `killed by SIGSEGV (core dumped)`, `exited with status 3`."""
    if exit.code == os.CLD_EXITED:
        return f"exited with status {exit.status}"
    dumped = " (core dumped)" if exit.code == os.CLD_DUMPED else ""
    return f"killed by {signal_name(exit.status)}{dumped}"


def signal_name(number: int) -> str:
    """Return `SIGTERM` for 15; real-time signals have no names of their own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def name_of(pid: int) -> str:
    """Return what `ps -o comm` shows, of one that has ended too until it is reaped."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
            return comm.read().rstrip("\n")
    except OSError:
        return "process"


def group_of(pid: int) -> int | None:
    """Return the process group of one that may have ended; None once it is reaped."""
    try:
        return os.getpgid(pid)
    except OSError:
        return None


def is_group_below(group: int, ancestor: int, apart: Collection[int] = ()) -> bool:
    """Return whether a group is one of a process's descendants, none by way of those `apart`.

    A worker can write any number: its leader tells, or if that is gone all that is left of it.
    """
    if group <= 1 or group == os.getpgrp() or group in apart:
        return False
    if _parent(group) is not None:
        return group_of(group) == group and is_below(group, ancestor, apart)
    members = [pid for pid in _all_pids() if group_of(pid) == group]
    return bool(members) and all(is_below(pid, ancestor, apart) for pid in members)


def is_below(pid: int, ancestor: int, apart: Collection[int] = ()) -> bool:
    """Return whether a process descends from another, and not by way of those `apart`."""
    for _ in range(MAX_ANCESTORS):
        parent = _parent(pid)
        if parent is None or pid in apart:
            return False
        if parent == ancestor:
            return True
        pid = parent
    return False


def _parent(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return int(stat.read().rpartition(b") ")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None


def _all_pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    except OSError:
        return []


def state(pid: int) -> str | None:
    """Return the letter that ps shows (R, S, D, T, t, Z, …); None if the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b") ")[2][:1].decode()
    except OSError:
        return None


def is_stopped(pid: int) -> bool:
    """Return whether a process is stopped by a signal or held by a debugger."""
    return state(pid) in ("T", "t")


def rss(pid: int) -> int | None:
    """Return the resident memory of a process in bytes, None if it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return None


def family(pid: int) -> list[int]:
    """Return a process and its descendants, as far as can be seen; children that are threads' too.

    One whose parent has ended is another's.
    """
    found = [pid]
    for each in found:
        try:
            threads = os.listdir(f"/proc/{each}/task")
            for thread in threads:
                with open(f"/proc/{each}/task/{thread}/children", "rb") as children:
                    found += map(int, children.read().split())
        except OSError:  # it has ended
            continue
    return found


def family_rss(pid: int) -> int:
    """Return the resident memory of a process and its descendants; what they share counts twice."""
    return sum(rss(each) or 0 for each in family(pid))


def stop_for_a_look(pid: int, bound: float = 0.002) -> bool:
    """Stop a process; True if it stands or is gone within `bound` seconds.

    Then it stores nothing to shared memory while we read. SIGCONT or SIGKILL must follow.
    """
    end = time.monotonic() + bound
    if not signal_process(pid, signal.SIGSTOP):
        return True
    while not _stands(pid):
        if time.monotonic() > end:
            return False
        os.sched_yield()
    return True


def _stands(pid: int) -> bool:
    try:
        flags = os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        if os.waitid(os.P_PID, pid, flags) is not None:
            return True
    except ChildProcessError:  # not ours: a zygote looks at the children of its dead parent
        pass
    return state(pid) in ("T", "t", "Z", "X", None)


# pidfds: a process by a name that is never used twice


def open_pidfd(pid: int) -> int | None:
    """Return a descriptor of a process, readable once it has ended; None if it is gone."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def signal_pidfd(pidfd: int, number: int) -> bool:
    """Send a signal; False if the process is gone, or has become another user's."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True
