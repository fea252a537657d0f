"""Finds the user's class, and says in one line why it can't be had.

Modules under a pool's own `path` are compiled anew each time: a .pyc is told from a
stale one by time in seconds and by size, so an edit within the second it was
written would go unnoticed, and a reload would run old code. What lies in a
`site-packages` there is left to the usual cache: package managers write it.
"""

from __future__ import annotations

import importlib.machinery as machinery
import os
import sys

from graced import settings
from graced.host.interpreter import without_effect
from graced.text import in_one_line
from graced.workers.context import LoadError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from threading import Thread
    from types import TracebackType
    from typing import Any

    from graced.host.interpreter import Before
    from graced.workers.base import Worker

    Call = Callable[..., Any]

_LATER = 0x20 | 0x80 | 0x200  # co_flags of generators, coroutines and both at once
_COROUTINE = 0x80
_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARY = os.path.dirname(os.__file__) + os.sep
_PACKAGES = ("site-packages", "dist-packages")


def plainly(call: Call, *args: Any) -> Any:
    """Call user code without further ado; a worker passes its own way of doing it."""
    return call(*args)


def load_class(pool: settings.Pool, call: Call = plainly) -> type[Worker]:
    """Import the pool's class; LoadError with the original exception as its cause."""
    use_path(pool.path)
    module_name, _, class_name = pool.worker.partition(":")
    try:
        call(__import__, module_name)
        found = _attribute(sys.modules[module_name], class_name, call)
    except LoadError:
        raise
    except BaseException as error:  # user code may raise anything
        from graced.workers.runtime import WorkerInterrupt

        if isinstance(error, WorkerInterrupt) and call is not plainly:
            raise
        raise LoadError(_why(error, pool)) from error
    cls = checked_class(found, module_name, class_name)
    if pool.scheduled and not cls._takes_jobs:
        raise LoadError(takes_no_jobs(pool))
    if pool.concurrency > 1 and not cls._is_concurrent:
        raise LoadError(
            f"{pool.worker} does one job at a time, and concurrency is {pool.concurrency};"
            " make it a graced.AsyncJobWorker, or write more workers"
        )
    return cls


def takes_no_jobs(pool: settings.Pool) -> str:
    """Return why a pool without a queue can't be the one of a schedule."""
    return (
        f"{pool.worker} takes no jobs, so pool {pool.name} has no queue for schedule"
        f" {pool.scheduled[0]}; make it a JobWorker, or name another pool in the schedule"
    )


def _attribute(module: object, dotted: str, call: Call) -> object:
    """Look a class up; a module's `__getattr__` (PEP 562) is user code like the import itself."""
    for name in dotted.split("."):
        try:
            module = call(getattr, module, name)
        except AttributeError as error:
            if error.obj is module and error.name == name:  # else something else was missed
                raise LoadError(_no_such_class(module, dotted)) from None
            raise
    return module


def _no_such_class(module: object, name: str) -> str:
    from difflib import get_close_matches

    owner = getattr(module, "__name__", str(module))
    own = getattr(module, "__dict__", {})
    classes = [n for n, value in own.items() if isinstance(value, type)]
    close = get_close_matches(name, classes, 1)
    folders = getattr(module, "__path__", ())  # a part that may not be entered is an empty one
    hint = f"; did you mean {close[0]!r}?" if close else _closed_to_us(folders)
    return f"module {owner!r} has no class {name!r}{hint}"


def checked_class(found: object, module_name: str, class_name: str) -> type[Worker]:
    """Return a class that can be a worker's; LoadError if it can't."""
    from graced.workers.base import Worker

    where = f"{module_name}:{class_name}"
    if not isinstance(found, type):
        raise LoadError(f"{where} is not a class but {type(found).__name__}")
    if not issubclass(found, Worker):
        raise LoadError(f"{where} is not a subclass of graced.Worker")
    missing = _missing(found)
    if missing is not None:
        name = missing.partition("(")[0]
        raise LoadError(f"{where} has no {name}(), so it has nothing to do; define {missing}")
    for name in _called(found):
        wrong = _wrong_kind(found, name)
        if wrong is not None:
            raise LoadError(f"{where}: {name}() {wrong}")
    taken = _taken(found)
    if taken is not None:
        raise LoadError(f"{where}: graced has a {taken} of its own; rename yours")
    return found


def _called(cls: type[Worker]) -> tuple[str, ...]:
    """Return the methods that graced calls; others are the user's, whatever their names."""
    from graced.workers.base import Worker

    own_loop = cls.run is not Worker.run
    return "setup", "teardown", "run" if own_loop else cls._asks_for.partition("(")[0]


def _taken(cls: type[Worker]) -> str | None:
    """Return a private name of graced's that a class has put something else at; None: none."""
    ours: set[str] = set()
    for base in reversed(cls.__mro__):
        names = {n for n in vars(base) if n[:1] == "_" and n[:2] != "__"}
        if base.__module__.partition(".")[0] == "graced":
            ours |= names
        elif names & ours:
            return min(names & ours)
    return None


