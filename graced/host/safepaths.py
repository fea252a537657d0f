"""What root does in folders: nothing by path where others can write.

A folder is *root's alone* if root owns it and each folder on the way to it, and no other
user may write to any of them; an ACL shows in the group's bits, see acl(5). What is found there,
links included, is root's doing, so it may be followed. A sticky folder on the way, such as
/tmp, is as good, since what root owns in it can't be replaced; a sticky one is others' where
something is to be made in it. All goes from descriptor to descriptor, none is opened twice.
"""

from __future__ import annotations

import errno
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    Owner = tuple[int, int]  # user and group number

MAX_LINKS = 40
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class UnsafeFolderError(Exception):
    """Another user than root can change what is there; says which and where."""


def is_roots(path: str) -> bool:
    """Return whether the folder of a file, there or not, is root's alone."""
    try:
        folder, _ = _walk(path)
    except (UnsafeFolderError, OSError):
        return False
    os.close(folder)
    return True


def demand_folder(path: str, *, sticky: bool = False) -> None:
    """Raise UnsafeFolderError if others than root can write to a file's folder; OSError passes.

    With `sticky` such a folder will do, for what does not follow what others have put there.
    """
    try:
        folder, _ = _walk(path, sticky=sticky)
    except OSError:
        return
    os.close(folder)


def demand(path: str) -> None:
    """Raise UnsafeFolderError if others than root can change what is there; nothing may be."""
    try:
        folder, name = _walk(path, sticky=True)
    except OSError:
        return
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        _check(found, path, folder, sticky=False)
    except FileNotFoundError:
        pass
    finally:
        os.close(folder)


def open_file(path: str, flags: int, mode: int, owner: Owner | None = None) -> int:
    """Open a file in a folder that is root's alone, or make it; `owner` gets a new one.

    Raises UnsafeFolderError or OSError.
    """
    folder, name = _walk(path)
    try:
        if _is_magic(name, folder):
            return os.open(name, flags | _FILE & ~os.O_NOFOLLOW, dir_fd=folder)
        try:
            return os.open(name, flags | _FILE, dir_fd=folder)
        except FileNotFoundError:
            fd = os.open(name, flags | _FILE | os.O_CREAT | os.O_EXCL, mode, dir_fd=folder)
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(folder)
    if owner is not None:
        os.fchown(fd, *owner)
    return fd


def give_folder(path: str, mode: int, owner: Owner) -> bool:
    """Make a folder in one that is root's alone, and give it to `owner`; return whether it is new.

    So is one of root's that has nothing in it but what graced makes; any other is left as
    it is. Raises UnsafeFolderError or OSError.
    """
    parent, name = _walk(path, make=True)
    is_new = True
    try:
        try:
            os.mkdir(name, mode, dir_fd=parent)
        except FileExistsError:
            is_new = False
        folder = os.open(name, _FOLDER, dir_fd=parent)
    finally:
        os.close(parent)
    try:
        _check(os.fstat(folder), path, folder, sticky=False)
        if all(map(_is_ours, os.listdir(folder))):
            _give_all(folder, owner)
    finally:
        os.close(folder)
    return is_new


def _is_ours(name: str) -> bool:
    """Whether graced makes files of this name in its folders."""
    if name.startswith(("control.sock", "queue-")):
        return True
    whole, _, part = name.rpartition("-")
    return name.endswith((".db", "lock")) or (whole.endswith(".db") and part.isalpha())


def _give_all(folder: int, owner: Owner) -> None:
    """Give what is in a folder of root's, and at last the folder: from then on others can write."""
    for name in os.listdir(folder):
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            below = os.open(name, _FOLDER, dir_fd=folder)
            try:
                _check(os.fstat(below), name, below, sticky=False)
                _give_all(below, owner)
            except UnsafeFolderError:  # it has an owner already
                pass
            finally:
                os.close(below)
        elif (found.st_uid, found.st_nlink) == (0, 1):
            os.chown(name, *owner, dir_fd=folder, follow_symlinks=False)
    os.fchown(folder, *owner)


def _walk(path: str, *, make: bool = False, sticky: bool = False) -> tuple[int, str]:
    """Return the folder of what is at a path, if it is root's alone, and the name in it.

    That is no link, but for those of proc(5) to what has no name. With `make`, missing
    folders on the way are made; with `sticky`, the last one may be sticky too.
    """
    parts, links, at, where = _parts(os.path.abspath(path)), 0, os.open("/", _FOLDER), "/"
    try:
        while True:
            name = parts.pop()
            _check(os.fstat(at), where, at, sticky=sticky or bool(parts))
            target = _target(name, at, where)
            if target is not None:
                links += 1
                if links > MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                parts += _parts(target)
                below = os.open("/" if target.startswith("/") else ".", _FOLDER, dir_fd=at)
                where = "/" if target.startswith("/") else where
            elif parts:
                below = _below(name, at, make=make)
                where = os.path.join(where, name)
            else:
                return at, name
            os.close(at)
            at = below
    except BaseException as error:  # closed, whatever it is; raised on
        os.close(at)
        if isinstance(error, OSError):
            error.filename = path
        raise


def _below(name: str, at: int, *, make: bool) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=at)
    except FileNotFoundError:
        if not make:
            raise
        os.mkdir(name, 0o755, dir_fd=at)
        return os.open(name, _FOLDER, dir_fd=at)


def _parts(path: str) -> list[str]:
    """Return the names in a path, the last one first."""
    return [name for name in reversed(path.split("/")) if name] or ["."]


def _target(name: str, at: int, where: str) -> str | None:
    """Return where a link leads that is to be followed, None if it is none."""
    try:
        found = os.stat(name, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if not stat.S_ISLNK(found.st_mode) or _is_magic(name, at):
        return None
    if found.st_uid != 0:  # in a sticky folder, or a mistake of root's
        raise UnsafeFolderError(f"{os.path.join(where, name)} is a link of {_user(found.st_uid)}")
    return os.readlink(name, dir_fd=at)


def _is_magic(name: str, at: int) -> bool:
    """Whether a link leads to what has no name, such as /proc/self/fd/2 to pipe:[4711]."""
    try:
        return ":[" in os.readlink(name, dir_fd=at)
    except OSError:
        return False


def _check(found: os.stat_result, where: str, fd: int, *, sticky: bool) -> None:
    """Raise UnsafeFolderError if others than root can change what was found."""
    if found.st_uid != 0:
        raise UnsafeFolderError(f"{where} belongs to {_user(found.st_uid)}")
    if not found.st_mode & 0o022 or (sticky and found.st_mode & stat.S_ISVTX):
        return
    if not os.fstatvfs(fd).f_flag & os.ST_RDONLY:
        raise UnsafeFolderError(f"{where} can be written to by others than root")


def _user(uid: int) -> str:
    import pwd

    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"
