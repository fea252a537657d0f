"""Credentials: to become another user for good, without a way back."""

from __future__ import annotations

import ctypes
import errno
import os
import sys

from graced.exitcodes import CONFIG, ReportedError
from graced.host.process import libc, prctl

NEW_PRIVILEGES = "GRACED_NEW_PRIVILEGES"  # 1: setuid programs are to work
_CAPBSET_DROP = 24
_SET_NO_NEW_PRIVS = 38
_SET_DUMPABLE = 4
_CAPABILITIES = (0x20080522).to_bytes(4, sys.byteorder) + bytes(4)  # version, this process
# About the user that started the daemon: of no use or harm to another user.
_PERSONAL = ("DBUS_", "GPG_", "SSH_", "SUDO_", "XDG_")
_PERSONAL_NAMES = ("DISPLAY", "KRB5CCNAME", "MAIL", "WAYLAND_DISPLAY", "XAUTHORITY")


class CredentialsError(ReportedError):
    """There is no such user or group, or this process may not become it; says why."""

    exit_code = CONFIG


def change_user(user: str | None, group: str | None) -> None:
    """Become `user` for good, in its groups or in `group`. Nothing to do without both.

    No capability is left, none comes back with a setuid program unless $GRACED_NEW_PRIVILEGES
    asks for it, and what the environment says of the session that started us is gone.
    CredentialsError if there is no such user or group, or if we may not.
    """
    if user is None and group is None:
        return
    uid, gid, home, name = account(user, group)
    if (uid, gid) == (os.geteuid(), os.getegid()):
        return
    who = f"user {user!r}" if user else f"group {group!r}"
    try:
        become(uid, gid, name, new_privileges=os.environ.get(NEW_PRIVILEGES) == "1")
    except OSError as error:
        raise CredentialsError(f"cannot become {who}: {error.strerror}; start as root") from None
    if user is not None and name is not None:
        for variable in list(os.environ):
            if variable.startswith(_PERSONAL) or variable in _PERSONAL_NAMES:
                del os.environ[variable]
        os.environ.update(HOME=home, USER=name, LOGNAME=name)


def check_code(user: object) -> None:
    """Refuse a user that can't read Python or graced: what is imported later could not be.

    CredentialsError, which says what that user cannot read.
    """
    for file, whose in ((os.__file__, "Python"), (__file__, "graced")):
        folder = os.path.dirname(file)
        if not os.access(folder, os.R_OK | os.X_OK, effective_ids=True):
            what = f"{folder}: user {user} cannot read {whose}'s own code"
            raise CredentialsError(f"{what}; install it where that user can")


def check_code_for(user: str, group: str | None) -> None:
    """Do so as root, who is that user meanwhile, before anything is made for it."""
    uid, gid, _, name = account(user, group)
    own, groups = os.getegid(), os.getgroups()
    try:
        os.setgroups([gid] if name is None else os.getgrouplist(name, gid))
        os.setegid(gid)
        os.seteuid(uid)
    except OSError:  # change_user() says so
        return
    else:
        check_code(user)
    finally:
        os.seteuid(0)
        os.setegid(own)
        if os.getgroups() != groups:
            os.setgroups(groups)


def become(uid: int, gid: int, name: str | None, *, new_privileges: bool = False) -> None:
    """Take another user and group for good, and let go of what only root has. OSError.

    `name`: whose supplementary groups to take; None: no others than `gid`.
    """
    if uid != 0 and not new_privileges:
        _empty_bounding_set()
    if name is not None:
        os.initgroups(name, gid)
    else:
        os.setgroups([gid])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if uid == 0:
        return
    if not new_privileges:
        prctl(_SET_NO_NEW_PRIVS, 1)
    # The inheritable ones would stay. A filter of systemd's may forbid the call where none is left.
    if libc.capset(_CAPABILITIES, bytes(24)) != 0 and _has_capabilities():
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (gid, gid, gid):
        raise OSError(errno.EPERM, "some of root's identity is left")


def _has_capabilities() -> bool:
    """Return whether any is left that this process or a program of it could use."""
    with open("/proc/self/status", "rb") as status:
        left = dict(line.split(b":", 1) for line in status)
    return any(int(left[name], 16) for name in (b"CapInh", b"CapPrm", b"CapEff", b"CapAmb"))


def _empty_bounding_set() -> None:
    """Let no program that is run later give a capability, if we may decide that."""
    for capability in range(64):  # see capabilities(7)
        try:
            prctl(_CAPBSET_DROP, capability)
        except OSError:  # there are no more of them, or a container or systemd has decided already
            return


def be_seen() -> None:
    """Let processes of the same user look at this one, as after an exec; see PR_SET_DUMPABLE.

    The main process does not: it may have root's terminal, and workers are not to reach that.
    """
    prctl(_SET_DUMPABLE, 1)


def become_owner_of(path: str) -> None:
    """As root, become for good whose something is; nothing to do if it is root's or not there.

    CredentialsError if that can't be.
    """
    import pwd

    try:
        found = os.lstat(path)
    except OSError:
        return
    if os.geteuid() != 0 or found.st_uid == 0:
        return
    try:
        entry = pwd.getpwuid(found.st_uid)
        gid, name = entry.pw_gid, entry.pw_name
    except KeyError:  # such as the user of a DynamicUser= that is not running
        gid, name = found.st_gid, None
    if gid == 0:
        raise CredentialsError(
            f"{path}: belongs to user {found.st_uid}, whose group is root's; set user"
        )
    try:
        become(found.st_uid, gid, name)
    except OSError as error:
        raise CredentialsError(f"cannot become user {found.st_uid}: {error.strerror}") from None
    check_code(name or found.st_uid)


def account(user: str | None, group: str | None) -> tuple[int, int, str, str | None]:
    """Return user number, group number, home and name; names may be numbers.

    CredentialsError if there is no such user or group.
    """
    import grp
    import pwd

    uid, gid, home, name = os.geteuid(), os.getegid(), "", None
    try:
        if user is not None:
            entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
            uid, gid, home, name = entry.pw_uid, entry.pw_gid, entry.pw_dir, entry.pw_name
    except KeyError:
        raise CredentialsError(f"there is no user {user!r}") from None
    try:
        if group is not None:
            gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise CredentialsError(f"there is no group {group!r}") from None
    return uid, gid, home, name
