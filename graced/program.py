"""Whose command line this is: the name, version and configuration that the process goes by.

graced's own, unless :func:`graced.command` was told others. It is said once, before anything is
read; the processes of a daemon are forked, so it holds in all of them.
"""

from __future__ import annotations

from graced import __version__

MAX_NAME_BYTES = 15  # of a process, see PR_SET_NAME in prctl(2)

name = "graced"
version = __version__
config = "/etc/graced/config.yaml"


def be(prog: str, its_version: str, its_config: str) -> None:
    """Go by this name from now on."""
    global name, version, config
    name, version, config = prog, its_version, its_config


def process_name(role: str = "") -> str:
    """Return what `ps -o comm` shows of a process: the program's name, shortened for its role."""
    if not role:
        return name[:MAX_NAME_BYTES]
    tail = f"-{role}"[: MAX_NAME_BYTES - 1]
    return name[: MAX_NAME_BYTES - len(tail)].rstrip("-") + tail
