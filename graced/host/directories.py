"""The daemon's folders: which they are, and whose the runtime directory is.

One daemon at a time has a runtime directory: it holds a lock on a file in it, which
the kernel frees when the process dies. A sweeper may remove the folder, and the lock with
it; so the daemon also holds a name that is in no folder (an abstract socket, unix(7)).
Children must close both descriptors.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator, Mapping
from errno import EADDRINUSE, EEXIST, EPERM

from graced import program
from graced.exitcodes import ALREADY_RUNNING, CONFIG, ReportedError
from graced.host import safepaths, unixsocket

SOCKET = "control.sock"
LOCK = "lock"
NO_PID_FILE = "is there, and no PID file"
NAME_RELEASE_TIMEOUT_S = 0.5  # seconds in which a daemon that dies has let go of its name, too


class AlreadyRunning(Exception):
    """Another daemon has this runtime directory."""

    exit_code = ALREADY_RUNNING

    def __init__(self, path: str, pid: int | None, *, swept: bool = False) -> None:
        self.path = path
        self.pid = pid
        who = f"another {program.name}" if pid is None else f"pid {pid}"
        remedy = f"stop that one with '{program.name} stop'"
        if swept:
            who += ", whose files here were removed"
            remedy = "send that one SIGHUP, and it makes them again"
        super().__init__(
            f"{path}: already running ({who}); {remedy},"
            " or give this one another name or runtime_dir"
        )


class DirectoryError(ReportedError):
    """A folder can't be made or used; the text says what to do."""

    exit_code = CONFIG


class NotForRoot(DirectoryError):
    """A folder is not root's alone, and root would have to use it."""


class RuntimeDir:
    """A runtime directory that is ours, from :meth:`take` to :meth:`close` or death."""

    def __init__(self, path: str, lock: int, name: socket.socket | None) -> None:
        self.path = path
        self.lock = lock  # close-on-exec; forked children close it
        self._name = name  # likewise; None: a process that is no daemon has it

    @classmethod
    def take(cls, path: str) -> RuntimeDir:
        """Make the folder at `path` if need be and lock it: AlreadyRunning or DirectoryError."""
        lock = _locked(path)
        try:
            taken = cls(path, lock, _named(path))
        except BaseException:  # unlocked, whatever it is; raised on
            os.close(lock)
            raise
        taken.sign()
        return taken

    def renew(self) -> bool:
        """Make and lock the folder again if it was swept away; False if it was not.

        Raises AlreadyRunning if another daemon has it by now, or DirectoryError.
        """
        if is_at(self.lock, os.path.join(self.path, LOCK)):
            return False
        lock = _locked(self.path)
        os.dup2(lock, self.lock, inheritable=False)
        os.close(lock)
        self.sign()
        return True

    @property
    def socket(self) -> str:
        """The path of the control socket."""
        return os.path.join(self.path, SOCKET)

    def sign(self) -> None:
        """Write this process's number into the lock: again after a fork that went on as daemon."""
        sign(self.lock)

    def close(self) -> None:
        """Let go of the lock. The file stays: to remove it would be a race with the next one."""
        os.close(self.lock)
        if self._name is not None:
            self._name.close()


def _locked(path: str) -> int:
    _make(path, 0o755, key="runtime_dir")
    try:
        return lock_file(os.path.join(path, LOCK))
    except LockHeldError as error:
        raise AlreadyRunning(path, error.pid) from None
    except OSError as error:
        raise DirectoryError(_cannot(path, error, "runtime_dir")) from error


