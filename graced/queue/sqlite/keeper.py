"""The main process's end of a queue keeper: starts it, tells it deaths, hears how it is.

No SQL, no queue's rules: those are loaded in the keeper's own process,
:mod:`.server`. Nothing here blocks.
"""

from __future__ import annotations

import os
import signal
import sys

from graced.host import process, signals
from graced.host.channel import Channel, ChannelClosed, ChannelFull
from graced.host.proctitle import title_setter
from graced.log.logger import Log
from graced.queue.policy import Policy
from graced.record import Record, values

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any, NoReturn

    from graced import settings
    from graced.host.stackdump import Window

BUG = 70  # exit status: a bug in graced
FAILED = 1
AT_ONCE = 256  # messages heard before others have their turn


class Plan(Record):
    """All that a keeper has to know, made by the main process."""

    pool: str
    file: str  # absolute
    socket: str  # absolute
    daemon_id: str  # letters and digits; another one for each main process
    policy: Policy = Policy()
    log: Log = Log()
    window: Window | None = None  # for its stacks
    name: str = "graced"

    def owner(self, worker: int) -> str:
        """Return a worker's name in the queue."""
        return f"{self.daemon_id}:{worker}"

    def is_ours(self, owner: str) -> bool:
        """Whether a name in the queue is that of a worker of this main process."""
        return owner.startswith(f"{self.daemon_id}:")


class Keeper:
    """A keeper's process and the way to talk to it. Reaping it is the main process's work."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.pid: int | None = None
        self.trouble: str | None = None  # why the queue cannot be used now
        self.open = False  # it has the file
        self.counts: dict[str, Any] | None = None  # the last it has told
        self._channel: Channel | None = None
        self._deaths: dict[str, tuple[Any, ...]] = {}  # told, and not yet buried
        self._unsent: list[tuple[Any, ...]] = []

    def fileno(self) -> int:
        """Return the descriptor to wait on, or -1."""
        return -1 if self._channel is None else self._channel.fileno()

    def start(self, window: Window | None = None) -> int:
        """Fork the keeper, the first time or once more; return its PID. OSError if it can't be."""
        self.close()
        self.pid, self._channel = fork(self.plan.replace(window=window))
        self.open = False
        self._unsent = list(self._deaths.values())
        self.flush()
        return self.pid

    def owner(self, worker: int) -> str:
        """Return a worker's name in the queue."""
        return self.plan.owner(worker)

    def died(self, worker: int, evidence: dict[str, Any], *, counts: bool) -> None:
        """Tell that a worker is reaped and its groups are gone.

        With `counts` the attempt counts for the job it had in hand. Repeated to a new
        keeper until one has written it down.
        """
        owner = self.owner(worker)
        message = ("died", owner, evidence, counts)
        self._deaths[owner] = message
        self._tell(message)

    def apply(self, policy: Policy) -> None:
        """Go by other settings from now on."""
        self.plan = self.plan.replace(policy=policy)
        self._tell(policy.message())

    def log_to(self, wanted: settings.Log) -> None:
        """Have it log in another way, or to another place; one that starts later does so anyway."""
        self._tell(("log", *values(wanted)))

    def count(self) -> None:
        """Ask how many jobs there are; the answer comes by ``receive``."""
        self._tell(("count",))

    def listen_again(self) -> None:
        """Tell that its socket was removed."""
        self._tell(("listen",))

    def stop(self) -> None:
        """Have it leave, after it has written all. To be said after the last death."""
        self._tell(("stop",))

    def receive(self) -> list[tuple[Any, ...]]:
        """Return what it has said: ready, degraded, well, counts, failed; gone at its end."""
        said = []
        channel = self._channel
        try:
            for _ in range(AT_ONCE):
                message = None if channel is None else channel.receive()
                if message is None:
                    break
                self._hear(message)
                if message[0] != "buried":
                    said.append(message)
        except ChannelClosed:
            self.close()
            said.append(("gone",))
        self.flush()
        return said

    def flush(self) -> bool:
        """Send what could not be sent yet; return whether all is."""
        while self._unsent and self._channel is not None:
            try:
                self._channel.send(self._unsent[0])
            except ChannelFull:
                return False
            except ChannelClosed:  # receive() says so
                return True
            del self._unsent[0]
        return True

    def close(self) -> None:
        """Close our end: a keeper that still lives takes us for dead."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self.open = False

    def _tell(self, message: tuple[Any, ...]) -> None:
        if self._channel is not None:
            self._unsent.append(message)
            self.flush()

    def _hear(self, message: tuple[Any, ...]) -> None:
        match message:
            case ("ready",):
                self.open = True
            case ("buried", owner):
                self._deaths.pop(owner, None)
            case ("degraded", why) | ("still", why):
                self.trouble = why
            case ("well",):
                self.trouble = None
            case ("counts", counts):
                self.counts = counts


def fork(plan: Plan) -> tuple[int, Channel]:
    """Fork a keeper; return its PID and the main process's end of the channel to it."""
    ours, theirs = Channel.pair()
    open_now = process.our_fds()
    mask = process.block_all()
    try:
        pid = os.fork()
        if pid == 0:
            _live(plan, theirs, open_now)
    except BaseException:
        ours.close()
        raise
    finally:
        process.restore(mask)
        theirs.close()
    return pid, ours


