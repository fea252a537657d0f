"""A subprocess of a worker: in a process group of its own, its output in the log line by line.

Started, heard, signalled, and seen to its end with its whole group. What it is run for, and what
its end means, is said by :mod:`.command` and :mod:`.program`. Not by the standard library's
`subprocess`: sockets are handed on under certain numbers, and with that of the process itself.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import time
from contextlib import suppress
from errno import ENOENT

from graced.host import process
from graced.host.scoreboard import CHILD_GROUP
from graced.record import Record
from graced.text import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn

    from graced.log.logger import Log
    from graced.workers.runtime import Runtime

MAX_LINE_BYTES = 8192  # bytes of one line of output; a longer one is logged in pieces
KEPT_OUTPUT_BYTES = 4096  # bytes of output kept with a failure
READ_BYTES = 1 << 16
MAX_READS = 16  # reads in a row, before signals and the end are looked at; a pipe holds one
FIRST_FD = 3  # of the sockets that are handed on, see sd_listen_fds(3)
FIRST_LOOK_S = 0.02  # seconds until the next look at a group whose leader has ended
LAST_LOOK_S = 0.5  #   each comes later, up to this
_IN_FOLDER, _IN_EXEC = b"f", b"x"  # where a start has failed


class StartError(OSError):
    """A program can't be run; `in_folder`: its working directory is to blame."""

    def __init__(self, number: int, *, in_folder: bool) -> None:
        super().__init__(number, os.strerror(number))
        self.in_folder = in_folder


class Start(Record):
    """How a program is started: what it is to have of the worker, besides its output."""

    argv: tuple[str, ...]
    cwd: str | None
    env: Mapping[str, str]
    locks: tuple[int, ...] = ()  # descriptors that it has under the same numbers
    sockets: tuple[int, ...] = ()  # that listen, for sd_listen_fds(3)
    lead: Callable[[int], None] | None = None  # called in the child, with the group that it leads

    def fork(self, words: memoryview[int]) -> tuple[int, int]:
        """Run it; return its number, and the end of the pipe that its output is in.

        `words` are of the memory that the main process sees. StartError; ValueError for a text
        that no program can be given.
        """
        if not self.argv[0]:
            raise StartError(ENOENT, in_folder=False)
        argv = [_encoded(word) for word in self.argv]
        env = {_encoded(name): _encoded(value) for name, value in self.env.items()}
        output, their_output = os.pipe()
        failure, their_failure = os.pipe()
        try:
            pid = os.fork()
            if pid == 0:
                self._execute(argv, env, words, their_output, their_failure)
        except BaseException:  # closed, whatever it is; raised on
            os.close(output)
            os.close(failure)
            raise
        finally:
            os.close(their_output)
            os.close(their_failure)
        with os.fdopen(failure, "rb") as told:
            said = told.read()
        if said:
            os.waitpid(pid, 0)
            os.close(output)
            words[CHILD_GROUP] = 0
            raise StartError(int(said[1:]), in_folder=said[:1] == _IN_FOLDER)
        return pid, output

    def _execute(
        self,
        argv: list[bytes],
        env: dict[bytes, bytes],
        words: memoryview[int],
        output: int,
        failure: int,
    ) -> NoReturn:
        """In the child: become the program, or say why not."""
        stage = _IN_EXEC
        try:
            self._lead_a_group(words)
            for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            failure = _above(failure, FIRST_FD + len(self.sockets))
            os.dup2(output, 1)
            os.dup2(output, 2)
            for lock in self.locks:
                os.set_inheritable(lock, True)
            self._hand_on_sockets(env)
            if self.cwd is not None:
                stage = _IN_FOLDER
                os.chdir(self.cwd)
                stage = _IN_EXEC
            os.execvpe(argv[0], argv, env)
        except OSError as error:
            os.write(failure, stage + str(error.errno).encode())
        finally:
            os._exit(1)

    def _lead_a_group(self, words: memoryview[int]) -> None:
        """Be found, whenever the worker is killed. The order matters.

        Until it has left the worker's group it dies with that.
        """
        pid = os.getpid()
        words[CHILD_GROUP] = pid
        os.setpgid(0, 0)
        if self.lead is not None:
            self.lead(pid)
        process.set_parent_death_signal(signal.SIGKILL)

    def _hand_on_sockets(self, env: dict[bytes, bytes]) -> None:
        """Put the sockets where they are looked for, and say in `env` whose they are."""
        first_free = FIRST_FD + len(self.sockets)
        copies = [_above(fd, first_free) for fd in self.sockets]  # theirs may be among the numbers
        for index, fd in enumerate(copies):
            os.dup2(fd, FIRST_FD + index)
        if copies:
            env[b"LISTEN_PID"] = str(os.getpid()).encode()


def _encoded(text: str) -> bytes:
    if "\0" in text:
        raise ValueError("a NUL character")
    return os.fsencode(text)


def _above(fd: int, least: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, least)


