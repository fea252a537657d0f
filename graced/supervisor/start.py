"""From a configuration that was read to a running daemon: folders, lock, log, first zygotes.

Started by root with `user:`, the process is root from :func:`prepare`'s begin to its end.
"""

from __future__ import annotations

import os

from graced import clock, program
from graced.core.daemon import Daemon
from graced.exitcodes import BUG, CONFIG
from graced.host import credentials, descriptors, process, safepaths, signals
from graced.host.directories import (
    AlreadyRunning,
    DirectoryError,
    PidFile,
    RuntimeDir,
    find_state,
    give,
    runtime_path,
    state_path,
)
from graced.host.notify import READY_FD, Notifier, farewell, tell_who_waits
from graced.log.console import complain
from graced.log.setup import open_log
from graced.supervisor.shared import (
    SharedResources,
    fork_ahead,
    has_addresses,
    lack_of_files,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from graced.config.reader import ConfigReading
    from graced.host.listeners import ListenError
    from graced.log.logger import Log
    from graced.settings import Settings
    from graced.supervisor.sockets import Sockets

    Owner = tuple[int, int]

MIN_FILES = 64  # descriptors that a worker may have: graced's own are among them
ADDRESS_TIMEOUT_S = 2.0  # seconds in which workers of a dead main process let go of an address
REMEDY = "set log.file to a file that can be written, or to null for standard error"


class Prepared:
    """What is open, before the daemon leaves its terminal, if it does."""

    def __init__(self, log: Log, notifier: Notifier) -> None:
        self.log = log
        self.notifier = notifier
        self.sockets: Sockets | None = None
        self.trouble: ListenError | None = None  # told unless the daemon runs already
        self.pidfile: PidFile | None = None
        self.has_changed = False  # was root, and is the configured user now
        self.fd_limit: tuple[int, int] | None = None  # what workers get: we took more
        self.config: str | None = None  # the file that the settings were read from

    def descriptors(self) -> set[int]:
        """Return what has to stay open."""
        sockets = () if self.sockets is None else self.sockets.descriptors()
        pidfile = () if self.pidfile is None else (self.pidfile.fd,)
        notifier = {self.notifier.fileno()} - {-1}
        return {*self.log.keep(), *sockets, *pidfile, *notifier}


def prepare(
    settings: Settings, environ: MutableMapping[str, str], pidfile: str | None = None
) -> Prepared | int:
    """Open what only root can open, and become the configured user for good.

    Where others can write, root opens nothing; that user does, afterwards. Return the exit
    status if there can be no daemon, which has been said then.
    """
    soft, hard = descriptors.raise_fd_limit()
    try:
        lack = lack_of_files(None, settings, hard)
        if lack is not None:
            raise DirectoryError(lack)
        owner = _owner(settings)
        if owner is None:
            credentials.change_user(settings.user, settings.group)  # group alone, if anything
            prepared = Prepared(_log(settings, environ), Notifier(environ))
            _take_sockets(prepared, settings, environ)  # they are for this PID
        else:
            prepared = _given(settings, environ, owner, pidfile)
        if pidfile is not None and prepared.pidfile is None:
            prepared.pidfile = PidFile(pidfile)
    except (AlreadyRunning, DirectoryError, credentials.CredentialsError) as error:
        return _refuse(error, environ)
    prepared.notifier.warn = prepared.log.warning
    prepared.fd_limit = max(soft, min(MIN_FILES, hard)), hard
    return prepared


def _given(
    settings: Settings, environ: MutableMapping[str, str], owner: Owner, pidfile: str | None
) -> Prepared:
    """Become the user, with folders of its own; those made for a start that fails are removed."""
    if settings.user is not None:
        credentials.check_code_for(settings.user, settings.group)
    made = give(settings.name, settings.runtime_dir, settings.state_dir, environ, owner)
    try:
        return _become(settings, environ, owner, pidfile)
    except Exception:  # whatever it is; raised on
        for path in made:
            try:
                os.rmdir(path)
            except OSError:  # it is not empty, or we are not root any more
                pass
        raise


def _become(
    settings: Settings, environ: MutableMapping[str, str], owner: Owner, pidfile: str | None
) -> Prepared:
    """Do what only root can do, and let go of being root."""
    fd = _log_of_root(settings.log.file, owner)
    at_first = settings.log if fd is not None else settings.log.replace(file=None)
    prepared = Prepared(open_log(at_first, environ, fd), Notifier(environ))
    if pidfile is not None and safepaths.is_roots(pidfile):
        prepared.pidfile = PidFile(pidfile)
    _open_sockets(prepared, settings, environ, owner)
    _load_code()
    credentials.change_user(settings.user, settings.group)
    credentials.check_code(settings.user)
    prepared.has_changed = True
    if settings.log.file is None:
        return prepared
    if fd is None:
        prepared.log.become(_log(settings, environ))
    elif not os.access(settings.log.file, os.W_OK):
        prepared.log.warning(
            f"log.file: {settings.log.file}: only root can open it: when it is rotated, the old"
            f" file goes on; chown it to {settings.user}, or rotate with copytruncate"
        )
    return prepared


def _log_of_root(file: str | None, owner: Owner) -> int | None:
    """Open the log's file if its folder is root's alone; a new one is given to `owner`."""
    if file is None:
        return None
    try:
        return safepaths.open_file(file, os.O_WRONLY | os.O_APPEND, 0o640, owner)
    except safepaths.UnsafeFolderError:
        return None
    except OSError as error:
        raise DirectoryError(f"{file}: {error.strerror}; {REMEDY}") from error


def _load_code() -> None:
    """Import what is needed to the first READY: the user may not be able to read where it is."""
    from importlib import import_module

    from graced.queue.engines import ENGINES

    for name in (
        *ENGINES.values(),
        "struct",
        "zlib",
        "graced.core.schedules",
        "graced.supervisor.loop",
        "graced.supervisor.requests",
    ):
        import_module(name)


def start(
    settings: Settings,
    read_again: Callable[[], ConfigReading],
    environ: MutableMapping[str, str],
    prepared: Prepared,
) -> int:
    """Run a daemon in this process until it is stopped; return the exit status."""
    terminal = environ.get(READY_FD)  # of --daemonize, which has the log on standard error
    log, notifier = prepared.log, prepared.notifier
    notifier.tell_when_ready(environ)
    try:
        _warn_of_umask(log)
        path = runtime_path(
            settings.name, settings.runtime_dir, environ, outlives_login=terminal is not None
        )
        runtime = RuntimeDir.take(path)
        state = _state_path(settings, environ, prepared)
        if settings.runtime_dir is None or settings.state_dir is None:
            log.info(f"control socket {runtime.socket}, state in {state}")
        _open_sockets(prepared, settings, environ)
    except (AlreadyRunning, DirectoryError) as error:
        return _refuse(error, environ, prepared, terminal)
    try:
        shared = SharedResources(settings, log, runtime.path, state)
        shared.fd_limit, shared.config = prepared.fd_limit, prepared.config
        now = clock.monotonic()
        daemon = Daemon(settings, jitter, now, clock.zone)
        first = daemon.start(now)
        process.become_subreaper()  # what user code forks in an import becomes our orphan
        ahead = fork_ahead(first, shared, prepared.sockets, settings.max_lease)
        from graced.supervisor.loop import Supervisor  # the zygotes are at their imports, too

        supervisor = Supervisor(
            daemon, shared, ahead, read_again, notifier, runtime, prepared.sockets
        )
        return supervisor.run(first)
    except DirectoryError as error:
        return _refuse(error, environ, prepared, terminal)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is ours: the workers go down by themselves
        log.failure("a bug in graced; please report it", error, {})
        return BUG
    finally:
        signals.leave()


def _state_path(settings: Settings, environ: MutableMapping[str, str], prepared: Prepared) -> str:
    """Return where queues are; of use or not to a configured user, which may need none."""
    known = settings.name, settings.state_dir, environ
    try:
        return state_path(*known)
    except DirectoryError as error:
        if not prepared.has_changed:
            raise
        prepared.log.warning(f"no queue can be kept: {error}")
        return find_state(*known)


def jitter() -> float:
    """Return a number from 0 to 1, unlike the one of other daemons."""
    return int.from_bytes(os.urandom(4), "little") / 0xFFFFFFFF


def _refuse(
    error: Exception,
    environ: MutableMapping[str, str],
    prepared: Prepared | None = None,
    terminal: str | None = None,
) -> int:
    """Say why there will be no daemon, to people and to systemd; return the exit status."""
    status = getattr(error, "exit_code", CONFIG)
    if terminal is None or prepared is None:
        complain(error)
    elif isinstance(error, AlreadyRunning):  # the log is that one's
        tell_who_waits(terminal, f"{program.name}: {error}")
    else:
        prepared.log.error(str(error))
    if prepared is None:
        farewell(environ, status, str(error), _errno(error))
    else:
        prepared.notifier.farewell(status, str(error), _errno(error))
    return status


def _errno(error: Exception) -> int | None:
    """Return the number of the system's own reason, if it is one."""
    cause = error.__cause__
    return cause.errno if isinstance(cause, OSError) else None


def _take_sockets(
    prepared: Prepared, settings: Settings, environ: MutableMapping[str, str]
) -> None:
    """Take what systemd hands over, if something is listened on."""
    if prepared.sockets is None and ("LISTEN_FDS" in environ or has_addresses(settings)):
        from graced.host.listeners import given
        from graced.supervisor.sockets import Sockets

        prepared.sockets = Sockets(given(environ), prepared.notifier, prepared.log)


def _open_sockets(
    prepared: Prepared,
    settings: Settings,
    environ: MutableMapping[str, str],
    owner: Owner | None = None,
) -> None:
    """Open what the pools listen on, if they do. ListenError.

    With `owner` what root alone may be able to open, and a failure is kept for later: a daemon
    that runs already is a better reason.
    """
    _take_sockets(prepared, settings, environ)
    if prepared.sockets is None:
        return
    from graced.host.listeners import ListenError

    if prepared.trouble is not None:
        raise prepared.trouble
    if owner is None:
        prepared.sockets.open(settings, ADDRESS_TIMEOUT_S)
        prepared.sockets.keep_only(settings)
        return
    try:
        prepared.sockets.open_as_root(settings, owner, ADDRESS_TIMEOUT_S)
    except ListenError as error:
        prepared.trouble = error


def _log(settings: Settings, environ: MutableMapping[str, str]) -> Log:
    file = settings.log.file
    try:
        if file is not None and os.geteuid() == 0:
            safepaths.demand_folder(file)
        return open_log(settings.log, environ)
    except OSError as error:
        raise DirectoryError(f"{file}: {error.strerror}; {REMEDY}") from error
    except safepaths.UnsafeFolderError as error:
        raise DirectoryError(
            f"{file}: not opened by root: {error}; set user, or {REMEDY}"
        ) from None


def _warn_of_umask(log: Log) -> None:
    """What we make has modes of its own; of what workers make, the umask decides, and it stays."""
    mask = os.umask(0o077)
    os.umask(mask)
    if not mask & 0o002:
        log.warning(
            f"the umask is {mask:03o}: every user may change files that workers make;"
            " set UMask= of the unit, or umask 022 before the start"
        )


def _owner(settings: Settings) -> Owner | None:
    """Return which user the daemon will be, if root starts it and it is another then."""
    uid, gid, _, _ = credentials.account(settings.user, settings.group)
    return (uid, gid) if os.geteuid() == 0 != uid else None
