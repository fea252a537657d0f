"""Processes: prctl, signal masks, descriptors, credentials, and how processes end.

The only place that calls C by itself; the standard library has no prctl(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import time

from graced.exitcodes import BUG
from graced.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Iterable
    from typing import Any, Final, NoReturn

    def _sigmask(how: int, mask: Iterable[int], /) -> set[int]: ...
else:
    # The public function turns each of 64 signals into an enum member at every call: at each
    # fork, and at each of user code's.
    from _signal import pthread_sigmask as _sigmask

LONGEST_LINE: Final = 1000  # of parents; they may change while we look, and lead in a circle
CUT_OFF_TOLD: Final = (
    "its import has closed descriptors of graced's; let it close only what it has opened"
)
_SET_PDEATHSIG: Final = 1
_SET_NAME: Final = 15
_SET_CHILD_SUBREAPER: Final = 36
_SET_DUMPABLE: Final = 4
NEW_PRIVILEGES: Final = "GRACED_NEW_PRIVILEGES"  # 1: setuid programs are to work
_CAPBSET_DROP: Final = 24
_SET_NO_NEW_PRIVS: Final = 38
_CAPABILITIES: Final = (0x20080522).to_bytes(4, sys.byteorder) + bytes(4)  # version, this process
# Of whoever started us, and of no use or harm to somebody else.
_PERSONAL: Final = ("DBUS_", "GPG_", "SSH_", "SUDO_", "XDG_")
_PERSONAL_NAMES: Final = ("DISPLAY", "KRB5CCNAME", "MAIL", "WAYLAND_DISPLAY", "XAUTHORITY")
_ALL_SIGNALS: Final = frozenset(map(int, signal.valid_signals()))
_SIGNAL_STACK: Final = 1 << 20  # bytes; 64 signals, each with the registers of a large processor


_c = ctypes.CDLL(None, use_errno=True)
_foreign: dict[int, tuple[int, int]] = {}  # see remember_open_fds()
_signal_stack: list[ctypes.c_char] = []  # what is in use is not to be freed


def c_error(what: str) -> OSError:
    """Return the error of a function of C that has just returned -1."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)


class ProcessError(Exception):
    """What was asked of the host can't be done; says why."""


class Exit(Record):
    """How a process ended, as waitid(2) tells it."""

    pid: int
    code: int  # os.CLD_EXITED, os.CLD_KILLED or os.CLD_DUMPED
    status: int  # exit status or signal


# This process


def _prctl(option: int, value: int | bytes) -> None:
    if _c.prctl(option, value, 0, 0, 0) != 0:
        raise c_error(f"prctl({option})")


def become_subreaper() -> None:
    """Become the parent of every descendant whose own parent leaves, see prctl(2)."""
    _prctl(_SET_CHILD_SUBREAPER, 1)


def refuse_orphans() -> None:
    """Let descendants whose parent leaves go to the next subreaper above, see prctl(2)."""
    _prctl(_SET_CHILD_SUBREAPER, 0)


def set_parent_death_signal(number: int) -> None:
    """Get a signal when the parent dies; 0: none. Lost by fork.

    Check getppid() afterwards: the parent may be gone already.
    """
    _prctl(_SET_PDEATHSIG, number)


def set_name(name: str) -> None:
    """Set what `ps -o comm` shows; the kernel keeps 15 bytes."""
    _prctl(_SET_NAME, name.encode()[:15])


