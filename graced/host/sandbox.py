"""What a process that serves strangers is kept from: to write, to call, to start, to signal.

A filter of system calls, see seccomp(2), for a process that has open already all that it needs.
It is a second wall, behind that of the user: where the kernel or the processor has none, the
process goes without.
"""

from __future__ import annotations

import ctypes
import os
from errno import EPERM

from graced.host.process import libc, prctl

_SET_NO_NEW_PRIVS = 38
_SET_SECCOMP = 22
_MODE_FILTER = 2
_NUMBER_AT, _ARCH_AT, _FLAGS_AT = 0, 4, 32  # in struct seccomp_data; flags of openat(2), low word
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_SET, _JUMP_IF_GREATER, _RETURN = 0x20, 0x15, 0x45, 0x25, 0x06
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | EPERM
_FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_MOST_X86_64 = 0x3FFFFFFF  # beyond, the numbers are those of the x32 ABI


class _Table:
    """The system calls of one kind of processor that are refused, by number."""

    def __init__(self, arch: int, openat: int, refused: str) -> None:
        self.arch = arch
        self.openat = openat
        self.refused = tuple(map(int, refused.split()))


# socket connect socketpair bind; execve execveat fork vfork; kill tkill tgkill rt_sigqueueinfo
# rt_tgsigqueueinfo pidfd_open pidfd_send_signal pidfd_getfd ptrace process_vm_readv
# process_vm_writev kcmp perf_event_open; open creat openat2 unlink unlinkat rename renameat
# renameat2 mkdir mkdirat rmdir link linkat symlink symlinkat mknod mknodat truncate ftruncate;
# chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat and the six that change xattrs;
# mount umount2 setns unshare bpf userfaultfd keyctl io_uring_setup
_TABLES = {
    "x86_64": _Table(
        0xC000003E,
        257,
        "41 42 53 49 59 322 57 58 62 200 234 129 297 434 424 438 101 310 311 312 298"
        " 2 85 437 87 263 82 264 316 83 258 84 86 265 88 266 133 259 76 77"
        " 90 91 268 452 92 93 94 260 188 189 190 197 198 199 165 166 308 272 321 323 250 425",
    ),
    "aarch64": _Table(
        0xC00000B7,
        56,
        "198 203 199 200 221 281 129 130 131 138 240 434 424 438 117 270 271 272 241"
        " 437 35 38 276 34 37 36 33 45 46"
        " 52 53 452 55 54 5 6 7 14 15 16 40 39 268 97 280 282 219 425",
    ),
}


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("if_true", ctypes.c_ubyte),
        ("if_false", ctypes.c_ubyte),
        ("value", ctypes.c_uint),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def only_read_and_answer() -> bool:
    """Keep this process from all but reading, and answering on what is open, for good.

    To be called before its other threads start. Returns whether it could be done.
    """
    prctl(_SET_NO_NEW_PRIVS, 1)
    table = _TABLES.get(os.uname().machine)
    if table is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    instructions = _filter(table)
    array = (_Instruction * len(instructions))(*instructions)
    program = _Program(len(instructions), array)
    return bool(libc.prctl(_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) == 0)


def _filter(table: _Table) -> list[_Instruction]:
    """Return the program: the calls one by one, each of which leads to the refusal at the end."""
    checks = [
        (_JUMP_IF_GREATER, _MOST_X86_64),
        *((_JUMP_IF_EQUAL, number) for number in table.refused),
    ]
    program = [
        _Instruction(_LOAD, 0, 0, _ARCH_AT),
        _Instruction(_JUMP_IF_EQUAL, 1, 0, table.arch),
        _Instruction(_RETURN, 0, 0, _REFUSE),
        _Instruction(_LOAD, 0, 0, _NUMBER_AT),
    ]
    for index, (code, value) in enumerate(checks):
        program.append(_Instruction(code, len(checks) - index + 3, 0, value))
    program += [
        _Instruction(_JUMP_IF_EQUAL, 0, 2, table.openat),
        _Instruction(_LOAD, 0, 0, _FLAGS_AT),
        _Instruction(_JUMP_IF_SET, 1, 0, _FOR_WRITING),
        _Instruction(_RETURN, 0, 0, _ALLOW),
        _Instruction(_RETURN, 0, 0, _REFUSE),
    ]
    return program
