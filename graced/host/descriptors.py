"""Descriptors: which are open, whose they are, which a child keeps, and how many there may be."""

from __future__ import annotations

import os
from collections.abc import Iterable

_foreign: dict[int, tuple[int, int]] = {}  # see remember_open_fds()


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
