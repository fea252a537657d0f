"""A shell as its users have it: at a terminal, with a completion to be asked by key.

The shell answers through a FIFO: once it is set up, and whenever the line is to be told. So a
test waits for an answer, and never looks at a screen.
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from pathlib import Path

DEADLINE = 60.0
COMPLETE_ALL, TELL, FORGET = b"\x14", b"\x19", b"\x15"  # Ctrl-T, Ctrl-Y, Ctrl-U
# Each inserts every match at Ctrl-T, and tells the line at Ctrl-Y.
SHELLS = {
    "bash": (
        ("--norc", "-i"),
        """\
[ -z "$LIBRARY" ] || source "$LIBRARY"
source {made}/graced.bash
bind '"\\C-t": insert-completions'
tell() {{ printf '%s\\n' "$READLINE_LINE" >"$TOLD"; }}
bind -x '"\\C-y": tell'
echo ready >"$TOLD"
""",
    ),
    "zsh": (
        ("-f", "-i"),
        """\
fpath=({made} $fpath)
autoload -Uz compinit
compinit -u -D
all() {{ _main_complete; compstate[insert]=all; }}
zle -C all complete-word all
bindkey '^T' all
tell() {{ print -r -- "$BUFFER" >"$TOLD"; }}
zle -N tell
bindkey '^Y' tell
bindkey '^U' kill-whole-line
print ready >"$TOLD"
""",
    ),
}


class Terminal:
    """An interactive shell that has loaded a completion."""

    def __init__(
        self, shell: str, program: str, made: Path, home: Path, env: dict[str, str]
    ) -> None:
        arguments, setup = SHELLS[shell]
        script, fifo = home / f"setup.{shell}", home / "told"
        script.write_text(setup.format(made=made))
        os.mkfifo(fifo)
        self._told = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
        self._screen, inside = pty.openpty()
        wide = struct.pack("HHHH", 50, 1000, 0, 0)  # so that no line is wrapped
        fcntl.ioctl(inside, termios.TIOCSWINSZ, wide)
        self._shell = subprocess.Popen(
            [program, *arguments],
            cwd=home,
            env={**env, "TOLD": str(fifo), "TERM": "dumb", "HISTFILE": "", "HOME": str(home)},
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
        )
        os.close(inside)
        self._seen = b""
        os.write(self._screen, f". {script}\n".encode())
        assert self._answer() == "ready"

    def complete(self, line: str) -> str:
        """Return what a line becomes if everything that fits is put at its end."""
        os.write(self._screen, FORGET + line.encode() + COMPLETE_ALL + TELL)
        return self._answer()

    def _answer(self) -> str:
        told, end = b"", time.monotonic() + DEADLINE
        while not told.endswith(b"\n"):
            left = max(end - time.monotonic(), 0)
            readable, _, _ = select.select([self._screen, self._told], [], [], left)
            assert readable, f"no answer; on the screen: {self._seen[-2000:]!r}"
            if self._screen in readable:
                self._seen += os.read(self._screen, 65536)
            if self._told in readable:
                told += os.read(self._told, 65536)
        return told.decode()[:-1]

    def close(self) -> None:
        self._shell.kill()
        self._shell.wait()
        os.close(self._screen)
        os.close(self._told)
