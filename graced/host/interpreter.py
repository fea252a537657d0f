"""What the import of user code does to its process: taken before it, put right or told after it.

A zygote has to go on after an import, and its children have to hear signals. What user code
changes for itself alone is left as it is: working directory, umask, locale, garbage
collector, limits, handlers of other signals than ours, streams, hooks.
"""

from __future__ import annotations

import _thread
import os
import signal
import socket
import stat
import sys
import time
from types import ModuleType

from graced import program
from graced.host import descriptors, process
from graced.host.descriptors import identity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, TypeVar

    T = TypeVar("T")
# What gevent and its like patch, and what graced has of it.
_PATCHED = ("_socket", "_thread", "fcntl", "gc", "mmap", "os", "select", "signal", "time")
_FINDERS = ("meta_path", "path", "path_hooks")
_HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_LIBRARY = os.path.dirname(os.__file__)
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
# Read by ld.so, malloc and Python when they start; all else is read when it is needed.
_READ_AT_START = ("GLIBC_TUNABLES", "LD_", "MALLOC_", "PYTHON")
_READ_LATER = ("PYTHONASYNCIODEBUG", "PYTHONBREAKPOINT", "PYTHON_COLORS")
_OF_LOCALE = ("LANG", "LC_ALL", "LC_CTYPE")
_POOLS_OF_THREADS = ("libgomp", "libiomp", "libomp", "libtbb", "librdkafka", "cygrpc")
_open = open  # pyfakefs and its like patch it, too

_copies: dict[int, ModuleType] = {}  # by the id of the original


class Before:
    """What a process is before it imports user code. `needed` are descriptors graced has."""

    def __init__(self, needed: Iterable[int], numbers: Iterable[int] = ()) -> None:
        self._fds = {fd: found for fd in descriptors.open_fds() if (found := identity(fd))}
        self._needed = {fd: self._fds.get(fd) for fd in needed}
        self._pid = os.getpid()
        self._group = os.getpgrp()
        self._limit = sys.getrecursionlimit()
        self._finders = {n: list(filter(_is_pythons, getattr(sys, n))) for n in _FINDERS}
        self._handlers = {number: signal.getsignal(number) for number in numbers}
        self._tasks = set(_tasks())
        self._python_threads = _thread._count()
        self._traced: tuple[Any, Any] = (None, None)
        keep_modules()

    @property
    def has_forked(self) -> bool:
        """Whether this process is another one, forked in the import and come back from it."""
        return os.getpid() != self._pid

    def lost_fds(self) -> list[int]:
        """Return which of the descriptors that graced needs are closed, or another file's."""
        return [fd for fd, had in self._needed.items() if identity(fd) != had]

    @property
    def has_threads(self) -> bool:
        """Whether Python threads run that did not before."""
        return _thread._count() > self._python_threads

    def pause_tracing(self) -> None:
        """Stop tracing and profiling, such as of coverage, which workers will go on with."""
        self._traced = sys.gettrace(), sys.getprofile()
        sys.settrace(None)
        sys.setprofile(None)

    def resume(self, call: Callable[..., Any], found: T) -> T:
        """Go on in a worker with what the import has begun; return what it has found.

        gevent has to be told of a fork that was not its own.
        """
        if "gevent" in sys.modules:
            call(sys.modules["gevent"].reinit)
        trace, profile = self._traced
        sys.settrace(trace)
        sys.setprofile(profile)
        return found

    def put_right(self) -> list[str]:
        """Undo what would harm graced; return what that was. Handlers are the caller's work."""
        keep_modules()
        changed = [
            f"the handling of {process.signal_name(number)}"
            for number, handler in self._handlers.items()
            if signal.getsignal(number) != handler
        ]
        repairs: tuple[tuple[str, Callable[[], bool]], ...] = (
            ("the wakeup descriptor of signals", _forget_wakeup),
            ("a timer", _stop_timers),
            ("the process group", self._regroup),
            ("standard streams", _fill_streams),
            ("the recursion limit", self._recurse),
            ("where modules are found", self._find_again),
        )
        changed += [what for what, repair in repairs if repair()]
        process.refuse_orphans()
        if "faulthandler" in sys.modules:
            sys.modules["faulthandler"].cancel_dump_traceback_later()
        return changed

    def connections(self) -> list[str]:
        """Return the peers of stream sockets that the import has left open.

        Not of datagram sockets, which can be shared, and not of pairs, which have no name.
        """
        fds = [fd for fd in sorted(descriptors.open_fds()) if identity(fd) != self._fds.get(fd)]
        return list(dict.fromkeys(peer for fd in fds if (peer := _peer(fd))))

    def native_threads(self) -> list[str]:
        """Return the threads that no child will have, by name or library; Python's excepted.

        Not those of OpenBLAS, which starts its own anew after a fork.
        """
        names = [name for tid in _tasks() if tid not in self._tasks and (name := _comm(tid))]
        own = ("python", "python3", *map(program.process_name, ("", "zygote")), _comm(os.getpid()))
        found = [name for name in names if name not in own]
        unnamed = len(names) - len(found)
        if unnamed:
            libraries = _mapped((*_POOLS_OF_THREADS, "openblas"))
            if libraries != ["openblas"]:
                of = " or ".join(libraries)
                found += [f"one of {of}" if of else "one without a name"] * unnamed
        return found

    # -- repairs: each returns whether there was something to do --------------------

    def _regroup(self) -> bool:
        if os.getpgrp() == self._group:
            return False
        try:
            os.setpgid(0, self._group)
        except OSError:  # told by has_left_group
            pass
        return True

    @property
    def has_left_group(self) -> bool:
        """Whether the process has left its process group for good."""
        return os.getpgrp() != self._group

    @property
    def has_other_pids(self) -> bool:
        """Whether what it forks has numbers of its own: nobody here would know them."""
        theirs = "/proc/self/ns/pid_for_children"
        try:
            return os.readlink(theirs) != os.readlink("/proc/self/ns/pid")
        except OSError:  # nothing is forked there yet, or the kernel has no such namespaces
            return os.path.lexists(theirs)

    def _recurse(self) -> bool:
        if sys.getrecursionlimit() >= self._limit:
            return False
        sys.setrecursionlimit(self._limit)
        return True

    def _find_again(self) -> bool:
        changed = False
        for name, had in self._finders.items():
            there = getattr(sys, name, None)
            if not isinstance(there, list):
                there = []
                setattr(sys, name, there)
            missing = [each for each in had if each not in there]
            there += missing
            changed = changed or bool(missing)
        return changed


