"""A zygote: import a pool's code once, fork its workers, guard them if main dies.

Workers are forked by a middle process that leaves at once, so that the main
process, a child subreaper, adopts them. The order of things in that is in :mod:`.spawn`.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import sys

from graced import program, settings
from graced.exitcodes import CUT_OFF
from graced.host import credentials, descriptors, process, signals
from graced.host.channel import Channel, ChannelClosed
from graced.host.directories import SOCKET
from graced.host.interpreter import Before, keep_modules, set_environment
from graced.host.memoryfile import with_secrets
from graced.host.proctitle import title_setter
from graced.log.console import complain
from graced.log.logger import Log
from graced.log.setup import open_log
from graced.log.worker_log import WorkerLog
from graced.text import in_one_line
from graced.workers.base import rehearse
from graced.workers.context import LoadError, SpawnOrder, WorkerContext
from graced.workers.importer import ForkedInImport, late_variables, load_class, preload
from graced.workers.runtime import ANSWERED, PARENT_DIED, Runtime
from graced.zygote.orphans import Orphan, lead_down
from graced.zygote.spawn import SpawnBatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

    from graced.host.scoreboard import WorkerRecord
    from graced.host.stackdump import Window
    from graced.workers.base import Worker
    from graced.zygote.plan import ZygotePlan

FD_CHECK_ABOVE = 32  # workers that need no look at the limit of open descriptors
IDLE_AFTER_S = 0.001  # seconds without an order, after which there is time for what can wait
_SYSTEMD = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID")
_SYSTEMD_FDS = ("LISTEN_FDS", "LISTEN_FDNAMES")
_SETTINGS = ("GRACED__POOLS__", "GRACED__SCHEDULES__")  # of all, passwords too


def run(plan: ZygotePlan, channel: Channel, open_before: list[int]) -> None:
    """Be a zygote, from the fork on. `open_before` are the descriptors of the main process."""
    gc.freeze()  # what belongs to the main process is not ours to collect
    gc.enable()  # off during the main process's start
    process.leave_terminal()
    credentials.be_seen()
    process.set_name("zygote")
    plan = plan.replace(pool=with_secrets(plan.pool))
    log = _worker_log(plan)
    keep = _keep_only(plan, channel, log, open_before)
    if plan.fd_limit is not None:
        descriptors.limit_fds(plan.fd_limit)
    _guard_signals(plan.window)
    log.attach()
    before = Before(keep, (*signals.PASSED_BY, *ANSWERED))
    try:
        load = _imported(plan, channel, log, before)
        process.set_parent_death_signal(0)
        if load is None:
            log.settle()
            return
        _prepare_to_fork()
        zygote = Zygote(plan, channel, log, load)
        channel.send_all(("imported",))
    except ChannelClosed:  # the main process is gone, and no worker is forked yet
        return
    except Exception as error:  # noqa: BLE001  # user code may have patched what it comes from
        log.failure("the zygote cannot go on after the import", error, {})
        reason = f"the zygote cannot go on after the import: {in_one_line(error)}"
        channel.send_all(("failed", reason))
        return
    zygote.live()


def _worker_log(plan: ZygotePlan) -> WorkerLog:
    own = plan.log if isinstance(plan.log, Log) else open_log(plan.log, os.environ)
    log = WorkerLog.of(own)
    log.add_fields(pool=plan.pool.name, generation=plan.generation)
    return log


def _keep_only(
    plan: ZygotePlan, channel: Channel, log: WorkerLog, open_before: list[int]
) -> set[int]:
    keep = {channel.fileno(), plan.bell, *plan.keep, *log.keep()}
    if plan.stacks is not None:
        keep.add(plan.stacks.fileno())
    if plan.window is not None:
        keep.add(plan.window.fd)
    descriptors.close_all_but(keep, open_before)
    descriptors.redirect_stdin()
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(line_buffering=True)
    return keep


def _guard_signals(window: Window | None) -> None:
    """Ignore signals that are sent to all processes. A zygote is only ever killed."""
    signals.pass_by(signals.nothing, PARENT_DIED, signal.SIGQUIT)
    if window is not None:
        window.print_here()
    process.enlarge_signal_stack()  # PYTHONFAULTHANDLER has a small one, too
    process.restore(())


def _imported(
    plan: ZygotePlan, channel: Channel, log: WorkerLog, before: Before
) -> Callable[[Any], type[Worker]] | None:
    """Return what gives the class; None if it can't be had, which is said."""
    try:
        process.set_parent_death_signal(signal.SIGKILL)  # an import may never look at the channel
        if os.getppid() != plan.main_pid:
            return None
        _set_environment(plan, log)
        if not plan.pool.preload:
            return lambda call: _loaded_in_worker(plan.pool, call)
        found, warnings = preload(plan.pool, before)
    except LoadError as error:
        if isinstance(error, ForkedInImport) or channel.fileno() in before.lost_fds():
            _end_unheard(error, before, log)
        if error.__cause__ is not None:  # else the reason says it all
            what = "the code cannot be imported"
            log.report(plan.pool.name, what, error.__cause__)
        channel.send_all(("failed", error.reason))
        return None
    _guard_signals(plan.window)
    process.set_name("zygote")
    for warning in warnings:
        log.warning(warning)
    return lambda call: before.resume(call, found)


def _loaded_in_worker(pool: settings.Pool, call: Callable[..., Any]) -> type[Worker]:
    found = load_class(pool, call)
    keep_modules()
    return found


