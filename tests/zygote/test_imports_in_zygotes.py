"""What an import does to the interpreter: put right, told, or refused with the reason."""

from __future__ import annotations

import os
import signal
import socket
import textwrap
from pathlib import Path

import pytest
from test_zygote import IDLE
from zygote_harness import ChannelClosed, ZygoteHarness, until

from graced.exitcodes import CUT_OFF
from graced.host.scoreboard import ExitKind


def fork(harness: ZygoteHarness, deed: str, **pool: object) -> tuple[object, ...]:
    return harness.fork(textwrap.dedent(deed) + IDLE, **pool)


def works(harness: ZygoteHarness) -> None:
    """Let workers be born, in place of others too, drain, and be all that is left."""
    for _ in range(2):
        children = [child.ready() for child in harness.spawn(2)]
        for child in children:
            child.send(signal.SIGTERM)
            assert child.ended().status == 0
            assert child.record.left == ExitKind.DRAINED


HARMLESS = {
    "no-folders": "sys.path += [None, 3, b'/nowhere']",
    "sigchld-ignored": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "sigchld-reaped": """
        def reap(*_):
            try:
                while os.waitpid(-1, os.WNOHANG)[0]: pass
            except ChildProcessError: pass
        signal.signal(signal.SIGCHLD, reap)
        """,
    "sigchld-ignored-by-a-fork-handler": """
        def ignore(): signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        os.register_at_fork(before=ignore, after_in_child=ignore)
        """,
    "handlers": """
        def leave(*_): os._exit(9)
        for number in range(1, signal.NSIG):
            try: signal.signal(number, leave)
            except (OSError, ValueError): pass
        """,
    "defaults": """
        for number in range(1, signal.NSIG):
            try: signal.signal(number, signal.SIG_DFL)
            except (OSError, ValueError): pass
        """,
    "mask": "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))",
    "wakeup": """
        a, b = os.pipe(); os.set_blocking(b, False); signal.set_wakeup_fd(b)
        """,
    "timers": """
        for number in (signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF):
            signal.signal(number, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.01, 0.01)
        signal.setitimer(signal.ITIMER_PROF, 0.01, 0.01)
        """,
    "faulthandler": """
        import faulthandler
        faulthandler.register(signal.SIGTERM); faulthandler.register(signal.SIGQUIT)
        faulthandler.enable()
        """,
    "select": """
        import select
        class Patched:
            def __init__(self, *_): raise RuntimeError("patched")
        del select.epoll
        select.poll = select.select = Patched
        """,
    "os": """
        def patched(*_, **__): raise RuntimeError("patched")
        kept = os.write
        for name in ("fork", "waitpid", "waitid", "read", "write", "close", "getpid", "getppid",
                     "kill", "killpg", "pipe2", "dup", "dup2", "open", "setpgid", "_exit", "lseek"):
            setattr(os, name, patched)
        def say(*words): kept(int(os.environ["SAY"]), (" ".join(map(str, words)) + "\\n").encode())
        """,
    "signal-and-time": """
        def patched(*_, **__): raise RuntimeError("patched")
        for name in ("signal", "set_wakeup_fd", "getsignal", "setitimer", "pthread_sigmask"):
            setattr(signal, name, patched)
        for name in ("time", "monotonic", "monotonic_ns", "sleep"): setattr(time, name, patched)
        """,
    "socket": """
        import _socket, socket
        def patched(*_, **__): raise RuntimeError("patched")
        socket.socket = socket.socketpair = _socket.socketpair = patched
        """,
    "thread": """
        import _thread, threading
        def patched(*_, **__): raise RuntimeError("patched")
        _thread._count = _thread.start_new_thread = patched
        threading.Lock = threading.RLock = patched
        """,
    "streams": """
        class Broken:
            def write(self, text): raise RuntimeError("patched")
            flush = write
        sys.stdout = Broken(); sys.stderr = None; del sys.stdin
        """,
    "streams-closed": "sys.stdout = sys.stderr = open(os.devnull); sys.stdout.close()",
    "logging": """
        import logging
        class Broken(logging.Handler):
            def flush(self): raise RuntimeError("patched")
        handler = Broken()
        """,
    "streams-gone": "del sys.stdout, sys.stderr",
    "standard-fds-closed": "os.close(0); os.close(1); os.close(2)",
    "hooks": """
        def patched(*_, **__): raise RuntimeError("patched")
        sys.excepthook = sys.unraisablehook = patched
        """,
    "trace": """
        def trace(frame, event, arg):
            if "/graced/zygote/" in frame.f_code.co_filename and os.getpid() == pid:
                raise RuntimeError("traced")
            return trace
        pid = os.getpid()
        sys.settrace(trace)
        """,
    "profile": """
        def profile(frame, event, arg):
            if "/graced/zygote/" in frame.f_code.co_filename and os.getpid() == pid:
                raise RuntimeError("profiled")
        pid = os.getpid()
        sys.setprofile(profile)
        """,
    "gc": "import gc; gc.disable(); gc.set_threshold(1); gc.freeze()",
    "cwd": "import tempfile; d = tempfile.mkdtemp(); os.chdir(d); os.rmdir(d)",
    "umask": "os.umask(0o777)",
    "recursion": """
        for limit in range(20, 1000):
            try: sys.setrecursionlimit(limit)
            except RecursionError: pass
            else: break
        """,
    "default-timeout": "import socket; socket.setdefaulttimeout(0.000001)",
    "default-nonblocking": "import socket; socket.setdefaulttimeout(0)",
    "path": "sys.path[:] = []; sys.meta_path.clear(); sys.path_hooks.clear()",
    "path-none": "sys.path = sys.meta_path = None",
    "locale": "import locale; locale.setlocale(locale.LC_ALL, 'C')",
    "switch-interval": "sys.setswitchinterval(100)",
    "descriptors": "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))",
    "environ": "say_fd = os.environ['SAY']; os.environ.clear(); os.environ['SAY'] = say_fd",
    "atexit": "import atexit; atexit.register(lambda: os._exit(9))",
    "subreaper": "import ctypes; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)",
    "death-signal": "import ctypes; ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)",
    "group": """
        import subprocess
        with subprocess.Popen(["sleep", "600"], process_group=0) as other:
            try: os.setpgid(0, other.pid)
            except PermissionError: pass  # it leads a session
            other.kill()
        """,
    "sessions-of-children": """
        def leave():
            try: os.setsid()
            except PermissionError: pass
        os.register_at_fork(after_in_child=leave)
        """,
    "builtins": """
        import builtins
        def patched(*_, **__): raise RuntimeError("patched")
        builtins.open = builtins.print = patched
        """,
    "warnings": "import warnings; warnings.simplefilter('error')",
    "child-left": "os.spawnlp(os.P_NOWAIT, 'true', 'true')",
}