def _named(path: str) -> socket.socket | None:
    """Return a socket that holds the daemon's name; AlreadyRunning if a daemon of ours has it.

    One of another user's process, which only keeps the daemon from it, is passed over.
    """
    name = _name(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    end = time.monotonic() + NAME_RELEASE_TIMEOUT_S
    while True:
        try:
            sock.bind(name)
            sock.listen(unixsocket.BACKLOG)
            return sock
        except OSError as error:
            if error.errno != EADDRINUSE:  # no such sockets here
                break
        pid, uid = _holder(name)
        if uid not in (0, os.geteuid()):
            break
        if time.monotonic() > end:
            sock.close()
            raise AlreadyRunning(path, pid or None, swept=True)
        time.sleep(0.01)
    sock.close()
    return None


def _holder(name: bytes) -> tuple[int, int]:
    """Return the process and user number of the process that holds a name."""
    caller = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        caller.setblocking(False)
        caller.connect(name)
        return unixsocket.peer(caller)[:2]
    except OSError:  # just gone, or asked so often that it can't be told: taken for ours
        return 0, os.geteuid()
    finally:
        caller.close()


def _name(path: str) -> bytes:
    """Return the name that goes with a folder, in this view of the file system alone."""
    from zlib import crc32

    try:
        view = os.readlink("/proc/self/ns/mnt")
    except OSError:  # no /proc
        view = ""
    root = os.stat("/")
    folder, base = os.path.split(os.path.normpath(path))
    if folder == os.environ.get("XDG_RUNTIME_DIR"):  # the user's own, see _private_paths()
        folder, base = "/tmp", f"{base}-{os.geteuid()}"
    whole = f"{view} {root.st_dev} {root.st_ino} {folder}/{base}"
    return f"\0graced-{base[:64]}-{crc32(whole.encode('utf-8', 'surrogateescape')):08x}".encode(
        "utf-8", "surrogateescape"
    )[: unixsocket.MAX_PATH_BYTES]


class LockHeldError(Exception):
    """Another process has the lock."""

    def __init__(self, pid: int | None) -> None:
        super().__init__(pid)
        self.pid = pid


def lock_file(file: str) -> int:
    """Return a descriptor that locks `file` while it, or a copy of it, is open.

    It is readable for its owner alone: what can open a file can hold a lock on it.
    Raises LockHeldError or OSError.
    """
    while True:
        fd = _open_lock(file)
        try:
            if not _is_pid_file(fd):
                raise FileExistsError(EEXIST, NO_PID_FILE, file)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_at(fd, file) and _is_private(fd, file):
                return fd
        except BlockingIOError:
            pid = _pid(fd)
            os.close(fd)
            raise LockHeldError(pid) from None
        except BaseException:  # unlocked, whatever it is; raised on
            os.close(fd)
            raise
        os.close(fd)  # removed in between: a lock on it would keep no process out


def _open_lock(file: str) -> int:
    flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    if os.geteuid() == 0:
        try:
            safepaths.demand_folder(file)
        except safepaths.UnsafeFolderError as error:
            raise PermissionError(EPERM, f"not locked by root: {error}", file) from None
    try:
        if stat.S_IFMT(os.lstat(file).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            raise FileExistsError(EEXIST, NO_PID_FILE, file)  # a device is not even opened
    except FileNotFoundError:
        pass
    try:
        return os.open(file, flags | os.O_RDWR | os.O_CREAT, 0o600)
    except PermissionError:  # root's, of a version that stayed root
        return os.open(file, flags | os.O_RDONLY)


def _is_pid_file(fd: int) -> bool:
    """Whether nothing is lost if this file is written over, and removed later."""
    regular = stat.S_ISREG(os.fstat(fd).st_mode)
    return regular and not os.pread(fd, 64, 0).strip(b"0123456789 \r\n\0")


def _is_private(lock: int, file: str) -> bool:
    """Whether no other user can open this lock; one of an older version makes way."""
    found = os.fstat(lock)
    if found.st_uid == os.geteuid() and not found.st_mode & 0o077:
        return True
    os.unlink(file)
    return False


def sign(lock: int) -> None:
    """Write this process's number into a lock file."""
    pid = f"{os.getpid()}\n".encode()
    os.pwrite(lock, pid, 0)
    os.ftruncate(lock, len(pid))


def is_at(fd: int, path: str) -> bool:
    """Return whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _pid(fd: int) -> int | None:
    text = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
    return int(text) if text.isascii() and text.isdigit() else None


class PidFile:
    """A file with the daemon's process number, locked while it lives: stale ones don't block."""

    def __init__(self, path: str) -> None:
        """Lock the file. Raises AlreadyRunning or DirectoryError."""
        self.path = path
        try:
            self.fd = lock_file(path)
        except LockHeldError as error:
            raise AlreadyRunning(path, error.pid) from None
        except OSError as error:
            why = NO_PID_FILE if isinstance(error, IsADirectoryError) else error.strerror
            raise DirectoryError(f"{path}: {why}; give another --pidfile") from error

    def __enter__(self) -> PidFile:
        sign(self.fd)
        return self

    def __exit__(self, *_error: object) -> None:
        try:
            if is_at(self.fd, self.path):  # else it is another's by now
                os.unlink(self.path)
        except OSError:  # in a folder of root's: then it is left, empty
            os.ftruncate(self.fd, 0)
        os.close(self.fd)


# Which folder


def runtime_path(
    name: str, configured: str | None, environ: Mapping[str, str], *, outlives_login: bool = False
) -> str:
    """Return the runtime directory of a daemon to be started here, made where that is possible.

    `configured`, else the first of $RUNTIME_DIRECTORY, else /run/NAME if it can be made
    or used, else a private folder of the user: for one that `outlives_login`, and its
    terminal, not in $XDG_RUNTIME_DIR, which ends with it. Raises DirectoryError.
    """
    told = configured or _first(environ.get("RUNTIME_DIRECTORY", ""))
    if told:
        return told
    common = f"/run/{name}"
    if _can_have(common, 0o755):
        return common
    return _private(_private_paths(name, environ)[-1 if outlives_login else 0])


def find(
    name: str, configured: str | None, environ: Mapping[str, str], user: int | None = None
) -> str:
    """Return where such a daemon is, as :func:`runtime_path` does, but make nothing.

    Where several folders are possible, for instance of a daemon of the system and
    one of this user or `user`, the first that has a control socket.
    """
    candidates = list(_candidates(name, configured, environ))
    if user is not None and len(candidates) > 1:
        candidates.append(f"/tmp/{name}-{user}")
    for path in candidates:
        if os.path.exists(os.path.join(path, SOCKET)):
            return path
    return candidates[0]


def _candidates(name: str, configured: str | None, environ: Mapping[str, str]) -> Iterator[str]:
    told = configured or _first(environ.get("RUNTIME_DIRECTORY", ""))
    if told:
        yield told
        return
    common = f"/run/{name}"
    if _could_have(common):
        yield common
    yield from _private_paths(name, environ)
    yield common


def give(
    name: str,
    runtime_dir: str | None,
    state_dir: str | None,
    environ: Mapping[str, str],
    owner: tuple[int, int],
) -> list[str]:
    """Make both folders as root, and give them to the user that the daemon will be.

    Return those that were not there.

    What root can't do without following others is left to that user, who says what is wrong.
    """
    runtime = runtime_dir or _first(environ.get("RUNTIME_DIRECTORY", "")) or f"/run/{name}"
    state = state_dir or _first(environ.get("STATE_DIRECTORY", "")) or f"/var/lib/{name}"
    made = []
    for path, mode in ((runtime, 0o755), (state, 0o750)):
        try:
            if safepaths.give_folder(path, mode, owner):
                made.append(path)
        except (safepaths.UnsafeFolderError, OSError):
            pass
    return made


def state_path(name: str, configured: str | None, environ: Mapping[str, str]) -> str:
    """Return the state directory, made if need be.

    `configured`, else the first of $STATE_DIRECTORY, else /var/lib/NAME if it can be made
    or used, else ~/.local/state/NAME. Raises DirectoryError.
    """
    told = configured or _first(environ.get("STATE_DIRECTORY", ""))
    common = f"/var/lib/{name}"
    if not told:
        told = common if _can_have(common, 0o750) else _in_home(name, environ)
    _make(told, 0o750, key="state_dir")
    return told


def find_state(name: str, configured: str | None, environ: Mapping[str, str]) -> str:
    """Return the state directory as :func:`state_path` does, but make nothing."""
    told = configured or _first(environ.get("STATE_DIRECTORY", ""))
    common = f"/var/lib/{name}"
    return told or (common if _could_have(common) else _in_home(name, environ))


def _first(paths: str) -> str:
    return paths.partition(":")[0]


def _can_have(path: str, mode: int) -> bool:
    try:
        _make(path, mode, key="")
    except NotForRoot:  # another user's daemon may be there
        raise
    except DirectoryError:
        return False
    return True


def _could_have(path: str) -> bool:
    return _usable(path) if os.path.lexists(path) else _usable(os.path.dirname(path))


def _usable(path: str) -> bool:
    return os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK, effective_ids=True)


def _make(path: str, mode: int, key: str) -> None:
    try:
        if os.geteuid() == 0:
            safepaths.demand_folder(path, sticky=True)
        _make_all(path, mode)
        if os.geteuid() == 0:
            safepaths.demand(path)
    except safepaths.UnsafeFolderError as error:
        remedy = f"start as that user, set user, or set {key or 'name'} to have another folder"
        raise NotForRoot(f"{path}: cannot be used by root: {error}; {remedy}") from None
    except OSError as error:
        raise DirectoryError(_cannot(path, error, key)) from error
    if not _usable(path):
        raise DirectoryError(f"{path}: cannot be written to; {_remedy(key)}")


def _make_all(path: str, mode: int) -> None:
    if os.path.isdir(path):
        return
    os.makedirs(os.path.dirname(path) or ".", 0o755, exist_ok=True)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        if not os.path.isdir(path):
            raise


def _cannot(path: str, error: OSError, key: str) -> str:
    return f"{error.filename or path}: {error.strerror or error}; {_remedy(key)}"


def _remedy(key: str) -> str:
    return f"set {key} to a folder that this user can write to"


# The user's own


def _private(path: str) -> str:
    """Return a folder that no other user can have prepared, made if need be."""
    try:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            _check_private(path)
    except OSError as error:
        raise DirectoryError(_cannot(path, error, "runtime_dir")) from error
    return path


def _private_paths(name: str, environ: Mapping[str, str]) -> list[str]:
    """Return the folders that may be the user's own; the last is there without a login."""
    folder = environ.get("XDG_RUNTIME_DIR", "")
    login = [os.path.join(folder, name)] if folder.startswith("/") and _is_ours(folder) else []
    return [*login, f"/tmp/{name}-{os.geteuid()}"]


def _is_ours(path: str) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()


def _check_private(path: str) -> None:
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode):
        raise DirectoryError(f"{path}: is not a folder; remove it, or {_remedy('runtime_dir')}")
    if status.st_uid != os.geteuid():
        raise DirectoryError(f"{path}: belongs to another user; {_remedy('runtime_dir')}")
    if status.st_mode & 0o022:
        raise DirectoryError(f"{path}: others can write to it; chmod 700 it, or remove it")


def _in_home(name: str, environ: Mapping[str, str]) -> str:
    home = environ.get("HOME", "")
    if not home.startswith("/"):
        from pwd import getpwuid

        try:
            home = getpwuid(os.geteuid()).pw_dir
        except KeyError:
            raise DirectoryError(
                f"user {os.geteuid()} has no home; {_remedy('state_dir')}"
            ) from None
    return os.path.join(home, ".local/state", name)
