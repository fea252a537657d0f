"""The worker that is a program: any executable, with the manners of a worker.

A small process of ours has it as its subprocess: starts it, waits until it is ready, logs its
output, hands on what the worker is asked, and ends when it ends. How a subprocess is run is in
:mod:`.child`, how it is seen to be ready in :mod:`.readiness`; what its options are, in
:mod:`graced.options`.
"""

from __future__ import annotations

import os
import signal
import time
from errno import EACCES, ENOENT, ENOEXEC

from graced import options
from graced.host import oom, process
from graced.host.scoreboard import Wants
from graced.workers.base import Worker
from graced.workers.child import Child, Start, StartError
from graced.workers.context import Ended, LoadError
from graced.workers.readiness import Accepts, Lives, Notices, Says

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.settings import Pool
    from graced.workers.readiness import Readiness

RSS_LOOK_S = 1.0  # seconds between looks at its memory, where that has a limit
_NO_START = {
    ENOENT: "there is no such program; write its path, or put its folder into PATH (env)",
    EACCES: "it may not be executed; chmod +x, or write what runs it before it",
    ENOEXEC: "it is no program; write what runs it before it, such as sh",
}


class Program(Worker):
    """Runs a program for as long as the worker lives.

    ``options``: ``argv``; ``ready`` (a time that it has to live, ``notify``, or an address that
    accepts); ``stop_signal``, which a drain sends to its group; ``cwd``; ``env`` (over the
    pool's). ``{slot}`` and ``{pool}`` are filled in. It finds the pool's sockets as
    sd_listen_fds(3) does. Where it ends by itself, that is the worker's death. An interrupt
    sends SIGTERM to its group. What is left of that when it has ended is killed.
    """

    _child: Child
    _notices: Notices | None = None
    _is_stopping = False  # it says so itself
    _next_look = 0.0  # at its memory

    def setup(self) -> None:
        """Start the program, and wait until it is ready.

        Where it is asked to leave before, it may serve already: then it is seen to its end.
        """
        try:
            settings = options.program(self.options, self.pool, self.slot)
            ready = self._readiness(settings.ready)
        except options.OptionError as error:
            raise LoadError(str(error)) from None
        self._stop_signal = settings.stop_signal
        self._oom_kills = oom.OomKills()
        self._child = self._start(settings)
        try:
            is_ready = self._await(ready)
        except BaseException:  # ended, whatever it is; raised on
            self._end()
            raise
        if not is_ready:
            how = _told(*self._end())
            last = self._child.last_line
            raise LoadError(f"{how} before it was ready{last and f': {last}'}")
        if self._graced.leaving:
            self.step()

    def step(self) -> None:
        """Watch the program until it ends, or see it to its end when asked to leave."""
        try:
            asked = self._watch()
        finally:
            exit, oom_killed = self._end()
        how = _told(exit, oom_killed)
        if not asked:
            raise Ended(_status(exit), how)
        as_asked = exit.code == os.CLD_EXITED or exit.status in (self._stop_signal, signal.SIGTERM)
        self._graced.log.write("info" if as_asked else "warning", f"{how}, asked to leave", {})

    def _turn(self) -> None:
        self._graced.guarded(self.step)

    # -- from its start to its end ---------------------------------------------------

    def _readiness(self, wanted: float | str) -> Readiness:
        if isinstance(wanted, float):
            return Lives(wanted)
        if wanted == options.NOTIFY:
            self._notices = Notices()
            return Says(self._notices)
        ready = Accepts(wanted)
        if ready.is_taken:
            self._graced.log.warning(
                f"{wanted} accepts before the program is started: waiting until it listens there"
                " itself; with surge: 0 the worker before it leaves first"
            )
        return ready

    def _start(self, settings: options.ProgramOptions) -> Child:
        env = {**os.environ, **settings.env, **self._variables()}
        sockets = self._graced.context.listen
        start = Start(settings.argv, settings.cwd, env, sockets=sockets)
        try:
            child = Child(self._graced, start, self._graced.log)
        except StartError as error:
            raise LoadError(_no_start(settings, error)) from None
        if self._notices is not None:
            child.listen_to(self._notices.fileno(), self._read_notices)
        self._graced.log.info(f"program {settings.argv[0]} (pid {child.pid}) started")
        return child

    def _variables(self) -> dict[str, str]:
        """Return what a program looks for that systemd starts."""
        found = {}
        if self._notices is not None:
            found["NOTIFY_SOCKET"] = self._notices.address
        context = self._graced.context
        if context.listen:
            found["LISTEN_FDS"] = str(len(context.listen))
            found["LISTEN_FDNAMES"] = ":".join(_names(context.pool, len(context.listen)))
        return found

    def _await(self, ready: Readiness) -> bool:
        """Wait until it is ready, or asked to leave; False if it has ended instead."""
        child = self._child
        ready.begin(child.pid)
        while not child.has_ended():
            if ready.reached() or self._graced.leaving:
                return True
            child.hear(ready.look_again())
        return False

    def _watch(self) -> bool:
        """Watch it until it ends, by itself (False) or because it was asked to (True)."""
        child, runtime = self._child, self._graced
        while not runtime.leaving:
            if child.has_ended():
                return False
            child.hear(self._weigh())
        runtime.writer.begin_free()  # busy: it finishes what it has in hand
        child.heed_interrupt()
        if not self._is_stopping:
            child.signal_group(self._stop_signal)
        child.watch()
        child.watch_others()
        return True

    def _end(self) -> tuple[process.Exit, bool]:
        """Have nothing of it left; how it has ended, and whether for want of memory.

        One that is still there is asked to end; if it does not, the stop ladder kills both of us.
        """
        child = self._child
        if not child.has_ended():
            child.signal_group(signal.SIGTERM)
            child.await_end()
        if self._notices is not None:
            child.listen_no_more(self._notices.fileno())
            self._notices.close()
        exit = child.end()
        return exit, self._oom_kills.took(exit, time.monotonic(), ours=False)

    # -- what it says, and how large it is ---------------------------------------------

    def _read_notices(self) -> None:
        assert self._notices is not None
        for name, value in self._notices.read():
            if name == "STATUS":
                self._graced.log.info(f"status: {value}")
            elif (name, value) == ("STOPPING", "1") and not self._graced.leaving:
                self._is_stopping = True
                self._graced.log.info("the program says that it is stopping; it is to be replaced")
                self._graced.writer.want(Wants.RECYCLE)

    def _weigh(self) -> float | None:
        """Look at its memory once in a while; return the seconds to the next look."""
        limit = self._graced.order.max_rss
        if not limit:
            return None
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + RSS_LOOK_S
            self._graced.writer.weigh(process.family_rss(self._child.pid), limit)
        return self._next_look - now


