"""A zygote's life: import a pool's code once, fork its workers, guard them if main dies.

Workers are forked by a middle process that leaves at once, so that the main
process, a child subreaper, adopts them. The order of things at a birth is in :class:`_Birth`.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys

from graced.core import settings
from graced.core.record import Record
from graced.host import process
from graced.host.channel import Channel, ChannelClosed
from graced.host.log import Log, attach, open_log
from graced.host.scoreboard import BORN_WHOLE, PID, Phase, Scoreboard
from graced.host.stacks import Stacks
from graced.loader import LoadError, load_class
from graced.orphans import Orphan, lead_down
from graced.worker import live
from graced.workerlife import Family, Life, Order, flush

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, NoReturn

    from graced.worker import Worker

BUG: Final = 70  # exit status: a bug in graced
_SYSTEMD: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID")
_SYSTEMD_FDS: Final = ("LISTEN_FDS", "LISTEN_FDNAMES")


class Plan(Record):
    """All that a zygote has to know, made by the main process."""

    pool: settings.Pool
    generation: int
    scoreboard: Scoreboard
    bell: int
    main_pid: int
    name: str = "graced"
    user: str | None = None
    group: str | None = None
    log: Log | settings.Log = settings.Log()
    runtime_dir: str | None = None
    state_dir: str | None = None
    stacks: Stacks | None = None
    keep: tuple[int, ...] = ()
    queue: str | None = None


def fork(plan: Plan) -> tuple[int, Channel]:
    """Fork a zygote; return its PID and the main process's end of the channel to it."""
    ours, theirs = Channel.pair()
    mask = process.block_all()
    try:
        pid = os.fork()
        if pid == 0:
            _in_child(lambda: _live(plan, theirs))
    finally:
        process.restore(mask)
    theirs.close()
    _lead_a_group(pid)
    return pid, ours


def _in_child(life: Callable[[], object]) -> NoReturn:
    """Run a forked child to its end: whatever happens, it never returns into the parent's code."""
    status = BUG
    try:
        life()
        status = 0
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        raise
    finally:
        flush()
        os._exit(status)


def _lead_a_group(pid: int) -> None:
    """Make a new child the leader of its own group; done on both sides, whoever comes first."""
    try:
        os.setpgid(pid, pid)
    except (ProcessLookupError, PermissionError):  # gone already, or done by itself
        pass


# The zygote


def _live(plan: Plan, channel: Channel) -> None:
    gc.freeze()  # what belongs to the main process is not ours to collect
    os.setpgid(0, 0)
    process.set_name("graced-zygote")
    log = _log(plan)
    _keep_only(plan, channel, log)
    _guard_signals()
    process.set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != plan.main_pid:
        return
    load = _imported(plan, channel, log)
    process.set_parent_death_signal(0)
    if load is not None:
        Zygote(plan, channel, log, load).live()


def _log(plan: Plan) -> Log:
    log = plan.log if isinstance(plan.log, Log) else open_log(plan.log, os.environ)
    return log


def _keep_only(plan: Plan, channel: Channel, log: Log) -> None:
    keep = {channel.fileno(), plan.bell, *plan.keep, *log.keep()}
    if plan.stacks is not None:
        keep.add(plan.stacks.fileno())
    process.close_all_but(keep)
    process.redirect_stdin()
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(line_buffering=True)


def _guard_signals() -> None:
    """Let a signal to everybody pass us by. We are only ever killed."""
    signal.set_wakeup_fd(-1)
    for number in (
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGHUP,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGRTMIN,
    ):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    import faulthandler

    faulthandler.enable(file=2)
    faulthandler.register(signal.SIGQUIT, file=2)
    process.restore(())


def _imported(plan: Plan, channel: Channel, log: Log) -> Callable[[Any], type[Worker]] | None:
    """Load the class and say so; None if it can't be had, which is said too."""
    speaker = log.bind(pool=plan.pool.name, generation=plan.generation)
    try:
        process.change_user(plan.user, plan.group)
        process.set_parent_death_signal(signal.SIGKILL)
        _set_environment(plan.pool)
        if not plan.pool.preload:
            channel.send_all(("imported",))
            return lambda call: load_class(plan.pool, call)
        found = load_class(plan.pool)
    except LoadError as error:
        speaker.exception("the code cannot be imported", error.__cause__ or error)
        channel.send_all(("failed", error.reason))
        return None
    except process.ProcessError as error:
        channel.send_all(("failed", str(error)))
        return None
    channel.send_all(("imported",))
    return lambda call: found


def _set_environment(pool: settings.Pool) -> None:
    for name in _SYSTEMD + _SYSTEMD_FDS:
        os.environ.pop(name, None)
    os.environ.update(pool.env)


