"""The classic daemon, for hosts without systemd: leave the terminal, and say how it went.

python-daemon does the leaving. The process that was started waits until the
daemon is ready, or takes over the exit status of one that never was.
"""

from __future__ import annotations

import os
import sys

from graced import program
from graced.exitcodes import BUG, FAILED
from graced.host import descriptors
from graced.host.notify import READY_FD
from graced.log.console import complain, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from graced.host.directories import PidFile

SHOWN_LOG_BYTES = 8192  # of its end, when the start failed


def run(
    body: Callable[[], int], log: str, log_fd: int, pidfile: PidFile | None, keep: set[int]
) -> int:
    """Run `body` as a daemon; return 0 when it is ready, else the status that it returned.

    `body` finds in the environment where to say that it is ready; `host/notify.py` does.
    `keep`: the descriptors that it needs, of the log and the PID file too.
    """
    shown_from = _size(log)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _become_daemon(body, _Context(log_fd, pidfile, {write, *keep}), write)
    os.close(write)
    if pidfile is not None:
        os.close(pidfile.fd)  # the daemon has it too, and the lock with it
    os.waitpid(child, 0)
    status, told = _wait(read)
    if told:
        say(told)
    elif status != 0:
        _show(log, shown_from)
    return status


def _become_daemon(body: Callable[[], int], context: _Context, report: int) -> NoReturn:
    status = BUG
    try:
        with context:
            _say(report, f"PID {os.getpid()}\n")
            os.environ[READY_FD] = str(os.dup(report))
            status = body()
    except BaseException as error:  # noqa: BLE001 - the child must end here, whatever it is
        complain(f"{type(error).__name__}: {error}")
    finally:
        _say(report, f"EXIT {status}\n")
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(status)


class _Context:
    """DaemonContext with all that it would do to us switched off."""

    def __init__(self, log: int, pidfile: PidFile | None, keep: set[int]) -> None:
        import daemon.daemon

        # python-daemon 2.3 makes a set of all numbers up to the limit, which may be 2^30.
        daemon.daemon.get_maximum_file_descriptors = _above_all_descriptors
        sys.stdin = sys.stdin or os.fdopen(0, closefd=False)  # python-daemon redirects it
        keep |= set(descriptors.foreign_fds())
        self._context = daemon.daemon.DaemonContext(
            detach_process=True,
            signal_map={},
            prevent_core=False,
            umask=_umask(),
            files_preserve=list(keep),
            pidfile=pidfile,
            stdout=_File(log),
            stderr=_File(log),
        )

    def __enter__(self) -> None:
        self._context.open()

    def __exit__(self, *error: object) -> None:
        self._context.close()


class _File:
    """A descriptor, as python-daemon wants one."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd


def _above_all_descriptors() -> int:
    return max(map(int, os.listdir("/proc/self/fd"))) + 1


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _say(report: int, text: str) -> None:
    try:
        os.write(report, text.encode())
    except OSError:  # the command that waited is gone
        pass


def _wait(read: int) -> tuple[int, str]:
    """Return 0 when the daemon says that it is ready, else its exit status; and what it said."""
    said = b""
    while True:
        try:
            data = os.read(read, 4096)
        except KeyboardInterrupt:
            _interrupt(said)
            continue
        said += data
        lines = said.split(b"\n")
        if b"READY" in lines:
            return 0, ""
        if not data:
            return _status(lines), _told(lines)


def _status(lines: list[bytes]) -> int:
    for line in lines:
        if line.startswith(b"EXIT "):
            return int(line[5:])
    complain("the daemon died while it was starting")
    return FAILED


def _told(lines: list[bytes]) -> str:
    told = [line[4:] for line in lines if line.startswith(b"SAY ")]
    return b"\n".join(told).decode("utf-8", "replace")


def _interrupt(said: bytes) -> None:
    """Pass Ctrl-C on: the daemon has left the terminal."""
    import signal

    words = said.split()
    if words[:1] == [b"PID"] and len(words) > 1:
        os.kill(int(words[1]), signal.SIGINT)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _show(path: str, start: int) -> None:
    """Show what the log says since then: the daemon has no terminal to say it on."""
    try:
        with open(path, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(start, end - SHOWN_LOG_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError as error:
        text = f"{program.name}: {path}: {error.strerror}"
    if text:
        say(text)