def _end_unheard(error: LoadError, before: Before, log: WorkerLog) -> NoReturn:
    """End a process that has no channel, or not its own: only the log can have the reason."""
    if before.lost_fds():
        complain(error.reason)
    else:
        log.error(error.reason)
        log.settle()
    os._exit(CUT_OFF)


def _prepare_to_fork() -> None:
    """Let children share as much as they can, for as long as they can."""
    gc.collect()
    gc.freeze()


def _keep_code() -> Iterator[None]:
    """Let workers that import for themselves have graced's code of our version, bit by bit."""
    from graced.host.codecache import keep_all

    yield from keep_all()


def _set_environment(plan: ZygotePlan, log: WorkerLog) -> None:
    pool = plan.pool
    others = [name for name in os.environ if name.upper().startswith(_SETTINGS)]
    for name in (*_SYSTEMD, *_SYSTEMD_FDS, *others):
        os.environ.pop(name, None)
    os.environ.update(_about_us(plan))
    set_environment(pool.env)
    warning = late_variables(pool)
    if warning is not None:
        log.warning(warning)


def _about_us(plan: ZygotePlan) -> dict[str, str]:
    """Return how commands below us find our daemon; GRACED_SLOT is each worker's own."""
    about = {"GRACED_POOL": plan.pool.name, "GRACED_PROG": program.name}
    if plan.config is not None:
        about["GRACED_CONFIG"] = plan.config
    if plan.runtime_dir is not None:
        about["GRACED_SOCKET"] = os.path.join(plan.runtime_dir, SOCKET)
    return about


class Zygote:
    """A zygote that has its code: it takes orders until the main process is gone."""

    def __init__(
        self,
        plan: ZygotePlan,
        channel: Channel,
        log: WorkerLog,
        load: Callable[[Any], type[Worker]],
    ) -> None:
        self._plan = plan
        self._channel = channel
        self._load = load
        title = title_setter()
        if title is not None:
            title(f"{plan.name}: zygote {plan.pool.name} gen {plan.generation}")
            process.set_name("zygote")
        self._context = WorkerContext(
            pool=plan.pool,
            generation=plan.generation,
            name=plan.name,
            main_pid=plan.main_pid,
            bell=plan.bell,
            log=log,
            queue=plan.queue,
            runtime_dir=plan.runtime_dir,
            listen=plan.listen,
            alone=plan.alone,
            title=title,
            max_lease=plan.max_lease,
        )
        rehearse(Runtime(self._context))
        self._runtime = Runtime(self._context)
        self._guarded: dict[int, Orphan] = {}  # by pidfd
        self._keeping = None if plan.pool.preload else _keep_code()
        self._fd_limit: tuple[int, int] | None = None  # what workers get, if we needed more
        self._epoll = select.epoll()
        self._epoll.register(channel.fileno(), select.EPOLLIN)

    def live(self) -> None:
        """Take orders; after the main process's death lead its workers down and leave."""
        try:
            while True:
                self._epoll_once()
        except ChannelClosed:
            pass
        if self._plan.listen:
            from graced.host.listeners import let_go  # loaded where they were opened

            let_go(self._plan.listen, self._plan.alone)
        lead_down(
            list(self._guarded.items()), self._plan.pool, self._plan.max_lease, self._plan.lease
        )

    def _epoll_once(self) -> None:
        heard = self._epoll.poll(IDLE_AFTER_S if self._keeping else None)
        if not heard and self._keeping and next(self._keeping, self) is self:
            self._keeping = None
            self._context.log.debug("graced's code is in memory")
        for fd, _ in heard:
            if fd in self._guarded:
                self._forget(fd)
            else:
                self._hear()

    def _hear(self) -> None:
        message = self._channel.receive()
        if message is not None:
            self._obey(message)

    def _forget(self, pidfd: int) -> None:
        del self._guarded[pidfd]
        os.close(pidfd)

    def _obey(self, message: tuple[Any, ...]) -> None:
        match message:
            case ("spawn", orders):
                self._spawn([SpawnOrder(*order) for order in orders])
            case ("adopt", workers):
                for _, record, pid in workers:
                    self._guard(pid, self._plan.scoreboard.record(record))
            case _:
                raise ValueError(f"unknown order: {message!r}")

    def _guard(self, pid: int, record: WorkerRecord) -> None:
        try:
            pidfd = process.open_pidfd(pid)
        except OSError as error:
            self._context.log.warning(
                f"cannot guard worker (pid {pid}): {error.strerror};"
                " if the main process is killed, it may be left behind"
            )
            return
        if pidfd is not None:
            self._guarded[pidfd] = Orphan(pid, record)
            self._epoll.register(pidfd, select.EPOLLIN)

    # -- spawning ------------------------------------------------------------------

    def _spawn(self, orders: list[SpawnOrder]) -> None:
        if len(self._guarded) + len(orders) > FD_CHECK_ABOVE:
            self._fd_limit = descriptors.room_for_fds(2 * len(orders)) or self._fd_limit
        batch = SpawnBatch(
            self._runtime, self._load, self._plan.scoreboard, self._plan.stacks, orders
        )
        failure = batch.run(self._guard, self._own_fds(), self._fd_limit)
        born = list(batch.pids.items())
        unborn = [(order.worker,) for order in orders if order.worker not in batch.pids]
        if born:
            self._channel.send_all(("spawned", born))
        if unborn:
            self._channel.send_all(("unspawned", unborn, failure or "died before it was forked"))

    def _own_fds(self) -> list[int]:
        """Return what no child shall have."""
        window = self._plan.window
        windows = [] if window is None else [window.fd]
        return [self._channel.fileno(), self._epoll.fileno(), *windows, *self._guarded]
