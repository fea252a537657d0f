"""Out of memory as a fact: the kernel counts which processes it killed in a control group.

See "memory.events" in the kernel's cgroup-v2 documentation; version 1 has the
same counter in ``memory.oom_control``.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.host.process import Exit

DEATH_TIMEOUT_S = 1.0  # from a kill's count to the death; later it was a process not reaped here
CGROUPS = "/proc/self/cgroup"
MOUNTS = "/proc/self/mounts"


class OomKills:
    """The kills of this process's own control group, and whose death each of them was.

    The kernel counts them and names none. So every death is asked about: else the kill
    of one would be taken for that of the next that gets SIGKILL.
    """

    def __init__(self, file: str | None = None) -> None:
        self._file = file if file is not None else find()
        self._seen = self._count()
        self._unclaimed: list[float] = []  # when kills were noticed that no death answers to

    def took(self, exit: Exit, now: float, *, ours: bool) -> bool:
        """Whether this death was for want of memory; `ours`: we have sent SIGKILL."""
        self._notice(now)
        if ours or exit.code == os.CLD_EXITED or exit.status != signal.SIGKILL:
            return False
        if not self._unclaimed:
            return False
        del self._unclaimed[0]
        return True

    def _notice(self, now: float) -> None:
        count = self._count()
        new = [now] * (count - self._seen)
        self._unclaimed = [at for at in self._unclaimed if now - at <= DEATH_TIMEOUT_S] + new
        self._seen = max(count, self._seen)

    def _count(self) -> int:
        if self._file is None:
            return 0
        try:
            for line in _read(self._file).splitlines():
                key, _, value = line.partition(b" ")
                if key == b"oom_kill":
                    return int(value)
        except (OSError, ValueError):  # the group is gone, or this kernel doesn't count
            pass
        return 0


def _read(file: str) -> bytes:
    """Return a few lines of the kernel's, in three system calls: a replacement waits for this."""
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def find(cgroups: str = CGROUPS, mounts: str = MOUNTS) -> str | None:
    """Return the file in which the kernel counts for our control group, if there is one."""
    try:
        with open(cgroups, encoding="utf-8", errors="replace") as lines:
            groups = [line.rstrip("\n").split(":", 2) for line in lines]
        with open(mounts, encoding="utf-8", errors="replace") as lines:
            mounted = [line.split(" ") for line in lines]
    except OSError:
        return None
    for _, controllers, path in (group for group in groups if len(group) == 3):
        for kind, name, wanted in (
            ("cgroup2", "memory.events", controllers == ""),
            ("cgroup", "memory.oom_control", "memory" in controllers.split(",")),
        ):
            for where in (m[1] for m in mounted if wanted and len(m) > 3 and m[2] == kind):
                file = os.path.join(where, path.lstrip("/"), name)
                if os.access(file, os.R_OK):
                    return file
    return None
