"""Whether a worker still lives, told by a lock on a file of its own, never by a number.

A worker takes the lock before it takes a job, and the kernel lets go of it when the last
process that inherited it is gone. The keeper tries such a lock, and never waits for it.

A command has a lock of its own, which all that it starts inherits: where no process was left to
end its group, that says that the job is still worked on. What has left the group has made
itself a daemon and is not waited for.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import suppress

SUFFIX = ".lock"
COMMAND = ".command"
LONGEST = 1 << 20  # bytes of what a keeper leaves to the next one


def folder(queue: str) -> str:
    """Return the folder of the lock files of a queue's workers."""
    return f"{queue}-owners"


def path_of(queue: str, owner: str) -> str:
    """Return the file of a worker's own lock."""
    return f"{folder(queue)}/{owner}{SUFFIX}"


def _command(queue: str, owner: str) -> str:
    return f"{folder(queue)}/{owner}{COMMAND}"


# A worker's end


def hold(queue: str, owner: str) -> int:
    """Take a worker's own lock; return the descriptor that is to stay open."""
    path = path_of(queue, owner)
    os.makedirs(folder(queue), 0o700, exist_ok=True)
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(fd, path):
                return fd
        except BlockingIOError:  # the keeper is just trying it
            os.sched_yield()
        except BaseException:  # closed, whatever it is; raised on
            os.close(fd)
            raise
        os.close(fd)


def keep(queue: str, owner: str, fd: int) -> int:
    """Take it once more if its file was removed; return the descriptor that is to stay open."""
    if _is_at(fd, path_of(queue, owner)):
        return fd
    _make_folder(queue)
    found = hold(queue, owner)
    os.close(fd)
    return found


def hold_command(queue: str, owner: str) -> int:
    """Take a lock for the command that a worker starts next, and for no other one."""
    _make_folder(queue)
    path = _command(queue, owner)
    with suppress(FileNotFoundError):
        os.unlink(path)  # what the last one has left behind holds what is not looked at
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o660)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return fd


def _make_folder(queue: str) -> None:
    """Make the owners' folder anew if it was removed. OSError if the queue's is not there.

    That may have been moved: a new one in its place would be in the way of moving it back.
    """
    with suppress(FileExistsError):
        os.mkdir(folder(queue), 0o700)


def release(queue: str, owner: str, fd: int) -> None:
    """Let go of a lock that no other process has, and of its file."""
    with suppress(OSError):
        os.unlink(path_of(queue, owner))
    os.close(fd)


def name_group(fd: int, group: int) -> None:
    """Write down which group a command leads, in its lock."""
    with suppress(OSError):  # on a full disk: then all that have the lock count
        os.pwrite(fd, b"%d" % group, 0)


def release_command(queue: str, owner: str, fd: int) -> None:
    """The command has ended, and its group with it."""
    with suppress(OSError):
        os.unlink(_command(queue, owner))
    os.close(fd)


def _is_at(fd: int, path: str) -> bool:
    """Whether a file still has its name: the keeper may have tidied it up in between."""
    try:
        named = os.stat(path)
    except FileNotFoundError:
        return False
    mine = os.fstat(fd)
    return (mine.st_dev, mine.st_ino) == (named.st_dev, named.st_ino)


# The keeper's end


def lives(queue: str, owner: str, *, remove: bool = True, command: bool = False) -> bool:
    """Whether a process holds an owner's lock; if none does its file is removed.

    With `command` the group of the command that it has started counts, too.
    """
    if command and _works(_command(queue, owner)):
        return True
    if _is_held(path_of(queue, owner), remove):
        return True
    if remove:
        with suppress(OSError):
            os.unlink(_command(queue, owner))
    return False


def _is_held(path: str, remove: bool) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:  # cannot tell; its worker may be at work
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if remove:
            os.unlink(path)
    except BlockingIOError:
        return True
    except OSError:  # free, and cannot be removed: another time
        return False
    finally:
        os.close(fd)
    return False


def _works(path: str) -> bool:
    """Whether a command's lock is held by its group; what can't be seen counts as of it."""
    if not _is_held(path, remove=False):
        return False
    try:
        with open(path, "rb") as file:
            group = int(file.read(20) or 0)
    except (OSError, ValueError):
        return True
    found = holders(path)
    return not group or not found or any(_group(pid) == group for pid in found)


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except OSError:
        return 0


def holders(path: str) -> list[int]:
    """Return the processes that have a file open, as far as we may see them."""
    try:
        named = os.stat(path)
    except OSError:
        return []
    numbers = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    return [pid for pid in numbers if pid != os.getpid() and _has_open(pid, named)]


def _has_open(pid: int, file: os.stat_result) -> bool:
    try:
        for fd in os.scandir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(fd.path), file):
                    return True
    except OSError:  # it has ended, or is another user's
        pass
    return False


def who_holds(queue: str, owner: str) -> str:
    """Say what holds an owner's lock, and which file that is, in words."""
    for path in (path_of(queue, owner), _command(queue, owner)):
        if _is_held(path, remove=False):
            found = ", ".join(f"process {pid} ({_name(pid)})" for pid in holders(path))
            return f"{found or 'a process that cannot be seen'} holds {path}"
    return f"no process holds {path_of(queue, owner)} any more"


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as comm:
            return comm.read().strip()
    except OSError:
        return "gone"


def leave_word(queue: str, owner: str, evidence: str | None) -> None:
    """Leave to the next keeper what the main process has said of a worker's end."""
    word = json.dumps({"evidence": evidence}).encode()
    with suppress(OSError):  # on a full disk: then it is taken for found after a crash
        fd = os.open(path_of(queue, owner), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(fd, 0)  # of how far its jobs were
            os.pwrite(fd, word, 0)
        finally:
            os.close(fd)


def word_left(queue: str, owner: str, otherwise: str | None) -> str | None:
    """Return the evidence that an earlier keeper has left, else `otherwise`."""
    try:
        with open(path_of(queue, owner), "rb") as file:
            evidence = json.loads(file.read(LONGEST))["evidence"]
    except (OSError, ValueError, KeyError, TypeError):
        return otherwise
    return evidence if evidence is None or isinstance(evidence, str) else otherwise


def listed(queue: str) -> Iterator[str]:
    """Yield every owner that has a lock file."""
    try:
        names = os.listdir(folder(queue))
    except OSError:
        return
    yield from {
        name.removesuffix(suffix)
        for name in names
        for suffix in (SUFFIX, COMMAND)
        if name.endswith(suffix)
    }
