"""Where the stacks of other processes are written, even while C code holds the interpreter.

One sparse memory file for the daemon, a window of it for each record of the
scoreboard, and some that are lent to zygotes and keepers. faulthandler
writes to a descriptor from inside the signal handler; each worker has its own, standing
at the start of its own window.
"""

from __future__ import annotations

import os
import signal

from graced.host import process
from graced.host.scoreboard import RECORDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

WINDOW_BYTES = 32 << 20  # bytes, of which only those take memory that are written
PLAIN = bytes((10, *range(32, 127)))  # what faulthandler writes; all else it escapes
MAX_DUMP_BYTES = 12 << 20  # of one dump: 100 threads of 100 frames, names of 500 characters
MAX_THREADS = 100  # that faulthandler prints, the newest first: the main one is the last
MAX_FRAMES = 100  # frames that it prints of each
MAX_TEXT_CHARS = 60_000  # characters told of a window, so that a log record and evidence hold them
CURRENT = "Current thread"
FIRST = ("Fatal", CURRENT, "Stack")  # how what is told first begins: a crash, and its stack
FIRST_LENT = RECORDS  # after those of the workers
OUR_FIRST = (
    ("workers/runtime.py", " in guarded"),
    ("workers/base.py", " in live"),
    ("zygote/process.py", " in run"),
    ("queue/keeper_process.py", " in _live"),
)