def _wrong_kind(cls: type[Worker], name: str) -> str | None:
    """Return what is wrong with a method that is a coroutine function, or is none; None: nothing.

    Calling it would only make a coroutine or a generator, and run nothing.
    """
    method = getattr(cls, name, None)
    code = getattr(method, "__code__", None)
    if code is None or hasattr(method, "__wrapped__"):  # a decorator has made what it likes
        return None
    later = code.co_flags & _LATER
    if cls._is_async:
        if later == _COROUTINE:
            return None
        plain = "graced.JobWorker" if cls._takes_jobs else "graced.Worker"
        return f"is no coroutine function; write async def {name}, or make it a {plain}"
    if not later:
        return None
    told = (
        "is a coroutine or a generator, whose code would never run;"
        " make it a plain function, which may call asyncio.run()"
    )
    if later == _COROUTINE and cls._async_class:
        told += f", or {cls.__name__} a {cls._async_class}"
    return told


def _missing(cls: type[Worker]) -> str | None:
    """Return what is called in every round and only there as a placeholder; None: nothing."""
    from graced.workers.base import Worker

    if cls.run is not Worker.run:
        return None
    home = next(base for base in cls.__mro__ if "_asks_for" in vars(base))
    name = cls._asks_for.partition("(")[0]
    return cls._asks_for if getattr(cls, name) is getattr(home, name) else None


# Where others will be forked


class ForkedInImport(LoadError):
    """The import has forked, and this is the child."""


def preload(pool: settings.Pool, before: Before) -> tuple[type[Worker], list[str]]:
    """Import the pool's class where workers will be forked; return it, and what to warn of.

    What the import has done to the process is put right. LoadError if that can't be, too.
    """
    try:
        found = load_class(pool)
    finally:
        before.pause_tracing()
        if before.has_forked:
            raise ForkedInImport(_FORKED) from None
        if lost := before.lost_fds():
            raise LoadError(_LOST.format(", ".join(map(str, lost)))) from None
    warnings = []
    if changed := before.put_right():
        warnings.append(_CHANGED.format(", ".join(changed)))
    if before.has_left_group:
        raise LoadError(_LEFT_GROUP)
    if before.has_other_pids:
        raise LoadError(_OTHER_PIDS)
    if before.has_threads:
        named = ", ".join(map(_described, _threads())) or "(without a name)"
        raise LoadError(_THREADS.format(named))
    if native := before.native_threads():
        warnings.append(_NATIVE.format(len(native), ", ".join(dict.fromkeys(native))))
    warnings += [_CONNECTION.format(peer) for peer in before.connections()]
    return found, warnings


_FORKED = (
    "the import has forked, and the child came back from it; it is ended:"
    " don't make a daemon of what graced starts, and let a child end with os._exit()"
)
_LOST = (
    "the import has closed descriptors of graced's, or put others in their place ({});"
    " let it close only what it has opened, or set preload: false"
)
_CHANGED = (
    "the import has changed {}: put back, as it has to be where workers are forked;"
    " what workers need of it belongs in setup()"
)
_LEFT_GROUP = (
    "the import has left the process group that graced gave it;"
    " start what needs one of its own as a subprocess, or set preload: false"
)
_OTHER_PIDS = (
    "the import has begun another PID namespace, in which graced would not know its workers;"
    " use unshare() in setup(), or in a subprocess"
)
_THREADS = (
    "the import started threads ({}), and a fork would copy the locks"
    " they hold; start them in setup(), or set preload: false"
)
_NATIVE = (
    "the import started {} native threads ({}), which no worker will have;"
    " if workers hang, set preload: false"
)
_CONNECTION = (
    "the import left a connection to {} open, which all workers would share; open it in setup()"
)


def _threads() -> list[Thread]:
    threading = sys.modules.get("threading")
    if threading is None:
        return []
    return [t for t in threading.enumerate() if t is not threading.main_thread()]


def _described(thread: Thread) -> str:
    """Return a thread's name, and what tells where it comes from: its class and what it runs."""
    kind = type(thread)
    told = [] if kind.__module__ == "threading" else [f"{kind.__module__}.{kind.__qualname__}"]
    runs = getattr(thread, "_target", None) or getattr(thread, "function", None)
    if runs is not None:
        runs = getattr(runs, "func", runs)  # of a functools.partial
        module = getattr(runs, "__module__", None) or type(runs).__module__
        told.append(f"runs {module}.{getattr(runs, '__qualname__', type(runs).__qualname__)}")
    return f"{thread.name}: {', '.join(told)}" if told else thread.name