@pytest.mark.parametrize("deed", HARMLESS.values(), ids=HARMLESS)
def test_a_zygote_goes_on_after_an_import_that(harness: ZygoteHarness, deed: str) -> None:
    assert fork(harness, deed) == ("imported",)
    works(harness)


def test_no_traceback_is_written_later_for_an_import(harness: ZygoteHarness) -> None:
    deed = "import faulthandler; faulthandler.dump_traceback_later(600, exit=True)"
    assert fork(harness, deed) == ("imported",)
    tasks = f"/proc/{harness.zygote}/task"
    until(lambda: len(os.listdir(tasks)) == 1, "no thread is left")
    works(harness)


def test_gevent_may_patch_all(harness: ZygoteHarness) -> None:
    pytest.importorskip("gevent")
    deed = """
    from gevent import monkey
    monkey.patch_all()
    import gevent
    gevent.spawn(say, "greenlet"); gevent.sleep(0)
    """
    assert fork(harness, deed) == ("imported",)
    works(harness)
    harness.feed.take()
    assert "greenlet" in harness.feed.lines


def test_what_was_put_right_is_told(harness: ZygoteHarness) -> None:
    fork(
        harness,
        """
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signal.alarm(1000)
        sys.setrecursionlimit(100)
        """,
    )
    assert (
        "the import has changed the handling of SIGCHLD, a timer, the recursion limit: put back"
        in harness.log()
    )


def test_an_import_that_changes_nothing_is_not_told_of(harness: ZygoteHarness) -> None:
    fork(harness, "import json, socket, threading, logging, subprocess")
    works(harness)
    assert harness.log() == ""