# The keeper's process


def _live(plan: Plan, channel: Channel, open_before: list[int]) -> NoReturn:
    """Run the child to its end: it never returns into the parent's code."""
    status = BUG
    try:
        status = _serve(plan, channel, open_before)
    except BaseException as error:
        plan.log.exception("the queue keeper has failed: %s", error)
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        os._exit(status)


def _serve(plan: Plan, channel: Channel, open_before: list[int]) -> int:
    import gc

    gc.freeze()  # what belongs to the main process is not ours to collect
    os.setsid()  # Ctrl-C in a terminal is not for us, nor is the terminal
    process.be_seen()
    _be_known(plan)
    windows = [] if plan.window is None else [plan.window.fd]
    process.close_all_but({channel.fileno(), *plan.log.keep(), *windows}, open_before)
    process.redirect_stdin()
    _guard_signals(plan.window)
    elder = _find_elder(plan)
    try:
        listener = listen(plan)
    except OSError as error:
        channel.send(("failed", f"{plan.socket}: {error}"))
        return FAILED
    from graced.queue.sqlite.server import Service

    return Service(plan, channel, listener, elder).run()


def _be_known(plan: Plan) -> None:
    """Show in ps(1) who this is, and of which pool."""
    title = title_setter()
    if title is not None:
        title(f"{plan.name}: keeper {plan.pool}")
    process.set_name("graced-keeper")


def _guard_signals(window: Window | None) -> None:
    """Let a signal to everybody pass us by: the main process says when to leave.

    Ignored, so that none interrupts a system call of SQLite's.
    """
    signals.pass_by(signal.SIG_IGN, signal.SIGTSTP, signal.SIGQUIT)
    if window is not None:
        window.print_here()
    process.restore(())


def _find_elder(plan: Plan) -> socket.socket | None:
    """Ask the keeper that a dead main process may have left for the file.

    Before we take its socket's name.
    """
    from graced.queue.sqlite import wire

    try:
        with open(f"{plan.file}-keeper", encoding="utf-8", errors="replace") as lock:
            at = lock.read(4096)
        if not at:
            return None
        elder = wire.connect(at)
    except OSError:
        return None
    try:
        elder.send(wire.frame(wire.Kind.YIELD, plan.socket.encode()))
    except OSError:
        elder.close()
        return None
    return elder


def listen(plan: Plan) -> socket.socket:
    """Return a socket that listens at the plan's place. Raises OSError."""
    from graced.queue.sqlite import wire

    listener = wire.listen(plan.socket, _mode(plan))
    open_to(plan)
    return listener


def open_to(plan: Plan) -> None:
    """Let members of submit_group get to the socket, if there is one; who they are is seen there.

    The folder may be this user's alone, and has only names in it that others may know.
    """
    os.chmod(plan.socket, _mode(plan))
    folder = os.path.dirname(plan.socket)
    found = os.stat(folder)
    if plan.policy.submit_group is not None and found.st_uid == os.geteuid():
        os.chmod(folder, found.st_mode & 0o7777 | 0o011)


def _mode(plan: Plan) -> int:
    return 0o660 if plan.policy.submit_group is None else 0o666