def late_variables(pool: settings.Pool) -> str | None:
    """Return in a line which variables of `env` come too late for workers; None if none does.

    Those of :mod:`graced.workers` hand them on to what they start, which is what they are for.
    """
    late = without_effect(pool.env)
    if not late or pool.worker.startswith("graced.workers:"):
        return None
    return (
        f"pools.{pool.name}.env: {', '.join(late)}: read when a program starts, and workers are"
        " forked: no effect on them, only on what they start;"
        " set it for graced itself (Environment= in its unit)"
    )


# Why not


def _why(error: BaseException, pool: settings.Pool) -> str:
    what = _said(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        parts = error.name.split(".")
        roots = pool.path or [entry for entry in sys.path if isinstance(entry, str)]
        what += _closed_to_us(
            os.path.join(root, *parts[:depth]) for root in roots for depth in range(len(parts) + 1)
        )
    place = _place(error, pool)
    if place is None and isinstance(error, PermissionError):
        what += f"; let user {_who()} read it"
    if place is None:
        looked = ", ".join(pool.path) or "sys.path"
        return f"cannot import {pool.worker!r}: {what}; looked in {looked}"
    return f"{place}: {what}"


def _closed_to_us(folders: Iterable[str]) -> str:
    """Return which folders on these ways may not be entered: what is there is just not found."""
    found = [barred for folder in folders if (barred := _barred(folder)) is not None]
    if not found:
        return ""
    return f"; user {_who()} may not enter {', '.join(dict.fromkeys(found))}: permission denied"


def _who() -> str:
    from pwd import getpwuid

    try:
        return getpwuid(os.geteuid()).pw_name
    except KeyError:  # such as a container's
        return str(os.geteuid())


def _barred(folder: str) -> str | None:
    """Return the folder on the way to this one, or it, that may not be entered or read."""
    try:
        os.stat(os.path.join(folder, "."))
        os.scandir(folder).close()
    except PermissionError:
        parent = os.path.dirname(folder)
        return folder if parent == folder else _barred(parent) or folder
    except OSError:  # there is none
        return None
    return None


def _said(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"called sys.exit({error.code!r}) during the import"
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    return in_one_line(error)


def _place(error: BaseException, pool: settings.Pool) -> str | None:
    """Return file and line of the deepest frame in user code."""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        return f"{_short(error.filename, pool)}:{error.lineno}"
    frames = _frames(error.__traceback__)
    own = [frame for frame in frames if not _is_library(frame[0])]
    for filename, line in reversed(own or frames):
        return f"{_short(filename, pool)}:{line}"
    return None


def _frames(traceback: TracebackType | None) -> list[tuple[str, int]]:
    """Return file and line of each frame that is neither graced's nor the import system's."""
    frames = []
    while traceback is not None:
        filename = traceback.tb_frame.f_code.co_filename
        if not filename.startswith(("<frozen", _HERE)):
            frames.append((filename, traceback.tb_lineno))
        traceback = traceback.tb_next
    return frames


def _is_library(filename: str) -> bool:
    return filename.startswith(_LIBRARY) or any(f"/{name}/" in filename for name in _PACKAGES)


def _short(filename: str, pool: settings.Pool) -> str:
    for root in pool.path:
        if filename.startswith(root.rstrip("/") + "/"):
            return os.path.relpath(filename, root)
    return filename


# Where modules come from


def use_path(path: tuple[str, ...]) -> None:
    """Put the pool's `path` before sys.path, its modules compiled anew each time."""
    missing = [root for root in path if root not in sys.path[: len(path)]]
    if not missing:
        return
    sys.path[:0] = path
    roots = tuple(root.rstrip("/") for root in path)
    sys.path_hooks.insert(0, _hook(roots))
    for known in list(sys.path_importer_cache):
        if _is_under(known, roots):
            del sys.path_importer_cache[known]


def _is_under(directory: str, roots: tuple[str, ...]) -> bool:
    inside = any(directory == root or directory.startswith(root + "/") for root in roots)
    return inside and not any(name in directory.split("/") for name in _PACKAGES)


def _hook(roots: tuple[str, ...]) -> Callable[[str], Any]:
    def find_in(directory: str) -> Any:
        if not _is_under(directory, roots) or not os.path.isdir(directory):
            raise ImportError(f"{directory} is not in a pool's path")
        return machinery.FileFinder(
            directory,
            (machinery.ExtensionFileLoader, machinery.EXTENSION_SUFFIXES),
            (_FreshLoader, machinery.SOURCE_SUFFIXES),
            (machinery.SourcelessFileLoader, machinery.BYTECODE_SUFFIXES),
        )

    return find_in


class _FreshLoader(machinery.SourceFileLoader):
    """Neither reads nor writes a .pyc."""

    def path_stats(self, path: str) -> Any:
        """Say that there is nothing to compare a .pyc with, as a loader may."""
        raise OSError(f"{path}: compiled anew each time")
