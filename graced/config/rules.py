"""Rules between values of the configuration: what none of them alone does wrong."""

from __future__ import annotations

from graced import program
from graced.config.scalars import suggestion
from graced.config.schema import MAX_WORKERS
from graced.fencing import SHORTEST_S
from graced.queue.engines import identity
from graced.settings import PROGRAM
from graced.text import Secret, quoted
from graced.units import show_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from graced.settings import Backoff, Pool, Retry, Settings

    # Takes the keys that are part of it, the one to blame first; what is wrong; what to do.
    Blame = Callable[[tuple[str, ...], str, str], None]


MAX_SCHEDULES = 1000  # the main process tells all of them at once


def check(settings: Settings, blame: Blame) -> None:
    """Look at all rules but :func:`check_account`."""
    _pools(settings, blame)
    _workers(settings, blame)
    _queues(settings, blame)
    _addresses(settings, blame)
    _web(settings, blame)
    _schedules(settings, blame)
    _options(settings, blame)
    for pool in settings.pools.values():
        _after(pool, tuple(settings.pools), blame)
        _growth(f"pools.{pool.name}.backoff", pool.backoff, blame)
        _growth(f"pools.{pool.name}.retry", pool.retry, blame)
    _circle(settings, blame)


def check_account(settings: Settings, blame: Blame) -> None:
    """Blame a user or a group that this process could not become: one that starts a daemon has to.

    A command that asks a daemon, or writes into its queue, need not.
    """
    import os

    euid = os.geteuid()
    if settings.user is not None:
        import pwd

        wanted = pwd.getpwnam(settings.user).pw_uid
        _may_become("user", settings.user, wanted, euid, euid, blame)
    if settings.group is not None:
        import grp

        wanted = grp.getgrnam(settings.group).gr_gid
        _may_become("group", settings.group, wanted, os.getegid(), euid, blame)


def check_code(settings: Settings, blame: Blame) -> None:
    """Blame folders of code that root would run and others can write to, and such files."""
    import os

    if os.geteuid() != 0 or settings.user not in (None, "root"):
        return
    from graced.host import safepaths

    for name, pool in settings.pools.items():
        for index, folder in enumerate(pool.path):
            try:
                for place in (folder, *_imported(folder, pool.worker)):
                    safepaths.demand(place)
            except safepaths.UnsafeFolderError as error:
                key = f"pools.{name}.path"
                what = f"root would run code that others can change: {error}"
                advice = f"set user, run {program.name} as that user (sudo -u), or chown it to root"
                blame((f"{key}.{index}", key), what, advice)


def _imported(folder: str, worker: str) -> Iterator[str]:
    """Yield all that a worker's class may be imported from in a folder, there or not."""
    for name in worker.partition(":")[0].split("."):
        yield f"{folder}/__pycache__"
        yield f"{folder}/{name}.py"
        folder = f"{folder}/{name}"
        yield folder
        yield f"{folder}/__init__.py"
    yield f"{folder}/__pycache__"


def _may_become(what: str, name: str, wanted: int, own: int, euid: int, blame: Blame) -> None:
    """Blame *name* unless a process of *euid*, with the id *own*, may change it to *wanted*."""
    if euid != 0 and wanted != own:
        blame(
            (what,),
            f"only root can become the {what} {quoted(name)}, and it was not root that started "
            f"{program.name}",
            f"leave {what} out, or start {program.name} as root",
        )


def _pools(settings: Settings, blame: Blame) -> None:
    if not settings.pools:
        blame(("pools",), "there are no pools", "write at least one, such as pools: {jobs: {}}")


def _workers(settings: Settings, blame: Blame) -> None:
    keys = tuple(f"pools.{name}.workers" for name in settings.pools)
    workers = sum(pool.workers for pool in settings.pools.values())
    if workers > MAX_WORKERS:
        what = f"all pools together have {workers} workers, more than {MAX_WORKERS}"
        blame(keys, what, "write fewer, or run a second daemon")
    if settings.pools and settings.watchdog_quorum > workers:
        what = f"is more than all workers of all pools, which are {workers}"
        blame(("watchdog_quorum", *keys), what, "lower it, or write more workers")


def _queues(settings: Settings, blame: Blame) -> None:
    owners: dict[str, str] = {}
    for name, pool in settings.pools.items():
        first = owners.setdefault(identity(pool.queue, name), name) if pool.queue else name
        if first != name:
            what = f"pool {first} has the same queue"
            blame((f"pools.{name}.queue",), what, "write another one for each pool")
        if pool.lease < SHORTEST_S:
            least = show_duration(SHORTEST_S)
            blame((f"pools.{name}.lease",), "is too short", f"write at least {least}")