def keep_modules() -> None:
    """Give graced's modules copies of their own of what user code may patch; again, to new ones."""
    if not _copies:
        for name in _PATCHED:
            if name in sys.modules:
                original = sys.modules[name]
                copy = ModuleType(name)
                copy.__dict__.update(vars(original))
                _copies[id(original)] = copy
    late = sys.modules.get("socket")
    if late is not None and id(late) not in _copies and late.socket.__module__ != "socket":
        _copies[id(late)] = _load_socket_anew(late)
    for name, module in list(sys.modules.items()):
        if name.startswith("graced."):
            mine = vars(module)
            for key in [key for key, value in mine.items() if id(value) in _copies]:
                mine[key] = _copies[id(mine[key])]


def _load_socket_anew(patched: Any) -> ModuleType:
    """Return the socket module as it was before it was patched: its functions call each other."""
    copy = ModuleType("socket")
    below = sys.modules["_socket"]
    sys.modules["_socket"] = _copies.get(id(below), below)
    sys.modules["socket"] = copy  # enums are put where this says
    try:
        patched.__spec__.loader.exec_module(copy)
    finally:
        sys.modules["socket"] = patched
        sys.modules["_socket"] = below
    return copy


def _is_pythons(finder: Any) -> bool:
    """Return whether it finds Python's own modules, or graced's; others may come and go."""
    if isinstance(finder, str):
        return finder == _HOME or (finder.startswith(_LIBRARY) and "-packages" not in finder)
    return getattr(finder, "__module__", "").startswith(("_frozen_importlib", "zipimport"))


def _forget_wakeup() -> bool:
    return signal.set_wakeup_fd(-1) != -1


def _stop_timers() -> bool:
    left = [signal.setitimer(timer, 0)[0] for timer in _TIMERS]
    return any(left)


def _fill_streams() -> bool:
    """Let no other file get the number of a standard stream."""
    closed = [fd for fd in (0, 1, 2) if identity(fd) is None]
    for fd in closed:
        null = os.open("/dev/null", os.O_RDWR)
        if null != fd:
            os.dup2(null, fd)
            os.close(null)
        os.set_inheritable(fd, True)
    return bool(closed)


# Descriptors and threads


def _peer(fd: int) -> str | None:
    """Return the address that a stream socket is connected to; None without one."""
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return None
    except OSError:
        return None
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(None)  # else looking at it would make it non-blocking
    try:
        sock = socket.socket(fileno=fd)
        try:
            if sock.type == socket.SOCK_DGRAM:
                return None
            return _shown(sock.getpeername())
        finally:
            sock.detach()
    except OSError:  # listening, or not connected
        return None
    finally:
        socket.setdefaulttimeout(timeout)


def _shown(peer: Any) -> str:
    match peer:
        case bytes():  # in the abstract namespace
            return peer.decode("utf-8", "backslashreplace").replace("\0", "@", 1)
        case (str(host), int(port), *_):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        case _:
            return str(peer)


def _tasks() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/task")]
    except OSError:
        return []


def _comm(tid: int) -> str:
    try:
        with _open(f"/proc/self/task/{tid}/comm", encoding="utf-8", errors="replace") as comm:
            return comm.read().rstrip("\n")
    except OSError:  # ended meanwhile
        return ""


def _mapped(libraries: Iterable[str]) -> list[str]:
    """Return which of these libraries the process has loaded."""
    try:
        with _open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            files = {line.rpartition("/")[2] for line in maps if "/" in line}
    except OSError:
        return []
    return [name for name in libraries if any(name in file for file in files)]


# The environment


def set_environment(env: Mapping[str, str]) -> None:
    """Set variables, also for libraries that have read them when the process began."""
    os.environ.update(env)
    if "TZ" in env:
        time.tzset()
    if any(name in env for name in _OF_LOCALE):
        import locale

        try:
            locale.setlocale(locale.LC_CTYPE, "")
        except locale.Error:  # it is not installed here
            pass


def without_effect(env: Mapping[str, str]) -> list[str]:
    """Return which variables come too late for a process that is forked and not started anew."""
    return [n for n in env if n.startswith(_READ_AT_START) and n not in _READ_LATER]
