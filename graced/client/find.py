"""Where a pool's queue is: at its keeper, or, while no daemon runs, where the engine keeps it.

The commands and :class:`graced.Queue` look here. What can be asked of a queue is in
:mod:`graced.queue.protocol`.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

from graced import program
from graced.client.daemon import is_running, named_socket
from graced.exitcodes import CONFIG, FAILED, NO_DAEMON, USAGE
from graced.queue.address import QueueURLError, pools_with_socket, socket_path
from graced.queue.client_end import ClientEnd, sleep_until_ready
from graced.queue.engines import engine_of, file_of, is_served
from graced.queue.protocol import NotPermitted, QueueError, QueueGone, QueueLockedError
from graced.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Protocol, TypeVar

    from graced.client.daemon import Where
    from graced.queue.client_end import Sleep
    from graced.queue.protocol import ClientQueue, QueueView
    from graced.settings import Pool, Settings

    T = TypeVar("T")
else:
    Protocol = object

COMMAND = "graced.workers:Command"
UNKNOWN = "?"  # the state_dir of a URL that stands in no configuration
KEEPER_TIMEOUT_S = 5.0  # for a keeper that is just being started, or started again
STATUS_TIMEOUT_S = 5.0
POLL_INTERVAL_S = 0.05  # between two looks for it


class QueueNotFound(QueueError):
    """It is not known which queue is meant, or it is not to be had."""


class Place(Protocol):
    """Where one queue is looked for, each time it is asked for. All raise QueueError."""

    def open(self) -> ClientQueue:
        """Return the queue, made if there is none."""

    def find(self) -> ClientQueue | None:
        """Return the queue; None if there is none, and no keeper either."""

    def view(self) -> QueueView | None:
        """Return the same, to look at only: a daemon may start, however long that is looked at."""


class Manner(Record):
    """How a queue is talked to."""

    tell: Callable[[str], None] = lambda _text: None  # hears what does not fail, but is amiss
    patience: float | None = None  # seconds for an answer
    sleep: Sleep = sleep_until_ready
    naming: str = "pool="  # how a pool is named
    become_owner: bool = False  # this process is ours: as root, be the daemon's user from now on

    def connect(self, socket: str) -> ClientEnd:
        """Return a keeper's end. QueueGone if there is none."""
        return ClientEnd(socket, self.tell, patience=self.patience, sleep=self.sleep)


# By the configuration