def _names(pool: Pool, count: int) -> list[str]:
    """Return the names of a pool's sockets: that of systemd where it is clear, else the pool's."""
    names = [text[3:] if text.startswith("fd:") else pool.name for text in pool.listen]
    return names if len(names) == count else [pool.name] * count


def look_up(pool: Pool) -> list[str]:
    """Refuse a program that can't be run, as this process sees it: LoadError; return warnings.

    The process is in the program's folder then. Where the configuration does not say PATH, that
    of the daemon may be another one than ours.
    """
    from shutil import which

    settings = options.program(pool.options, pool.name, 0)
    name, env = settings.argv[0], {**os.environ, **settings.env}
    try:
        os.chdir(settings.cwd or ".")
    except OSError as error:
        raise LoadError(_no_start(settings, StartError(error.errno or 0, in_folder=True))) from None
    if which(name, path=env.get("PATH")):
        return []
    number = EACCES if "/" in name and os.path.exists(name) else ENOENT
    why = _no_start(settings, StartError(number, in_folder=False))
    if "/" in name or "PATH" in {**pool.env, **settings.env}:
        raise LoadError(why)
    return [f"{why}; it is not in PATH here, and the daemon may have another"]


def _no_start(settings: options.ProgramOptions, error: StartError) -> str:
    if error.in_folder:
        return f"options.cwd: {settings.cwd}: {error.strerror}"
    why = _NO_START.get(error.errno or 0, error.strerror)
    return f"options.argv: cannot run {settings.argv[0]}: {why}"


def _told(exit: process.Exit, oom_killed: bool) -> str:
    """Say how the program has ended."""
    how = process.describe_exit(exit)
    was = "" if exit.code == os.CLD_EXITED else "was "
    return f"the program {was}{how}{' (out of memory)' if oom_killed else ''}"


def _status(exit: process.Exit) -> int:
    """Return what a shell would make of it: 128 and the number of a signal."""
    return exit.status if exit.code == os.CLD_EXITED else 128 + exit.status