class Child:
    """A subprocess that runs: heard until it has ended, then ended with all of its group."""

    def __init__(self, runtime: Runtime, start: Start, log: Log) -> None:
        """Start it. StartError, ValueError."""
        self._runtime = runtime
        self._log = log
        self.pid, self._output = start.fork(runtime.writer.words)
        self._pidfd = os.pidfd_open(self.pid)
        os.set_blocking(self._output, False)
        self._wakeups = runtime.wakeup.fileno()
        self._silent = False
        self._line = bytearray()
        self._tail = bytearray()
        self._others: dict[int, Callable[[], None]] = {}
        self._poll = select.poll()
        for fd in (self._pidfd, self._output, self._wakeups):
            self._poll.register(fd, select.POLLIN)

    def listen_to(self, fd: int, read: Callable[[], None]) -> None:
        """Call `read` whenever a descriptor is readable while we hear."""
        self._others[fd] = read
        self._poll.register(fd, select.POLLIN)

    def listen_no_more(self, fd: int) -> None:
        """Let go of a descriptor, before it is closed."""
        self._poll.unregister(fd)
        del self._others[fd]

    @property
    def tail(self) -> str:
        """The last of what it has said."""
        return self._tail.decode(errors="backslashreplace")

    @property
    def last_line(self) -> str:
        """The last line of what it has said."""
        return one_line(next((line for line in self.tail.splitlines()[::-1] if line.strip()), ""))

    def hear(self, seconds: float | None) -> set[int]:
        """Wait for output, its end, a signal to the worker, or what else is listened to.

        The round's clock runs meanwhile. Returns the descriptors that are readable.
        """
        ready = {fd for fd, _ in self._poll.poll(None if seconds is None else seconds * 1000)}
        if self._wakeups in ready:
            drain(self._wakeups)
        for fd in ready & self._others.keys():
            self._others[fd]()
        if self._output in ready:
            self._read()
        return ready

    def watch(self, end: float | None = None) -> bool:
        """Log what it says until it has ended: True; or until `end`: False.

        WorkerInterrupt passes through here.
        """
        while True:
            self.heed_interrupt()
            if self._pidfd in self.hear(time_left(end)):
                return True
            if end is not None and time.monotonic() >= end:
                return False

    def watch_others(self) -> None:
        """Log what is said until all others of its group have ended, too; it has itself."""
        self._poll.unregister(self._pidfd)
        pause = FIRST_LOOK_S
        while process.living_in((self.pid,)):
            self.heed_interrupt()
            self.hear(pause)
            pause = min(2 * pause, LAST_LOOK_S)

    def heed_interrupt(self) -> None:
        """Raise WorkerInterrupt, if that is due."""
        if self._runtime.due():
            self._runtime.interrupt()

    def await_end(self, end: float | None = None) -> None:
        """Log what it says until it has ended, or until `end`; not to be interrupted."""
        while not self.has_ended() and (end is None or time.monotonic() < end):
            self.hear(time_left(end))

    def has_ended(self) -> bool:
        """Whether it has ended, be there others in its group or not."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, flags) is not None

    def signal_group(self, number: int) -> None:
        """Send a signal to all of its group."""
        with suppress(PermissionError):  # all have become another user's: they are awaited
            os.killpg(self.pid, number)

    def end(self) -> process.Exit:
        """Have nothing of its group left; return how it ended itself."""
        try:
            process.end_group(self.pid)  # before its number is free for others
            found = os.waitid(os.P_PID, self.pid, os.WEXITED)
            assert found is not None
        finally:
            self._runtime.writer.words[CHILD_GROUP] = 0
            self._read()
            self._say(self._line)
            os.close(self._output)
            os.close(self._pidfd)
        return process.Exit(self.pid, found.si_code, found.si_status)

    def _read(self) -> None:
        """Log what has been written so far, up to a bound: there may be no end of it."""
        for _ in range(MAX_READS):
            data = None if self._silent else drain(self._output)
            if data is None:
                return
            if not data:
                self._silent = True
                self._poll.unregister(self._output)
                return
            self._tail += data
            del self._tail[:-KEPT_OUTPUT_BYTES]
            *lines, rest = (self._line + data).split(b"\n")
            for line in lines:
                self._say(line)
            self._line = rest
            while len(self._line) > MAX_LINE_BYTES:
                self._say(self._line[:MAX_LINE_BYTES])
                del self._line[:MAX_LINE_BYTES]

    def _say(self, line: bytearray) -> None:
        for at in range(0, len(line), MAX_LINE_BYTES):
            piece = line[at : at + MAX_LINE_BYTES].rstrip(b"\r")
            self._log.info(piece.decode(errors="backslashreplace"))


def drain(fd: int) -> bytes | None:
    """Return what can be read at once, b"" at the end, None if there is nothing yet."""
    try:
        return os.read(fd, READ_BYTES)
    except BlockingIOError:
        return None


def time_left(end: float | None) -> float | None:
    """Return the seconds until `end`, at least 0; None if there is none."""
    return None if end is None else max(end - time.monotonic(), 0)
