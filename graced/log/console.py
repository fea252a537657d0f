"""What a command says to the person at its terminal. The log of a daemon is in :mod:`.logger`."""

from __future__ import annotations

import errno
import os

from graced import program
from graced.text import harmless


def complain(why: object) -> None:
    """Say something in the program's own name."""
    say(f"{program.name}: {why}")


def say(line: str, fd: int = 2) -> None:
    """Tell a person something on standard error, as a command does. Never raises."""
    data = (harmless(line).rstrip("\n") + "\n").encode("utf-8", "backslashreplace")
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EBADF, errno.EIO, errno.EAGAIN, errno.ENOSPC):
            raise
