"""From a configuration that was read to a running daemon: folders, lock, log, first zygotes."""

from __future__ import annotations

import os

from graced.core.daemon import Daemon
from graced.ground import Ground, fork_ahead
from graced.host import clock, process
from graced.host.log import open_log, say
from graced.host.notify import READY_FD, Notifier, farewell, tell_who_waits
from graced.host.runtimedir import AlreadyRunning, RuntimeDir, Unusable, runtime_path, state_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from graced.core.settings import Settings
    from graced.host.configfile import Reading
    from graced.host.log import Log
    from graced.sockets import Sockets

    Owner = tuple[int, int]

BUG = 70
CONFIG = 78
LETTING_GO = 2.0  # seconds in which workers of a dead main process let go of an address
REMEDY = "set log.file to a file that can be written, or to null for standard error"


def start(
    settings: Settings, read_again: Callable[[], Reading], environ: MutableMapping[str, str]
) -> int:
    """Run a daemon in this process until it is stopped; return the exit status."""
    terminal = environ.get(READY_FD)  # of --daemonize, which has the log on standard error
    log = None
    try:
        owner = owner_of(settings)
        log = _log(settings, environ, owner)
        _warn_of_umask(log)
        path = runtime_path(
            settings.name, settings.runtime_dir, environ, outlives_login=terminal is not None
        )
        runtime = RuntimeDir.take(path, owner)
        state = state_path(settings.name, settings.state_dir, environ, owner)
        if settings.runtime_dir is None or settings.state_dir is None:
            log.info(f"control socket {runtime.socket}, state in {state}")
        notifier = Notifier(environ, log.warning)
        sockets = _sockets(settings, environ, owner, notifier, log)
    except (AlreadyRunning, _NoSockets) as error:
        return _refuse(error, error.exit_code, environ, terminal, log)
    except (Unusable, process.ProcessError) as error:
        return _refuse(error, CONFIG, environ, terminal, log)
    try:
        ground = Ground(settings, log, runtime.path, state)
        now = clock.monotonic()
        daemon = Daemon(settings, jitter, now)
        first = daemon.start(now)
        process.become_subreaper()  # whom user code forks in an import is an orphan of ours
        ahead = fork_ahead(first, ground, sockets, settings.max_lease)
        from graced.supervisor import Supervisor  # the zygotes are at their imports, too

        supervisor = Supervisor(
            daemon, ground, ahead, read_again, notifier, runtime, owner, sockets
        )
        return supervisor.run(first)
    except Unusable as error:
        notifier.farewell(CONFIG, str(error), _errno(error))
        return _refuse(error, CONFIG, environ, terminal, log)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is ours: the workers go down by themselves
        log.failure("a bug in graced; please report it", error, {})
        return BUG


def jitter() -> float:
    """Return a number from 0 to 1, unlike the one of other daemons."""
    return int.from_bytes(os.urandom(4), "little") / 0xFFFFFFFF


def _refuse(
    error: Exception,
    status: int,
    environ: MutableMapping[str, str],
    terminal: str | None,
    log: Log | None,
) -> int:
    """Say why there will be no daemon, to people and to systemd."""
    if terminal is None or log is None:
        say(f"graced: {error}")
    elif isinstance(error, AlreadyRunning):  # the log is that one's
        tell_who_waits(terminal, f"graced: {error}")
    else:
        log.error(str(error))
    farewell(environ, status, str(error), _errno(error))
    return status


def _errno(error: Exception) -> int | None:
    """Return the number of the system's own reason, if it is one."""
    cause = error.__cause__
    return cause.errno if isinstance(cause, OSError) else None


class _NoSockets(Exception):
    """What a pool is to listen on can't be had."""

    exit_code = 1


def _sockets(
    settings: Settings,
    environ: MutableMapping[str, str],
    owner: Owner | None,
    notifier: Notifier,
    log: Log,
) -> Sockets | None:
    """Open what the pools listen on, if they do; take what systemd hands over."""
    if "LISTEN_FDS" not in environ and not any(p.listen for p in settings.pools.values()):
        return None
    from graced.host.listening import CannotListen, given
    from graced.sockets import Sockets

    sockets = Sockets(given(environ), owner, notifier, log)
    try:
        sockets.open(settings, LETTING_GO)
    except CannotListen as error:
        notifier.farewell(error.exit_code, str(error), _errno(error))
        refusal = _NoSockets(str(error))
        refusal.exit_code = error.exit_code
        raise refusal from None
    sockets.keep_only(settings)
    return sockets


def _log(settings: Settings, environ: MutableMapping[str, str], owner: Owner | None) -> Log:
    try:
        return open_log(settings.log, environ, owner)
    except OSError as error:
        raise Unusable(f"{settings.log.file}: {error.strerror}; {REMEDY}") from error


def _warn_of_umask(log: Log) -> None:
    """What we make has modes of its own; of what workers make, the umask decides, and it stays."""
    mask = os.umask(0o077)
    os.umask(mask)
    if not mask & 0o002:
        log.warning(
            f"the umask is {mask:03o}: everybody may change files that workers make;"
            " set UMask= of the unit, or umask 022 before the start"
        )


def owner_of(settings: Settings) -> Owner | None:
    """Return whom the workers will be, where that is somebody else."""
    if settings.user is None and settings.group is None:
        return None
    uid, gid, _, _ = process.account(settings.user, settings.group)
    return uid, gid
