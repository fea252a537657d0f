"""Which daemon a command or an application means: where its control socket is, and if it runs."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from graced.host import unixsocket
from graced.record import Record


class Where(Record):
    """Which daemon is meant, and which of its pools."""

    config: str | None = None  # the file that was named
    sets: Sequence[str] = ()
    socket: str | None = None  # the control socket that was named
    pool: str | None = None
    commands: bool = False  # without a name, of several the one that runs command lines is meant


def named_socket(where: Where) -> str | None:
    """Return the control socket that the user has named: then no other daemon will do.

    In a worker $GRACED_SOCKET is its daemon's, and of no account for another configuration.
    """
    if where.socket is not None:
        return where.socket
    own = os.environ.get("GRACED_CONFIG")
    if where.config is not None and own and not _same_file(where.config, own):
        return None
    return os.environ.get("GRACED_SOCKET") or None


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return os.path.abspath(one) == os.path.abspath(other)


def control_of(where: Where) -> str:
    """Return where the daemon listens, whether it does or not. Raises UnknownDaemonError."""
    from graced.config import reader
    from graced.host import directories

    named = named_socket(where)
    user = reader.read_user(where.config, os.environ, where.sets)
    if user is not None:
        unixsocket.know(user)
    if named is not None:
        return named
    name, folder = reader.read_identity(where.config, os.environ, where.sets)
    return os.path.join(directories.find(name, folder, os.environ, user), directories.SOCKET)


def daemon_pid(control: str) -> int | None:
    """Return the number of the daemon that has its control socket there; None if none answers."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            unixsocket.connect_to_daemon(probe, control)
            return unixsocket.peer(probe)[0] or None
    except (unixsocket.UntrustedSocketError, OSError):
        return None


def is_running(control: str) -> bool:
    """Whether a daemon has its control socket there."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            unixsocket.connect_to_daemon(probe, control)
    except unixsocket.UntrustedSocketError:  # another user's is none
        return False
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        return False
    except OSError:  # it is there, and we may not or cannot talk to it now
        return True
    return True
