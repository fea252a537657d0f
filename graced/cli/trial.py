"""`graced try`: one worker of a pool in the foreground, for one job or one round.

As the daemon's workers have it: the pool's code, options and environment, the daemon's user.
"""

from __future__ import annotations

import os

from graced.cli.errors import CommandError
from graced.config import reader
from graced.exitcodes import CONFIG, USAGE
from graced.host import credentials
from graced.host.interpreter import set_environment
from graced.log.console import complain, say
from graced.log.setup import open_log
from graced.log.worker_log import WorkerLog
from graced.queue import jsonvalue
from graced.queue.job import MAX_PAYLOAD
from graced.workers import foreground
from graced.workers.context import LoadError, WorkerContext
from graced.workers.importer import late_variables

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from graced.settings import Pool, Settings
    from graced.supervisor.sockets import Sockets


def try_worker(args: argparse.Namespace) -> int:
    """Run one worker of the pool; return the exit status."""
    reading = reader.read(args.config, os.environ, args.set)
    for problem in reading.problems:
        say(str(problem))
    if reading.settings is None:
        return CONFIG
    pool = _pool(reading.settings, args.pool)
    payload = _payload(args)
    credentials.change_user(reading.settings.user, reading.settings.group)
    _set_environment(pool, os.path.abspath(reading.path))
    try:
        status = _try(reading.settings, pool, payload)
    except LoadError as error:
        key = f"pools.{args.pool}.worker"
        say(f"{reading.sources.get(key, reading.path)}: {key}: {error.reason}")
        return CONFIG
    return foreground.leave(status)


def _pool(settings: Settings, name: str) -> Pool:
    if name not in settings.pools:
        known = ", ".join(settings.pools)
        raise CommandError(f"there is no pool {name!r}; there are {known}", USAGE)
    return settings.pools[name]


def _payload(args: argparse.Namespace) -> str | None:
    """Return the payload of the job as JSON text, None if there is none."""
    if args.words:
        if args.json is not None:
            raise CommandError("try: --json, or a command line after --, not both", USAGE)
        return jsonvalue.written({"argv": args.words})
    if args.json is None:
        return None
    try:
        jsonvalue.read(args.json)
    except ValueError as error:
        raise CommandError(f"--json: not a JSON value: {error}", USAGE) from None
    if jsonvalue.size(args.json) > MAX_PAYLOAD:
        raise CommandError("--json: larger than 1 MiB", USAGE)
    return str(args.json)


def _set_environment(pool: Pool, config: str) -> None:
    """Have the environment of a worker; variables that configure pools are not for it."""
    for name in [name for name in os.environ if name.upper().startswith("GRACED__")]:
        del os.environ[name]
    os.environ.update(GRACED_CONFIG=config, GRACED_POOL=pool.name)
    set_environment(pool.env)
    late = late_variables(pool)
    if late is not None:
        complain(late)


def _try(settings: Settings, pool: Pool, payload: str | None) -> int:
    log = WorkerLog.of(open_log(settings.log.replace(file=None), os.environ))
    log.add_fields(pool=pool.name, generation=1)
    log.attach()
    sockets = _sockets(settings, pool, log)
    context = WorkerContext(
        pool,
        generation=1,
        name=settings.name,
        main_pid=os.getppid(),
        bell=-1,
        log=log,
        listen=() if sockets is None else sockets.of(pool),
        max_lease=settings.max_lease,
    )
    try:
        return foreground.run(context, payload)
    except LoadError as error:
        if error.__cause__ is not None:  # else the reason says it all
            log.report(pool.name, "the code cannot be imported", error.__cause__)
        raise
    finally:
        if sockets is not None:
            sockets.close()


def _sockets(settings: Settings, pool: Pool, log: WorkerLog) -> Sockets | None:
    """Open what the pool listens on. ListenError, as where its daemon runs."""
    if not pool.listen:
        return None
    from graced.host.notify import Notifier
    from graced.supervisor.sockets import Sockets

    alone = settings.replace(pools={pool.name: pool})
    sockets = Sockets({}, Notifier({}), log)
    sockets.open(alone)
    sockets.keep_only(alone)
    return sockets