class Zygote:
    """A zygote that has its code: it takes orders until the main process is gone."""

    def __init__(
        self, plan: Plan, channel: Channel, log: Log, load: Callable[[Any], type[Worker]]
    ) -> None:
        self._plan = plan
        self._channel = channel
        self._load = load
        self._family = Family(
            plan.pool, plan.generation, plan.name, plan.main_pid, plan.bell, log, plan.queue
        )
        self._wards: dict[int, Orphan] = {}  # by pidfd
        self._epoll = select.epoll()
        self._epoll.register(channel.fileno(), select.EPOLLIN)

    def live(self) -> None:
        """Take orders; after the main process's death lead its workers down and leave."""
        try:
            while True:
                self._epoll_once()
        except ChannelClosed:
            pass
        lead_down(list(self._wards.items()), self._plan.pool)

    def _epoll_once(self) -> None:
        for fd, _ in self._epoll.poll():
            if fd in self._wards:
                self._forget(fd)
            elif (message := self._channel.receive()) is not None:
                self._obey(message)

    def _forget(self, pidfd: int) -> None:
        del self._wards[pidfd]
        os.close(pidfd)

    def _obey(self, message: tuple[Any, ...]) -> None:
        match message:
            case ("spawn", orders):
                self._spawn([Order(*order) for order in orders])
            case ("adopt", workers):
                for _, record, pid in workers:
                    self._guard(record, pid)
            case _:
                raise ValueError(f"an order that no zygote knows: {message!r}")

    def _guard(self, record: int, pid: int) -> None:
        pidfd = process.open_pidfd(pid)
        if pidfd is not None:
            self._wards[pidfd] = Orphan(pid, self._plan.scoreboard.record(record))
            self._epoll.register(pidfd, select.EPOLLIN)

    def _spawn(self, orders: list[Order]) -> None:
        birth = _Birth(self._plan, self._family, orders, self._load, self._own_fds())
        failure = birth.labour(self._guard)
        pids = [(o, self._plan.scoreboard.record(o.record).pid) for o in orders]
        born = [(order.worker, pid) for order, pid in pids if pid and failure != _Birth.LOST]
        unborn = [(order.worker,) for order, pid in pids if not pid or failure == _Birth.LOST]
        if born:
            self._channel.send_all(("spawned", born))
        if unborn:
            self._channel.send_all(("unspawned", unborn, failure))

    def _own_fds(self) -> list[int]:
        return [self._channel.fileno(), self._epoll.fileno(), *self._wards]


class _Birth:
    """The birth of some workers by a middle process.

    zygote: blocks all signals, forks the middle process, waits for its word
    middle: forks the workers, gives its word, waits for the zygote's
    zygote: opens a pidfd on each worker, gives its word, reaps the middle process
    middle: marks the records and leaves; if the zygote is gone instead, kills them
    worker: sleeps until the main process has adopted it
    """

    LOST: Final = "the middle process was killed during the birth"

    def __init__(
        self,
        plan: Plan,
        family: Family,
        orders: list[Order],
        load: Callable[[Any], type[Worker]],
        zygote_fds: list[int],
    ) -> None:
        self._plan = plan
        self._family = family
        self._orders = orders
        self._load = load
        self._zygote_fds = zygote_fds

    # -- in the zygote -------------------------------------------------------------

    def labour(self, guard: Callable[[int, int], None]) -> str:
        """Bring the workers into the world; return why some are missing."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mask = process.block_all()
        try:
            middle = os.fork()
            if middle == 0:
                self._zygote_fds.append(ours.fileno())
                _in_child(lambda: self._middle(theirs))
        except OSError as error:
            return f"cannot fork: {error.strerror}"
        finally:
            process.restore(mask)
        theirs.close()
        try:
            word = ours.recv(1024)
            if not word:
                return self.LOST
            self._guard_all(guard)
            ours.send(b"go")
        except (ConnectionError, BrokenPipeError):
            return self.LOST
        finally:
            ours.close()
            os.waitpid(middle, 0)
        return word.decode()

    def _guard_all(self, guard: Callable[[int, int], None]) -> None:
        for order in self._orders:
            pid = self._plan.scoreboard.record(order.record).pid
            if pid:
                guard(order.record, pid)

    # -- in the middle process -----------------------------------------------------

    def _middle(self, zygote: socket.socket) -> None:
        for fd in self._zygote_fds:
            os.close(fd)
        self._main = self._plan.main_pid
        self._middle_pid = os.getpid()
        process.set_name("graced-worker")
        life = Life(self._family)
        life.install_handlers()
        word = "all born"
        for order in self._orders:
            try:
                self._fork_worker(life, order, zygote)
            except OSError as error:
                word = f"cannot fork: {error.strerror}"
                break
        self._part(zygote, word)

    def _fork_worker(self, life: Life, order: Order, zygote: socket.socket) -> None:
        record = self._plan.scoreboard.record(order.record)
        pid = os.fork()
        if pid == 0:
            _in_child(lambda: self._worker(life, order, zygote.fileno()))
        record.pid = pid
        _lead_a_group(pid)

    def _part(self, zygote: socket.socket, word: str) -> None:
        zygote.send(word.encode())
        born = [self._plan.scoreboard.record(order.record) for order in self._orders]
        if zygote.recv(16) == b"go":
            for record in born:
                record.words[BORN_WHOLE] = 1
            return
        for record in born:
            if record.pid:
                process.end_group(record.pid)

    # -- in a worker ---------------------------------------------------------------

    def _worker(self, life: Life, order: Order, zygote: int) -> None:
        record = self._plan.scoreboard.record(order.record)
        record.words[PID] = os.getpid()
        record.phase = Phase.BORN
        os.setpgid(0, 0)
        os.close(zygote)
        self._await_adoption()
        if os.getppid() != self._main or not record.born_whole:
            return
        process.set_parent_death_signal(signal.SIGTERM)
        if os.getppid() != self._main:
            return
        life.begin(order, record)
        attach(life.diary)
        life.listen(self._plan.stacks)
        live(life, self._load)

    def _await_adoption(self) -> None:
        """Sleep until the middle process has left: end-of-file would come too early."""
        process.set_parent_death_signal(signal.SIGRTMIN)
        if os.getppid() == self._middle_pid:
            signal.sigwait((signal.SIGRTMIN,))