def _addresses(settings: Settings, blame: Blame) -> None:
    """Blame an address that is listened on twice: its connections would go to either."""
    owners: dict[str, str] = {}
    listening = [
        (f"pool {name}", f"pools.{name}.listen", pool.listen)
        for name, pool in settings.pools.items()
    ]
    for owner, key, addresses in [*listening, ("web", "web.listen", settings.web.listen)]:
        for index, text in enumerate(addresses):
            from graced.host.address import parse

            place = parse(text).place
            if place in owners:
                what = f"{owners[place]} listens on {place} already"
                blame((f"{key}.{index}", key), what, "remove one")
            owners[place] = owner


def _web(settings: Settings, blame: Blame) -> None:
    """Blame what a page needs and is not there."""
    if not settings.web.listen:
        return
    from importlib.util import find_spec

    if find_spec("waitress") is None:
        remedy = "pip install 'graced[web]', or apt install python3-waitress"
        blame(("web.listen",), "needs waitress, which is not installed", remedy)


def _schedules(settings: Settings, blame: Blame) -> None:
    if len(settings.schedules) > MAX_SCHEDULES:
        what = f"are {len(settings.schedules)}, more than {MAX_SCHEDULES}"
        blame(("schedules",), what, "write fewer, or run a second daemon")
    for name, schedule in settings.schedules.items():
        key = f"schedules.{name}"
        cron, every = f"{key}.cron", f"{key}.every"
        if schedule.cron is None and schedule.every is None:
            blame((key, cron, every), "has neither cron nor every", "write cron: '30 2 * * *'")
        elif schedule.cron is not None and schedule.every is not None:
            blame((every, cron), "cron is there too", "remove one of them")
        elif schedule.every is not None and schedule.every % 1:
            blame((every,), "is no number of whole seconds", "write 1s, 90s or 10m")
        if not schedule.pool:
            names = tuple(settings.pools)[:1] or ("jobs",)
            blame((key, f"{key}.pool"), "has no pool", f"write pool: {names[0]}")
        elif schedule.pool not in settings.pools:
            what = f"there is no pool {quoted(schedule.pool)}"
            blame((f"{key}.pool",), what, suggestion(schedule.pool, tuple(settings.pools)))


def _options(settings: Settings, blame: Blame) -> None:
    """Blame options of programs: they have no code that could know better."""
    for name, pool in settings.pools.items():
        if pool.worker != PROGRAM:
            continue
        from graced import options

        try:
            _ready(pool, options.program(pool.options, name, pool.workers - 1).ready)
        except options.OptionError as error:
            key = f"pools.{name}.options"
            keys = (f"{key}.{error.key}", f"pools.{name}.worker")
            is_secret = isinstance(pool.options.get(error.key), Secret)
            what = "what stands in its file cannot be used" if is_secret else error.what
            blame(keys, what, error.remedy)


def _ready(pool: Pool, ready: float | str) -> None:
    """Refuse an address that is none, or that says nothing of the program: OptionError."""
    from graced.host.address import AddressError, parse
    from graced.options import NOTIFY, OptionError

    if isinstance(ready, float) or ready == NOTIFY:
        return
    try:
        place = parse(f"unix:{ready}" if ready.startswith("/") else ready).place
    except AddressError as error:
        raise OptionError("ready", error.what, error.remedy) from None
    if place in (parse(text).place for text in pool.listen):
        what = f"{ready} accepts before the program does: the pool listens there"
        raise OptionError("ready", what, "write notify, or a time such as 2s")


def _growth(key: str, growing: Backoff | Retry, blame: Blame) -> None:
    if growing.limit < growing.first:
        keys = (f"{key}.limit", f"{key}.first")
        blame(keys, "limit is less than first", "write a longer limit or a shorter first")


def _after(pool: Pool, known: tuple[str, ...], blame: Blame) -> None:
    seen = set()
    for index, name in enumerate(pool.after):
        key = (f"pools.{pool.name}.after.{index}",)
        if name == pool.name:
            blame(key, "a pool cannot come after itself", f"take {name} out")
        elif name in seen:
            blame(key, f"names {name} twice", "remove one of them")
        elif name not in known:
            blame(key, f"there is no pool {quoted(name)}", suggestion(name, known))
        seen.add(name)


def _circle(settings: Settings, blame: Blame) -> None:
    """Blame pools that wait for each other."""
    waiting = {
        name: {other for other in pool.after if other in settings.pools and other != name}
        for name, pool in settings.pools.items()
    }
    while ready := [name for name, others in waiting.items() if not others & waiting.keys()]:
        for name in ready:
            del waiting[name]
    if not waiting:
        return
    path = [next(iter(waiting))]
    while path[-1] not in path[:-1]:  # all that is left waits for something that is left
        path.append(min(waiting[path[-1]] & waiting.keys()))
    circle = path[path.index(path[-1]) :]
    what = f"these pools wait for each other: {' after '.join(circle)}"
    blame((f"pools.{circle[0]}.after",), what, "take one of them out")
