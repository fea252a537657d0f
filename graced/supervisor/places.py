"""What others find the daemon by: its folder, lock and sockets, which a cleaner may sweep away.

They are looked at when a reload is asked for, before a worker or a keeper is started, and
when a worker can't reach its queue; what is gone is made again. Nothing here ticks.
"""

from __future__ import annotations

import os

from graced.host.directories import AlreadyRunning, DirectoryError, RuntimeDir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from graced.log.logger import Log
    from graced.supervisor.keepers import KeeperManager
    from graced.supervisor.requests import ControlRequests


class Places:
    """The runtime directory with all that is in it."""

    def __init__(self, runtime: RuntimeDir, log: Log) -> None:
        self.trouble: str | None = None  # why no client can reach the daemon, if none can
        self._runtime = runtime
        self._log = log

    def look(self, requests: ControlRequests, keepers: KeeperManager) -> None:
        """Make again what is gone, and say so; what can't be is said once."""
        try:
            if self._runtime.renew():
                self._log.error(f"{self._runtime.path}: was removed; made again, with its lock")
            if requests.listen_again():
                self._log.error(f"{self._runtime.socket}: was removed; listening there again")
        except (AlreadyRunning, DirectoryError) as error:
            self._tell(f"no client can reach this daemon any more: {error}")
        except OSError as error:
            what = f"{self._runtime.socket}: {error.strerror}"
            self._tell(f"no client can reach this daemon any more: {what}; look at that folder")
        else:
            if os.access(self._runtime.path, os.W_OK):
                self.trouble = None
            else:
                self._tell(
                    f"{self._runtime.path}: not writable any more, so what is removed there can't "
                    "be made again; systemd gives it to User= of the unit at each reload: set "
                    "that to the configuration's user"
                )
            keepers.listen_again()

    def _tell(self, trouble: str) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            self._log.error(trouble)