class ConfiguredPlace:
    """A daemon's queue, by its configuration: its keeper's if it runs, else the engine's own."""

    def __init__(self, where: Where, control: Callable[[], str], manner: Manner) -> None:
        """``control`` says where the daemon's control socket is, see control_of()."""
        self._where = where
        self._control = control
        self._manner = manner

    def open(self) -> ClientQueue:
        """Return the queue, made if there is none."""
        found = self._found(lambda: self._open_file(must_exist=False))
        assert found is not None
        return found

    def find(self) -> ClientQueue | None:
        """Return the queue; None if there is none, and no keeper either."""
        return self._found(lambda: self._open_file(must_exist=True))

    def view(self) -> QueueView | None:
        """Return the same, to look at only."""
        return self._found(self._view_file)

    def keeper(self) -> ClientEnd:
        """Return the end of a keeper that answers now. Raises QueueError."""
        found = self._answering(self._control())
        if found is None:
            raise QueueGone("no daemon keeps this queue")
        return found

    def _found(self, open_file: Callable[[], T]) -> ClientEnd | T:
        end = time.monotonic() + KEEPER_TIMEOUT_S
        named = named_socket(self._where) is not None
        control = self._control()
        while True:
            if named and not is_running(control):  # no other daemon's queue will do
                raise _no_daemon(control)
            found = self._answering(control)
            if found is not None:
                return found
            trouble: QueueError
            if not is_running(control):
                try:
                    return open_file()
                except QueueLockedError as locked:  # a keeper that is about to listen, or to leave
                    trouble = locked
            else:
                trouble = QueueNotFound(_no_queue(self._where.pool), FAILED)
            if time.monotonic() > end:
                raise trouble
            time.sleep(POLL_INTERVAL_S)

    def _answering(self, control: str) -> ClientEnd | None:
        """Return the keeper that listens beside it; QueueNotFound if there are several."""
        folder, pool = os.path.dirname(control), self._where.pool
        found = {}
        refusal = None
        for name in [pool] if pool is not None else pools_with_socket(folder):
            try:
                found[name] = self._manner.connect(socket_path(folder, name))
            except QueueGone:  # a name that a keeper has left behind
                continue
            except NotPermitted as error:  # members of one pool's submit_group need not name it
                refusal = error
        if not found:
            if refusal is not None:
                raise refusal
            return None
        meant = self._only(list(found), control)
        for name, end in found.items():
            if name != meant:
                end.close()
        if meant is None:
            pools = ", ".join(found)
            remedy = f"say which with {self._manner.naming}"
            raise QueueNotFound(f"several pools have a queue: {pools}; {remedy}", USAGE)
        return found[meant]

    def _only(self, pools: Sequence[str], control: str) -> str | None:
        """Return the one of a daemon's pools that is meant, None if that is not known."""
        if len(pools) > 1 and self._where.commands:
            runs = _worker_classes(control)
            pools = [name for name in pools if runs.get(name) == COMMAND]
        return pools[0] if len(pools) == 1 else None

    def log(self) -> tuple[str, str | None]:
        """Return the name of the pool that is meant, and the file that its daemon logs to."""
        settings, wanted = self._settings(), self._where.pool
        control = self._control()
        pools = pools_with_socket(os.path.dirname(control)) if is_running(control) else []
        if wanted is None and len(pools) != 1:
            files = _files(settings, _state_dir(settings, make=False))
            pools = [file.pool.name for file in _possible(files)]
        if wanted is None and len(pools) > 1:
            which = f"say which pool with {self._manner.naming}: {', '.join(pools)}"
            raise QueueNotFound(which, USAGE)
        return wanted or pools[0], settings.log.file

    # -- no daemon runs

    def _open_file(self, *, must_exist: bool) -> ClientQueue | None:
        file = self._file(must_exist=must_exist)
        if file is None:
            return None
        return engine_of(file.pool.queue).open_offline(file.path, file.pool)

    def _view_file(self) -> QueueView | None:
        file = self._file(must_exist=True)
        if file is None:
            return None
        return engine_of(file.pool.queue).view_offline(file.path, file.pool)

    def _file(self, *, must_exist: bool) -> _File | None:
        """Return the file that is meant, as the user that may use it."""
        settings = self._settings()
        if self._manner.become_owner:
            _become_the_daemons_user(settings)
        files = _files(settings, _state_dir(settings, make=False))
        file = self._meant(files, must_exist=must_exist)
        if file is None:
            return None
        if is_served(file.pool.queue):  # nothing of it is on this host
            return file
        if self._manner.become_owner:
            _become_the_owner(file.path)
        else:
            check_owner(file.path)
        if not must_exist:
            _state_dir(settings, make=True)
        return file

    def _settings(self) -> Settings:
        from graced.config import reader

        where = self._where
        reading = reader.read(where.config, os.environ, where.sets, to_run=False)
        if reading.settings is None:
            problems = "\n".join(map(str, reading.problems))
            raise QueueNotFound(f"the configuration is needed, and is wrong:\n{problems}", CONFIG)
        return reading.settings

    def _meant(self, files: Mapping[str, _File], *, must_exist: bool) -> _File | None:
        """Return the pool's that is meant; None if it has to be there, and is not."""
        wanted = self._where.pool
        if wanted is not None and wanted not in files:
            raise QueueNotFound(f"there is no pool {wanted!r}; there are {', '.join(files)}", USAGE)
        meant = _possible(files) if wanted is None else [files[wanted]]
        if len(meant) > 1 and self._where.commands:
            meant = [file for file in meant if file.pool.worker == COMMAND] or meant
        if must_exist:
            meant = [file for file in meant if file.is_there]
            if not meant:
                return None
        if len(meant) > 1:
            names = ", ".join(file.pool.name for file in meant)
            which = f"say which pool with {self._manner.naming}: {names}"
            raise QueueNotFound(f"no daemon runs; {which}", USAGE)
        [file] = meant
        if not file.is_sure:
            name = file.pool.name
            self._manner.tell(f"job queued; no daemon has served pool {name!r} yet")
        return file


def _worker_classes(control: str) -> dict[str, str]:
    """Return of which class the workers of a running daemon's pools are, if it tells us."""
    from graced.control.client import ControlError, NoDaemonError, call

    try:
        pools = call(control, "status", timeout=STATUS_TIMEOUT_S)["status"]["pools"]
        return {name: pool["worker"] for name, pool in pools.items()}
    except (ControlError, NoDaemonError, KeyError):  # who may submit may not ask all
        return {}


def _no_daemon(control: str) -> QueueNotFound:
    """Say why nothing that can be trusted answers there."""
    from graced.control.client import Connection, ControlError, NoDaemonError

    try:
        Connection(control).close()
    except ControlError as error:  # another user's, say
        return QueueNotFound(str(error), error.exit_code)
    except NoDaemonError:
        pass
    return QueueNotFound(str(NoDaemonError(control)), NO_DAEMON)