def test_what_is_the_workers_own_is_left_to_them(harness: ZygoteHarness) -> None:
    code = """
    import gc, socket
    gc.disable(); os.chdir("/usr"); os.umask(0o27); socket.setdefaulttimeout(7.5)
    signal.signal(signal.SIGALRM, lambda *_: None); sys.setrecursionlimit(5000)
    def trace(*_): pass
    sys.settrace(trace)
    class W(Worker):
        def setup(self):
            say(gc.isenabled(), os.getcwd(), os.umask(0), socket.getdefaulttimeout(),
                signal.getsignal(signal.SIGALRM) == signal.SIG_DFL, sys.getrecursionlimit(),
                sys.gettrace() is trace)
        def step(self): self.wait(None)
    """
    harness.worker(code).ready()
    harness.feed.wait("False /usr 23 7.5 False 5000 True")


REFUSED = {
    "os.closerange(3, 4096)": None,
    "for fd in range(3, 400):\n"
    "    if 'graced-stacks' in os.path.realpath(f'/proc/self/fd/{fd}'): os.close(fd)": "has closed",
    "null = os.open('/dev/null', os.O_RDWR)\n"
    "for fd in range(3, 400):\n"
    "    if fd != null and os.path.exists(f'/proc/self/fd/{fd}'): os.dup2(null, fd)": None,
    "sys.exit(3)": "called sys.exit(3)",
    "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))": (
        "the zygote cannot go on after the import: OSError: [Errno 24] Too many open files"
    ),
}


@pytest.mark.parametrize(("deed", "reason"), REFUSED.items(), ids=range(len(REFUSED)))
def test_what_cannot_be_put_right_is_refused(
    harness: ZygoteHarness, capfd: pytest.CaptureFixture[str], deed: str, reason: str | None
) -> None:
    if reason is not None:
        kind, text = fork(harness, deed)
        assert kind == "failed"
        assert reason in str(text)
        return
    with pytest.raises(ChannelClosed):
        fork(harness, deed)
    assert harness.zygote_ended().status == CUT_OFF
    said = capfd.readouterr().err
    assert "graced: the import has closed descriptors of graced's, or put others in" in said


def test_a_child_that_comes_back_from_the_import_is_ended(harness: ZygoteHarness) -> None:
    deed = """
    r, w = os.pipe()
    if os.fork() == 0:
        os.close(r)
    else:
        os.close(w); os.read(r, 1); os.wait()
    """
    assert fork(harness, deed) == ("imported",)
    assert "the import has forked, and the child came back from it; it is ended" in harness.log()
    works(harness)


def test_a_daemon_made_in_the_import_is_no_zygote(harness: ZygoteHarness) -> None:
    with pytest.raises(ChannelClosed):
        fork(harness, "if os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)")
    assert "the import has forked" in harness.log()


def test_other_process_numbers_are_refused(harness: ZygoteHarness) -> None:
    deed = """
    import ctypes
    flags = 0x20000000 if os.geteuid() == 0 else 0x30000000  # of a user's own with it
    if ctypes.CDLL(None).unshare(flags): raise OSError("unshare")
    """
    failed, reason = fork(harness, deed)
    if "unshare" in str(reason) and "OSError" in str(reason):
        pytest.skip("no namespaces here")
    assert failed == "failed"
    assert "the import has begun another PID namespace" in str(reason)


def test_of_an_endless_reason_the_beginning_is_told(harness: ZygoteHarness) -> None:
    failed, reason = fork(harness, "raise ValueError('it is this: ' + 'x' * 1_000_000)")
    assert failed == "failed"
    assert "ValueError: it is this: xxx" in str(reason)


# The environment


def test_a_time_zone_and_a_locale_are_set_in_time(harness: ZygoteHarness) -> None:
    code = """
    import locale
    say("import", *time.tzname, time.timezone, locale.setlocale(locale.LC_CTYPE))
    class W(Worker):
        def setup(self): say("setup", *time.tzname, locale.setlocale(locale.LC_CTYPE))
        def step(self): self.wait(None)
    """
    env = {"TZ": "ABC-5:45", "LC_ALL": "C"}
    harness.worker(code, env=env).ready()
    harness.feed.wait("import ABC ABC -20700 C")
    harness.feed.wait("setup ABC ABC C")
    assert harness.log() == ""


def test_a_locale_that_is_not_there_is_none(harness: ZygoteHarness) -> None:
    harness.worker(IDLE, env={"LANG": "xx_YY", "LC_ALL": "xx_YY"}).ready()


