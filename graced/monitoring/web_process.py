"""The process `graced-web`: from its fork to its end. It serves the page and can do nothing else.

It is no user that owns anything if root started the daemon, has no descriptor but its sockets and a
connection on which the main process answers questions, and may open, call, start and signal
nothing. What it needs is imported in it, after the fork.
"""

from __future__ import annotations

import os
import signal
import sys

from graced import program
from graced.exitcodes import BUG
from graced.host import credentials, descriptors, process, sandbox, signals
from graced.host.proctitle import title_setter
from graced.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any, NoReturn

    from graced.log.logger import Log

NOBODY = 65534  # user and group that own nothing
THREADS = 4
MAX_CONNECTIONS = 200
MAX_BODY = 16 * 1024  # bytes of a request that is refused anyway
MAX_HEADER = 16 * 1024
SILENT_S = 20  # seconds after which a silent connection is closed,
LOOK_S = 5.0  #   and between two looks whether one is, while there are any


class WebPlan(Record):
    """What the process has to know. `fds` are the sockets that it serves on."""

    name: str
    fds: tuple[int, ...]
    is_local: bool  # only processes of this host reach it
    log: Log


def fork(plan: WebPlan, answers: socket.socket) -> int:
    """Fork the process, which asks the daemon on `answers`; return its PID. OSError."""
    open_now = descriptors.our_fds()
    main = os.getpid()
    mask = process.block_all()
    try:
        pid = os.fork()
        if pid == 0:
            _live(plan, answers, open_now, main)
    finally:
        process.restore(mask)
    return pid


def _live(plan: WebPlan, answers: socket.socket, open_before: list[int], main: int) -> NoReturn:
    """Run the child to its end: it never returns into the parent's code."""
    try:
        _serve(plan, answers, open_before, main)
    except BaseException as error:  # the child must end here, whatever it is
        plan.log.exception("web: the process has failed: %s", error)
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        os._exit(BUG)


def _serve(plan: WebPlan, answers: socket.socket, open_before: list[int], main: int) -> None:
    import gc

    gc.freeze()  # what belongs to the main process is not ours to collect
    process.leave_terminal()
    keep = {answers.fileno(), *plan.fds, *plan.log.keep()}
    descriptors.close_all_but(keep, open_before)
    descriptors.redirect_stdin()
    signals.pass_by(signal.SIG_IGN, signal.SIGTSTP, signal.SIGQUIT)
    run = _server(plan, answers)  # while the code can be read: root's own may be for root alone
    if os.geteuid() == 0:
        credentials.become(NOBODY, NOBODY, None)
    credentials.be_seen()
    process.set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != main:
        return
    _be_known(plan.name)
    process.restore(())
    if not sandbox.only_read_and_answer():
        plan.log.info("web: this kernel has no filter of system calls for it")
    run()


def _be_known(name: str) -> None:
    title = title_setter()
    if title is not None:
        title(f"{name}: web")
    process.set_name("web")


def _server(plan: WebPlan, answers: socket.socket) -> Any:
    """Return what serves for ever. All is imported and read before the process is confined."""
    import logging
    import socket as sockets

    from waitress import wasyncore
    from waitress.server import create_server

    from graced.monitoring.daemon_view import DaemonView
    from graced.monitoring.site import Site

    logging.getLogger("waitress").setLevel(logging.ERROR)  # callers can't fill the log
    listening = [sockets.socket(fileno=fd) for fd in plan.fds]
    connections: dict[int, Any] = {}
    site = Site(DaemonView(answers), is_local=plan.is_local)
    unix = [each for each in listening if each.family == sockets.AF_UNIX]
    others = [each for each in listening if each not in unix]
    for alike in filter(None, (unix, others)):  # waitress does not mix them in one server
        create_server(
            site,
            map=connections,
            sockets=alike,
            threads=THREADS,
            ident=program.name,
            connection_limit=MAX_CONNECTIONS,
            channel_timeout=SILENT_S,
            cleanup_interval=int(LOOK_S),
            max_request_header_size=MAX_HEADER,
            max_request_body_size=MAX_BODY,
            clear_untrusted_proxy_headers=True,
            asyncore_use_poll=True,
        )
    at_rest = len(connections)

    def run() -> None:
        while True:  # nothing ticks while there is no connection
            wait = LOOK_S if len(connections) > at_rest else None
            wasyncore.loop(timeout=wait, use_poll=True, map=connections, count=1)

    return run
