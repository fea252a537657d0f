"""Where a command finds the pool's queue: at its keeper, or, while no daemon runs, in its file.

What can be asked of either is in :mod:`graced.queue.protocol`.
"""

from __future__ import annotations

import os
import time

from graced.cli.errors import CommandError
from graced.control.client import NoDaemonError
from graced.exitcodes import CONFIG, FAILED, NO_DAEMON, USAGE
from graced.host import unixsocket
from graced.log.console import complain
from graced.queue import wire
from graced.queue.address import pools_with_socket, socket_path
from graced.queue.client_end import ClientEnd
from graced.queue.engines import engine_of, file_of
from graced.queue.protocol import QueueGone, QueueLockedError
from graced.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    from graced.queue.protocol import ClientQueue, QueueView
    from graced.settings import Pool, Settings

    T = TypeVar("T")

COMMAND = "graced.workers:Command"
KEEPER_TIMEOUT_S = 5.0  # for a keeper that is just being started, or started again
POLL_INTERVAL_S = 0.05  # between two looks for it


def open_queue(args: argparse.Namespace, control: str) -> ClientQueue:
    """Return the pool's queue: its keeper's if a daemon runs, else its file.

    ``control`` is the control socket's path. Raises CommandError or QueueError.
    """
    found = _found(args, control, _opened)
    assert found is not None
    return found


def find_queue(args: argparse.Namespace, control: str) -> ClientQueue | None:
    """Return the same, but None if no daemon runs and there is no file."""
    return _found(args, control, _opened_if_there)


def view_queue(args: argparse.Namespace, control: str) -> QueueView | None:
    """Return the same, to look at only: a daemon may start, however long that is looked at."""
    return _found(args, control, _viewed)


def _found(
    args: argparse.Namespace, control: str, open_file: Callable[[argparse.Namespace], T]
) -> ClientEnd | T:
    end = time.monotonic() + KEEPER_TIMEOUT_S
    named = bool(args.socket or os.environ.get("GRACED_SOCKET"))
    while True:
        if named and not is_running(control):  # no other daemon's queue will do
            raise CommandError(str(NoDaemonError(control)), NO_DAEMON)
        found = _answering(os.path.dirname(control), args.pool)
        if found is not None:
            return found
        running = is_running(control)
        if not running:
            try:
                return open_file(args)
            except QueueLockedError as occupied:  # a keeper that is about to listen, or to leave
                trouble: Exception = occupied
        else:
            trouble = CommandError(_no_queue(args.pool), FAILED)
        if time.monotonic() > end:
            raise trouble
        time.sleep(POLL_INTERVAL_S)


def _no_queue(pool: str | None) -> str:
    missing = "no pool" if pool is None else f"no pool {pool!r}"
    return f"the running daemon has {missing} whose workers take jobs"


def _answering(folder: str, pool: str | None) -> ClientEnd | None:
    """Return the keeper that listens in a folder; CommandError if there are several."""
    found = {}
    for name in [pool] if pool is not None else pools_with_socket(folder):
        try:
            found[name] = ClientEnd(socket_path(folder, name), _tell)
        except QueueGone:  # a name that a keeper has left behind
            continue
    if len(found) > 1:
        pools = ", ".join(found)
        raise CommandError(f"several pools have a queue: {pools}; say which with --pool", USAGE)
    return next(iter(found.values()), None)


def _tell(text: str) -> None:
    complain(text)


def is_running(control: str) -> bool:
    """Whether a daemon has its control socket there."""
    try:
        wire.connect_to_daemon(control).close()
    except unixsocket.UntrustedSocketError:  # another user's is none
        return False
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        return False
    except OSError:  # it is there, and we may not or cannot talk to it now
        return True
    return True


def _opened(args: argparse.Namespace) -> ClientQueue | None:
    return _open_file(_file_of(args, must_exist=False))


def _opened_if_there(args: argparse.Namespace) -> ClientQueue | None:
    return _open_file(_file_of(args, must_exist=True))


def _open_file(file: _File | None) -> ClientQueue | None:
    return None if file is None else engine_of(file.pool.queue).open_offline(file.path, file.pool)