def test_variables_that_come_too_late_are_told(harness: ZygoteHarness) -> None:
    env = {"PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "2", "LD_PRELOAD": "", "OMP_NUM_THREADS": "1"}
    assert harness.fork(IDLE, env=env) == ("imported",)
    assert (
        "pools.jobs.env: PYTHONHASHSEED, MALLOC_ARENA_MAX, LD_PRELOAD: read when a program starts"
        in harness.log()
    )


def test_variables_for_what_commands_start_are_not_too_late(harness: ZygoteHarness) -> None:
    env = {"PYTHONUNBUFFERED": "1"}
    assert harness.fork("", worker="graced.workers:Command", env=env) == ("imported",)
    assert harness.log() == ""


# Connections


def test_connections_that_all_would_share_are_told(harness: ZygoteHarness, tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as tcp6,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
    ):
        place = os.path.relpath(tmp_path / "s")
        unix.bind(place)
        unix.listen()
        datagrams.bind(place + "d")
        port, port6 = tcp.getsockname()[1], tcp6.getsockname()[1]
        deed = f"""
        import socket
        kept = [socket.create_connection(("127.0.0.1", {port})) for _ in range(2)]
        socket.setdefaulttimeout(3)
        kept += [socket.create_connection(("::1", {port6}))]
        kept += [socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)]
        kept[3].connect({place!r}); kept[4].connect({place + "d"!r})
        kept += socket.socketpair()
        kept += [socket.create_server(("127.0.0.1", 0)), socket.socket()]
        closed = socket.create_connection(("127.0.0.1", {port})); closed.close()
        say("blocking", os.get_blocking(kept[0].fileno()))
        """
        assert fork(harness, deed) == ("imported",)
    harness.feed.wait("blocking True")
    told = [line.partition("the import ")[2] for line in harness.log().splitlines()]
    end = "open, which all workers would share; open it in setup()"
    assert told == [
        f"left a connection to {peer} {end}"
        for peer in (f"127.0.0.1:{port}", f"[::1]:{port6}", place)
    ]


# Threads


NATIVE = """
import ctypes
libc = ctypes.CDLL(None)
def start(name=None):
    before = set(os.listdir("/proc/self/task"))
    libc.pthread_create(ctypes.byref(ctypes.c_ulong()), None, libc.pause, None)
    tid, = set(os.listdir("/proc/self/task")) - before
    if name:
        with open(f"/proc/self/task/{tid}/comm", "w") as comm: comm.write(name)
def load(name):
    import mmap
    file = open(name, "w+b"); file.write(b"x"); file.flush()
    return mmap.mmap(file.fileno(), 1)
"""


@pytest.mark.parametrize(
    ("deed", "told"),
    [
        ("start()", "1 native threads (one without a name)"),
        ("start('rdk:main'); start()", "2 native threads (rdk:main, one without a name)"),
        ("a = load('{}/libscipy_openblas64-1.so'); start(); start()", None),
        ("a = load('{}/libgomp-1.so.1.0.0'); start()", "1 native threads (one of libgomp)"),
        ("a = load('{}/libopenblas.so'); start('grpc_global_tim')", "(grpc_global_tim)"),
    ],
)
def test_native_threads_are_told_where_they_are_missed(
    harness: ZygoteHarness, tmp_path: Path, deed: str, told: str | None
) -> None:
    assert fork(harness, NATIVE + deed.format(tmp_path)) == ("imported",)
    if told is None:
        assert harness.log() == ""
    else:
        assert told in harness.log()


def test_refused_threads_are_told_with_class_and_target(harness: ZygoteHarness) -> None:
    deed = """
    import functools, threading
    class Sender(threading.Thread):
        def run(self): threading.Event().wait()
    def poll(_): threading.Event().wait()
    Sender(daemon=True, name="Thread-1").start()
    threading.Thread(target=functools.partial(poll, 1), daemon=True, name="Thread-2").start()
    timer = threading.Timer(600, poll); timer.daemon = True; timer.name = "Thread-3"; timer.start()
    """
    kind, text = fork(harness, deed)
    assert kind == "failed"
    assert (
        "started threads (Thread-1: users.Sender, Thread-2: runs users.poll,"
        " Thread-3: runs users.poll)"
    ) in str(text)
