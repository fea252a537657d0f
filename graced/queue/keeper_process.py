"""A keeper's process, from its fork to its end; what it does meanwhile is in :mod:`.server`.

What only the keeper needs is imported in it, after the fork.
"""

from __future__ import annotations

import os
import signal
import sys

from graced.exitcodes import BUG, FAILED
from graced.host import credentials, descriptors, process, signals
from graced.host.channel import Channel
from graced.host.proctitle import title_setter

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import NoReturn

    from graced.host.stackdump import Window
    from graced.queue.plan import KeeperPlan
    from graced.queue.protocol import Engine


def fork(plan: KeeperPlan) -> tuple[int, Channel]:
    """Fork a keeper; return its PID and the main process's end of the channel to it."""
    ours, theirs = Channel.pair()
    open_now = descriptors.our_fds()
    mask = process.block_all()
    try:
        pid = os.fork()
        if pid == 0:
            _live(plan, theirs, open_now)
    except BaseException:  # closed, whatever it is; raised on
        ours.close()
        raise
    finally:
        process.restore(mask)
        theirs.close()
    return pid, ours


def _live(plan: KeeperPlan, channel: Channel, open_before: list[int]) -> NoReturn:
    """Run the child to its end: it never returns into the parent's code."""
    status = BUG
    try:
        status = _serve(plan, channel, open_before)
    except BaseException as error:  # the child must end here, whatever it is
        plan.log.exception("the queue keeper has failed: %s", error)
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        os._exit(status)


def _serve(plan: KeeperPlan, channel: Channel, open_before: list[int]) -> int:
    import gc

    gc.freeze()  # what belongs to the main process is not ours to collect
    process.leave_terminal()  # Ctrl-C is not for us
    credentials.be_seen()
    _be_known(plan)
    windows = [] if plan.window is None else [plan.window.fd]
    descriptors.close_all_but({channel.fileno(), *plan.log.keep(), *windows}, open_before)
    descriptors.redirect_stdin()
    _guard_signals(plan.window)
    from graced.queue.connections import listen
    from graced.queue.engines import engine_called

    engine = engine_called(plan.address.engine)
    previous = _find_previous(plan, engine)
    try:
        listener = listen(plan)
    except OSError as error:
        channel.send(("failed", f"{plan.address.socket}: {error}"))
        return FAILED
    from graced.queue.server import Server  # once workers can connect: it takes a moment

    return Server(plan, channel, listener, previous, engine).run()


def _be_known(plan: KeeperPlan) -> None:
    """Show in ps(1) what this is, and of which pool."""
    title = title_setter()
    if title is not None:
        title(f"{plan.name}: keeper {plan.pool}")
    process.set_name("keeper")


def _guard_signals(window: Window | None) -> None:
    """Let a signal to all processes pass us by: the main process says when to leave.

    Ignored, so that none interrupts a system call of SQLite's.
    """
    signals.pass_by(signal.SIG_IGN, signal.SIGTSTP, signal.SIGQUIT)
    if window is not None:
        window.print_here()
    process.restore(())


def _find_previous(plan: KeeperPlan, engine: Engine) -> socket.socket | None:
    """Ask the keeper that a dead main process may have left for the file.

    Before we take its socket's name.
    """
    from graced.queue import wire

    at = engine.keeper_of(plan.address.file)
    if at is None:
        return None
    try:
        previous = wire.connect(at)
    except OSError:
        return None
    try:
        previous.send(wire.frame(wire.Kind.YIELD, os.fsencode(plan.address.socket)))
    except OSError:
        previous.close()
        return None
    return previous