def lead_a_group() -> None:
    """Be in a process group of one's own, unless one leads a session and so is already."""
    pid = os.getpid()
    try:
        os.setpgid(pid, pid)
    except PermissionError:
        pass


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
    import mmap
    from struct import pack

    if not _signal_stack:
        area = mmap.mmap(-1, _SIGNAL_STACK, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        _signal_stack.append(ctypes.c_char.from_buffer(area))
    wanted = pack("PiN", ctypes.addressof(_signal_stack[0]), 0, _SIGNAL_STACK)  # stack_t
    if _c.sigaltstack(wanted, None) != 0:
        raise c_error("sigaltstack")


def open_fds() -> list[int]:
    """Return the numbers of all open descriptors."""
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:  # no /proc
        return list(range(os.sysconf("SC_OPEN_MAX")))


def identity(fd: int) -> tuple[int, int] | None:
    """Return what tells an open file from others; None if the descriptor is closed."""
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def remember_open_fds(handed_over: str | None) -> None:
    """Take note of what is open before graced has opened anything; `handed_over` is LISTEN_FDS.

    A runtime that began before us, such as that of `ddtrace-run`, goes on in our children, and
    must not find a file of ours under a number of its own.
    """
    ours = int(handed_over) if handed_over is not None and handed_over.isdecimal() else 0
    for fd in open_fds():
        found = identity(fd)
        if fd > 2 + ours and found is not None:
            _foreign[fd] = found


def foreign_fds() -> list[int]:
    """Return what this process had opened before graced began, not what it was started with."""
    had = [fd for fd, known in _foreign.items() if identity(fd) == known]
    return [fd for fd in had if not os.get_inheritable(fd)]


def our_fds() -> list[int]:
    """Return what is open but for standard streams and what a runtime had opened before us.

    To be asked before a fork, since fork handlers of a runtime may open more in the child.
    """
    foreign = foreign_fds()
    return [fd for fd in open_fds() if fd > 2 and fd not in foreign and identity(fd) is not None]


def close_all_but(keep: Iterable[int], ours: Iterable[int]) -> None:
    """Close every descriptor of ours that is not kept.

    What we were started with, and all if there is a runtime beside us, gives way to /dev/null:
    it is let go, but a runtime may hold its number for its own.
    """
    kept, runs_beside = set(keep), bool(foreign_fds())
    replaced = []
    for fd in ours:
        if fd not in kept:
            if runs_beside or identity(fd) == _foreign.get(fd, ()):
                replaced.append(fd)
            else:
                close_quietly(fd)
    if replaced:
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        for fd in replaced:
            os.dup2(null, fd, inheritable=False)
        if null not in replaced:
            os.close(null)


def close_quietly(fd: int) -> None:
    """Close a descriptor that may be closed already."""
    try:
        os.close(fd)
    except OSError:
        pass


def room_for_fds(more: int) -> tuple[int, int] | None:
    """Raise our own limit if `more` descriptors would pass it; return the old one if so."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or len(open_fds()) + more < soft or soft == hard:
        return None
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft, hard


def raise_fd_limit() -> tuple[int, int]:
    """Let us open as many descriptors as may be; return the limits until now, soft and hard."""
    import resource

    soft, hard = limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return limits


def limit_fds(limit: tuple[int, int]) -> None:
    """Set our limits, soft and hard, of open descriptors."""
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def redirect_stdin() -> None:
    """Let standard input be /dev/null."""
    null = os.open("/dev/null", os.O_RDONLY)
    if null != 0:
        os.dup2(null, 0)
        os.close(null)
    else:
        os.set_inheritable(0, True)


def change_user(user: str | None, group: str | None) -> None:
    """Become `user` for good, in its groups or in `group`. Nothing to do without both.

    No capability is left, none comes back with a setuid program unless $GRACED_NEW_PRIVILEGES
    asks for it, and what the environment says of whoever started us is gone. ProcessError if
    there is no such user or group, or if we may not.
    """
    if user is None and group is None:
        return
    uid, gid, home, name = account(user, group)
    if (uid, gid) == (os.geteuid(), os.getegid()):
        return
    who = f"user {user!r}" if user else f"group {group!r}"
    try:
        become(uid, gid, name, new_privileges=os.environ.get(NEW_PRIVILEGES) == "1")
    except OSError as error:
        raise ProcessError(f"cannot become {who}: {error.strerror}; start as root") from None
    if user is not None and name is not None:
        for variable in list(os.environ):
            if variable.startswith(_PERSONAL) or variable in _PERSONAL_NAMES:
                del os.environ[variable]
        os.environ.update(HOME=home, USER=name, LOGNAME=name)


def become(uid: int, gid: int, name: str | None, *, new_privileges: bool = False) -> None:
    """Take another user and group for good, and let go of what only root has. OSError.

    `name`: whose supplementary groups to take; None: no others than `gid`.
    """
    if uid != 0 and not new_privileges:
        _empty_bounding_set()
    if name is not None:
        os.initgroups(name, gid)
    else:
        os.setgroups([gid])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if uid == 0:
        return
    if not new_privileges:
        _prctl(_SET_NO_NEW_PRIVS, 1)
    # The inheritable ones would stay. A filter of systemd's may forbid the call where none is left.
    if _c.capset(_CAPABILITIES, bytes(24)) != 0 and _has_capabilities():
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (gid, gid, gid):
        raise OSError(errno.EPERM, "some of root's identity is left")


def _has_capabilities() -> bool:
    """Return whether any is left that this process or a program of it could use."""
    with open("/proc/self/status", "rb") as status:
        left = dict(line.split(b":", 1) for line in status)
    return any(int(left[name], 16) for name in (b"CapInh", b"CapPrm", b"CapEff", b"CapAmb"))


def _empty_bounding_set() -> None:
    """Let no program that is run later give a capability, if we may decide that."""
    for capability in range(64):  # see capabilities(7)
        try:
            _prctl(_CAPBSET_DROP, capability)
        except OSError:  # there are no more of them, or a container or systemd has decided already
            return


def be_seen() -> None:
    """Let processes of the same user look at this one, as after an exec; see PR_SET_DUMPABLE.

    The main process does not: it may have root's terminal, and workers are not to reach that.
    """
    _prctl(_SET_DUMPABLE, 1)


def become_owner_of(path: str) -> None:
    """As root, become for good whose something is; nothing to do if it is root's or not there.

    ProcessError if that can't be.
    """
    import pwd

    try:
        found = os.lstat(path)
    except OSError:
        return
    if os.geteuid() != 0 or found.st_uid == 0:
        return
    try:
        entry = pwd.getpwuid(found.st_uid)
        gid, name = entry.pw_gid, entry.pw_name
    except KeyError:  # such as the user of a DynamicUser= that is not running
        gid, name = found.st_gid, None
    if gid == 0:
        raise ProcessError(
            f"{path}: belongs to user {found.st_uid}, whose group is root's; set user"
        )
    try:
        become(found.st_uid, gid, name)
    except OSError as error:
        raise ProcessError(f"cannot become user {found.st_uid}: {error.strerror}") from None


def account(user: str | None, group: str | None) -> tuple[int, int, str, str | None]:
    """Return user number, group number, home and name; names may be numbers.

    ProcessError if there is no such user or group.
    """
    import grp
    import pwd

    uid, gid, home, name = os.geteuid(), os.getegid(), "", None
    try:
        if user is not None:
            entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
            uid, gid, home, name = entry.pw_uid, entry.pw_gid, entry.pw_dir, entry.pw_name
    except KeyError:
        raise ProcessError(f"there is no user {user!r}") from None
    try:
        if group is not None:
            gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise ProcessError(f"there is no group {group!r}") from None
    return uid, gid, home, name


def in_child(life: Callable[[], object]) -> NoReturn:
    """Run a forked child to its end: whatever happens, it never returns into its parent's code."""
    status = BUG
    try:
        life()
        status = 0
    except BaseException as error:
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
        except (OSError, ValueError):  # nobody reads it, or it is closed
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
    """Kill a process group; False if nobody is in it."""
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
    """Return whether nobody is left in a process group, be it a zombie."""
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
    for _ in range(LONGEST_LINE):
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