def _no_queue(pool: str | None) -> str:
    missing = "no pool" if pool is None else f"no pool {pool!r}"
    return f"the running daemon has {missing} whose workers take jobs"


def _state_dir(settings: Settings, *, make: bool) -> str:
    from graced.host import directories

    known = (settings.name, settings.state_dir, os.environ)
    try:
        if make:
            return directories.state_path(*known)
        return directories.find_state(*known)
    except directories.DirectoryError as error:
        raise QueueNotFound(str(error), error.exit_code) from None


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
        files[name] = _File(pool, path, is_served(pool.queue) or _is_there(path))
    return files


def _is_there(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # it cannot be seen: opening it will tell why
        return True
    return True


def _possible(files: Mapping[str, _File]) -> list[_File]:
    """Return the files that may be meant where none is named."""
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
            credentials.check_code(settings.user)
    except credentials.CredentialsError as error:
        raise QueueNotFound(str(error), CONFIG) from None


def _become_the_owner(file: str) -> None:
    """As root still, become whose the file or its folder is: under systemd only that says it."""
    from graced.host import credentials

    for path in (os.path.dirname(file), file):
        try:
            credentials.become_owner_of(path)
        except credentials.CredentialsError as error:
            raise QueueNotFound(str(error), CONFIG) from None


def check_owner(file: str) -> None:
    """Refuse to write as root what another user's daemon could not read then."""
    if os.geteuid() != 0:
        return
    for path in (file, os.path.dirname(file)):
        try:
            owner = os.stat(path).st_uid
        except OSError:
            continue
        if owner != 0:
            import pwd

            with suppress(KeyError):
                owner = pwd.getpwuid(owner).pw_name  # type: ignore[assignment]
            remedy = f"start the daemon, be that user, or use the command {program.name} submit"
            raise QueueNotFound(
                f"no daemon runs, and {path} is user {owner}'s, not root's; {remedy}", FAILED
            )


# By a socket alone, or by a URL


class DaemonPlace:
    """A pool's queue at a running daemon, for its own workers."""

    def __init__(self, folder: str, pool: str, manner: Manner) -> None:
        """``folder`` is where the daemon's keepers listen."""
        self._socket = socket_path(folder, pool)
        self._pool = pool
        self._manner = manner

    def open(self) -> ClientEnd:
        """Return the keeper's end; one that is started again is waited for."""
        end = time.monotonic() + KEEPER_TIMEOUT_S
        while True:
            try:
                return self._manner.connect(self._socket)
            except QueueGone:
                if time.monotonic() > end:
                    raise QueueNotFound(_no_queue(self._pool), FAILED) from None
            time.sleep(POLL_INTERVAL_S)

    find = open
    view = open


class URLPlace:
    """A queue by its URL, without a configuration: a pool's name and the defaults are enough."""

    def __init__(self, url: str, pool: str | None, manner: Manner) -> None:
        """QueueNotFound if it leads to no queue."""
        from graced import settings

        self._manner = manner
        self._pool = settings.Pool(pool or "jobs", queue=url)
        try:
            self._engine = engine_of(url)
            self._engine.check_url(url)
        except QueueURLError as error:
            raise QueueNotFound(str(error), CONFIG) from None
        self._file = self._engine.file_of(url, self._pool.name, UNKNOWN)
        self._is_served = is_served(url)
        if self._file.startswith(UNKNOWN) and not self._is_served:
            raise QueueNotFound(f"{url}: in which folder? {self._engine.ADVICE}", CONFIG)

    def open(self) -> ClientQueue:
        """Return the queue, made if there is none."""
        end = time.monotonic() + KEEPER_TIMEOUT_S
        while True:
            try:
                return self._keeper() or self._offline()
            except QueueLockedError:  # a keeper that is about to listen, or to leave
                if time.monotonic() > end:
                    raise
            time.sleep(POLL_INTERVAL_S)

    def find(self) -> ClientQueue | None:
        """Return the queue; None if there is none, and no keeper either."""
        return self.open() if self._is_there() else None

    def view(self) -> QueueView | None:
        """Return the same, to look at only."""
        if not self._is_there():
            return None
        return self._keeper() or self._engine.view_offline(self._file, self._pool)

    def _is_there(self) -> bool:
        return self._is_served or _is_there(self._file)

    def _offline(self) -> ClientQueue:
        if not self._is_served:
            check_owner(self._file)
        return self._engine.open_offline(self._file, self._pool)

    def _keeper(self) -> ClientEnd | None:
        socket = self._engine.keeper_of(self._file)
        if socket is None:
            return None
        try:
            return self._manner.connect(socket)
        except QueueGone:
            return None