def _viewed(args: argparse.Namespace) -> QueueView | None:
    file = _file_of(args, must_exist=True)
    return None if file is None else engine_of(file.pool.queue).view_offline(file.path)


def _file_of(args: argparse.Namespace, *, must_exist: bool) -> _File | None:
    """Return the file that is meant, as the user that may use it."""
    settings = _settings(args)
    _become_the_daemons_user(settings)
    files = _files(settings, _state_dir(settings, make=False))
    pool = _pool(files, args.pool, must_exist=must_exist)
    if pool is None:
        return None
    file = files[pool.name]
    _become_the_owner(file.path)
    if not must_exist:
        _state_dir(settings, make=True)
    return file


def _state_dir(settings: Settings, *, make: bool) -> str:
    from graced.host import directories

    known = (settings.name, settings.state_dir, os.environ)
    try:
        if make:
            return directories.state_path(*known)
        return directories.find_state(*known)
    except directories.DirectoryError as error:
        raise CommandError(str(error), error.exit_code) from None


class _File(Record):
    """Where a pool's queue is, or would be if the pool has one."""

    pool: Pool
    path: str
    is_there: bool

    @property
    def is_sure(self) -> bool:
        """Whether the pool's workers take jobs, as far as that can be known.

        Only a daemon runs the user's code. It makes the file of each pool that needs one,
        so before the first start it is known of some pools alone.
        """
        return self.is_there or bool(self.pool.queue) or self.pool.worker == COMMAND


def _files(settings: Settings, folder: str) -> dict[str, _File]:
    files = {}
    for name, pool in settings.pools.items():
        path = file_of(pool.queue, name, folder)
        files[name] = _File(pool, path, _is_there(path))
    return files


def _is_there(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # it cannot be seen: opening it will tell why
        return True
    return True


def _settings(args: argparse.Namespace) -> Settings:
    from graced.config import reader

    reading = reader.read(args.config, os.environ, args.set, to_run=False)
    if reading.settings is None:
        problems = "\n".join(map(str, reading.problems))
        raise CommandError(f"no daemon runs, and its configuration is wrong:\n{problems}", CONFIG)
    return reading.settings


def _pool(files: Mapping[str, _File], wanted: str | None, *, must_exist: bool) -> Pool | None:
    """Return the pool that is meant; None if it has to have a file, and there is none."""
    if wanted is not None and wanted not in files:
        raise CommandError(f"there is no pool {wanted!r}; there are {', '.join(files)}", USAGE)
    meant = _meant(files) if wanted is None else [files[wanted]]
    if must_exist:
        meant = [file for file in meant if file.is_there]
        if not meant:
            return None
    if len(meant) > 1:
        names = ", ".join(file.pool.name for file in meant)
        raise CommandError(f"no daemon runs; say which pool with --pool: {names}", USAGE)
    [file] = meant
    if not file.is_sure:
        name = file.pool.name
        complain(f"job queued; no daemon has served pool {name!r} yet")
    return file.pool


def _meant(files: Mapping[str, _File]) -> list[_File]:
    """Return the files that may be meant where the command line does not say which."""
    return [file for file in files.values() if file.is_sure] or list(files.values())


def _become_the_daemons_user(settings: Settings) -> None:
    """Drop root's rights as a daemon does: what root writes into a queue, that user could not."""
    from graced.host import credentials, directories

    if os.geteuid() != 0:
        return
    try:
        uid, gid, *_ = credentials.account(settings.user, settings.group)
        if uid != 0:
            dirs = settings.runtime_dir, settings.state_dir
            directories.give(settings.name, *dirs, os.environ, (uid, gid))
            credentials.change_user(settings.user, settings.group)
    except credentials.CredentialsError as error:
        raise CommandError(str(error), CONFIG) from None


def _become_the_owner(file: str) -> None:
    """As root still, become whose the file or its folder is: under systemd only that says it."""
    from graced.host import credentials

    for path in (os.path.dirname(file), file):
        try:
            credentials.become_owner_of(path)
        except credentials.CredentialsError as error:
            raise CommandError(str(error), CONFIG) from None
