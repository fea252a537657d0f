"""The classic daemon, for hosts without systemd: leave the terminal, and say how it went.

python-daemon does the leaving. The process that was started waits until the
daemon is ready, or takes over the exit status of one that never was.
"""

from __future__ import annotations

import os
import sys

from graced.host import process, runtimedir
from graced.host.log import say
from graced.host.notify import READY_FD
from graced.host.sinks import FileSink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, NoReturn

BUG: Final = 70
FAILED: Final = 1
TAIL: Final = 8192  # bytes of the log that are shown when the start failed


class PidFile:
    """A file with the daemon's process number, locked while it lives: stale ones don't block."""

    def __init__(self, path: str) -> None:
        """Lock the file. Raises AlreadyRunning or Unusable."""
        self.path = path
        try:
            self.fd = runtimedir.lock_file(path)
        except runtimedir.Taken as error:
            raise runtimedir.AlreadyRunning(path, error.pid) from None
        except OSError as error:
            raise runtimedir.Unusable(
                f"{path}: {error.strerror}; give another --pidfile"
            ) from error

    def __enter__(self) -> PidFile:
        runtimedir.sign(self.fd)
        return self

    def __exit__(self, *_error: object) -> None:
        try:
            if runtimedir.is_at(self.fd, self.path):  # else it is somebody else's by now
                os.unlink(self.path)
        except OSError:  # its folder is not ours any more
            pass
        os.close(self.fd)


def run(
    body: Callable[[], int],
    log_file: str,
    pidfile: str | None,
    owner: tuple[int, int] | None = None,
) -> int:
    """Run `body` as a daemon; return 0 when it is ready, else the status that it returned.

    `body` finds in the environment where to say that it is ready; `host/notify.py` does.
    A new log file is given to `owner`. Raises AlreadyRunning or Unusable.
    """
    _make(log_file, owner)
    held = PidFile(pidfile) if pidfile is not None else None
    shown_from = _size(log_file)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _become_daemon(body, log_file, held, write)
    os.close(write)
    if held is not None:
        os.close(held.fd)  # the daemon has it too, and the lock with it
    os.waitpid(child, 0)
    status, told = _wait(read)
    if told:
        say(told)
    elif status != 0:
        _show(log_file, shown_from)
    return status


def _make(log_file: str, owner: tuple[int, int] | None) -> None:
    """Create the log file, while there is a terminal to say why that can't be."""
    try:
        FileSink(log_file, owner).close()
    except OSError as error:
        raise runtimedir.Unusable(
            f"{log_file}: {error.strerror}; set log.file to a file that can be written"
        ) from error


def _become_daemon(
    body: Callable[[], int], log_file: str, held: PidFile | None, report: int
) -> NoReturn:
    status = BUG
    try:
        with _Context(log_file, held, report):
            _say(report, f"PID {os.getpid()}\n")
            os.environ[READY_FD] = str(os.dup(report))
            status = body()
    except BaseException as error:  # noqa: BLE001 - the child must end here, whatever it is
        say(f"graced: {type(error).__name__}: {error}")
    finally:
        _say(report, f"EXIT {status}\n")
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(status)


class _Context:
    """DaemonContext with all that it would do to us switched off."""

    def __init__(self, log_file: str, held: PidFile | None, report: int) -> None:
        import daemon.daemon

        # python-daemon 2.3 makes a set of all numbers up to the limit, which may be 2^30.
        daemon.daemon.get_maximum_file_descriptors = _above_all_descriptors
        _have_standard_streams()
        log = open(log_file, "ab", buffering=0)  # noqa: SIM115 - it lives as long as the daemon
        keep = [report] if held is None else [report, held.fd]
        keep += [fd for fd in process.foreign_fds() if not os.get_inheritable(fd)]
        self._context = daemon.daemon.DaemonContext(
            detach_process=True,
            signal_map={},
            prevent_core=False,
            umask=_umask(),
            files_preserve=keep,
            pidfile=held,
            stdout=log,
            stderr=log,
        )

    def __enter__(self) -> None:
        self._context.open()

    def __exit__(self, *error: object) -> None:
        self._context.close()


def _above_all_descriptors() -> int:
    return max(map(int, os.listdir("/proc/self/fd"))) + 1


def _have_standard_streams() -> None:
    """Make the standard streams that Python did not find, since python-daemon redirects them."""
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _say(report: int, text: str) -> None:
    try:
        os.write(report, text.encode())
    except OSError:  # nobody waits any more
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
    say("graced: the daemon died while it was starting")
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
            file.seek(max(start, end - TAIL))
            text = file.read().decode("utf-8", "replace")
    except OSError as error:
        text = f"graced: {path}: {error.strerror}"
    if text:
        say(text)