class Stacks:
    """The memory file; inherited by every worker."""

    __slots__ = ("_ends", "_fd", "_lent")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._ends: dict[int, int] = {}  # of windows: how far the last stack reached
        self._lent: set[int] = set()

    @classmethod
    def create(cls) -> Stacks:
        """Make the file. It takes no memory until it is written to."""
        return cls(os.memfd_create("graced-stacks", os.MFD_CLOEXEC))

    def fileno(self) -> int:
        """Return the descriptor that children have to keep."""
        return self._fd

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    # -- the main process ------------------------------------------------------

    def reuse(self, record: int) -> None:
        """Have a window for another worker, which will write from its start."""
        self.clear(record)
        self._ends.pop(record, None)

    def has_room(self, record: int) -> bool:
        """Whether one more stack fits in, should it follow the last.

        So it does where no Python runs that could go back to the start.
        """
        return self._ends.get(record, 0) + MAX_DUMP_BYTES <= WINDOW_BYTES

    def clear(self, record: int) -> None:
        """Empty a window: before a stack is asked for, and once it is told."""
        found = self._used(record)
        if found is not None:
            start, data = found
            self._ends[record] = start + len(data) - record * WINDOW_BYTES
            os.pwrite(self._fd, bytes(len(data)), start)

    def read(self, record: int) -> str:
        """Return what was written to a window since it was cleared: the main thread's stack first.

        Of more than can be told that is left out which comes last, and said.
        """
        found = self._used(record)
        if found is None:
            return ""
        data = found[1].strip(b"\0")
        strange = data.translate(None, PLAIN)[:1]
        if strange:  # user code has written there, perhaps without end
            data = data[: data.index(strange)]
        return arranged(above_our_own(data.decode("utf-8", "replace")))

    def lend(self) -> Window:
        """Return a window for a process that has no record. OSError if no descriptor is left."""
        number = FIRST_LENT
        while number in self._lent:
            number += 1
        fd = self.reserve()
        self.open_at(fd, number)
        self._lent.add(number)
        return Window(self, number, fd)

    def take_back(self, window: Window) -> None:
        """Have a window that was lent, once its process is reaped."""
        self.clear(window.number)
        os.close(window.fd)
        self._lent.discard(window.number)

    def _used(self, record: int) -> tuple[int, bytes] | None:
        """Return where in the file the written part of a window starts, and the part."""
        start, limit = record * WINDOW_BYTES, (record + 1) * WINDOW_BYTES
        found, end = -1, start
        while end < limit:
            try:
                start = os.lseek(self._fd, end, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing was ever written from here on
                break
            if start >= limit:
                break
            found = start if found < 0 else found
            end = min(os.lseek(self._fd, start, os.SEEK_HOLE), limit)
        data = os.pread(self._fd, end - found, found).rstrip(b"\0") if found >= 0 else b""
        return (found, data) if data else None

    # -- a worker ----------------------------------------------------------------

    def reserve(self) -> int:
        """Return a descriptor to name to faulthandler before the worker is forked."""
        return os.dup(self._fd)

    def open_at(self, fd: int, record: int) -> None:
        """Let a reserved descriptor be the worker's own, at the start of its window.

        Without /proc it is standard error.
        """
        try:
            own = os.open(f"/proc/self/fd/{self._fd}", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            os.dup2(2, fd, inheritable=False)
            return
        os.dup2(own, fd, inheritable=False)
        os.close(own)
        rewind(fd, record)


class Window:
    """A window that is lent. Both sides share its descriptor, so the main process rewinds it."""

    __slots__ = ("_stacks", "fd", "number")

    def __init__(self, stacks: Stacks, number: int, fd: int) -> None:
        self._stacks = stacks
        self.number = number
        self.fd = fd

    def clear(self) -> None:
        """Empty it, and have the next stack written at its start."""
        self._stacks.clear(self.number)
        rewind(self.fd, self.number)

    def read(self) -> str:
        """Return what was written since it was cleared."""
        return self._stacks.read(self.number)

    def give_back(self) -> None:
        """Let others have it."""
        self._stacks.take_back(self)

    def print_here(self) -> None:
        """In the process it is for: have SIGQUIT print the stack here, and crashes theirs.

        Also once more, after user code may have made something else of it.
        """
        import faulthandler

        faulthandler.unregister(signal.SIGQUIT)
        faulthandler.enable(file=self.fd)
        faulthandler.register(signal.SIGQUIT, file=self.fd)
        process.enlarge_signal_stack()


def rewind(fd: int, record: int) -> None:
    """Let the next stack be written at the start of the window again."""
    try:
        os.lseek(fd, record * WINDOW_BYTES, os.SEEK_SET)
    except OSError:  # standard error is a pipe or a terminal
        pass


def written(frame: FrameType | None) -> str:
    """Return the stack of the main thread, as faulthandler would write it."""
    lines = [f"\n{CURRENT} (most recent call first):\n"]
    while frame is not None and len(lines) < MAX_FRAMES:
        code = frame.f_code
        lines.append(f'  File "{code.co_filename}", line {frame.f_lineno} in {code.co_name}\n')
        frame = frame.f_back
    return "".join(lines)


def arranged(text: str) -> str:
    """Return a dump of stacks with that of the current thread first, as much as can be told."""
    blocks = [_block(block) for block in text.strip("\n").split("\n\n")]
    first = [block for block in blocks if block.startswith(FIRST)]
    rest = [block for block in blocks if not block.startswith(FIRST)]
    told = _shortened("\n\n".join(first or rest[:1]))
    rest = rest if first else rest[1:]
    while rest and len(told) + len(rest[0]) <= MAX_TEXT_CHARS:
        told += "\n\n" + rest.pop(0)
    if rest:
        told += f"\n\n… ({len(rest)} more are left out)"
    return told + "\n" if text.endswith("\n") else told


def _block(text: str) -> str:
    return f"… (no more than {MAX_THREADS} threads are printed)" if text == "..." else text


def _shortened(text: str) -> str:
    """Return the most recent calls of a stack."""
    if len(text) <= MAX_TEXT_CHARS:
        return text
    kept = text[:MAX_TEXT_CHARS].rpartition("\n")[0] or text[:MAX_TEXT_CHARS]
    return f"{kept}\n  … ({len(text) - len(kept)} more characters are left out)"


def above_our_own(text: str) -> str:
    """Return stacks without the frames through which a worker's life got to the user's code.

    They begin in `graced/workers/runtime.py`, or in `graced/workers/base.py` between rounds, and
    end in the main process, which a worker is a fork of, as zygotes and keepers are.
    """
    kept: list[str] = []
    ours = False
    for line in text.splitlines(keepends=True):
        if not line.startswith("  File "):
            ours = False
        else:
            ours = ours or _is_the_first_of_ours(line.strip().rpartition("/graced/")[2])
        if not ours:
            kept.append(line)
    return "".join(kept)


def _is_the_first_of_ours(frame: str) -> bool:
    return any(frame.startswith(file) and frame.endswith(name) for file, name in OUR_FIRST)
