"""One connection to PostgreSQL: a statement goes out, its rows come in, within a time limit.

No SQL of the queue's here, and no rules. psycopg finds and opens the connection; after that its
libpq is used directly, since only so a wait has an end: a server that is frozen must not freeze
the keeper.
"""

from __future__ import annotations

import os
import select
import time
from functools import partial

from graced import program
from graced.queue.postgresql.address import LIBRARY
from graced.queue.protocol import ClientMissing, QueueError, ServerGone, StorageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from graced.queue.servers.url import ServerURL

    Row = list[bytes | None]

OLDEST = 130000  # PostgreSQL 13

# Where the URL does not say otherwise. A host that has vanished holds nothing for longer than this.
DEFAULTS = {
    "connect_timeout": 3,  # seconds, for each address
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # ms
    "client_encoding": "utf8",
}

MISSING = ("3F000", "42P01", "42883", "42703", "42704")
INIT = f"run `{program.name} queue init`"
FULL = ("53100", "53400")
BUSY = ("40001", "40P01", "55P03")  # it may work the next time
REFUSED = ("54000", "55000", "22023", "22004", "22P02", "22021", "22P05")
LOGIN = ("28P01", "28000")
ENDING = ("57P01", "57P02", "57P03", "57P05", "08006", "08003", "08000")


def client_library() -> Any:
    """Return psycopg. ClientMissing if it is not there."""
    try:
        import psycopg
    except ImportError as error:
        if error.name == LIBRARY.module:
            raise ClientMissing(f"{LIBRARY.module} is not installed; {LIBRARY.remedy}") from None
        remedy = "pip install 'psycopg[binary]', or on Debian apt install libpq5"
        raise ClientMissing(f"{LIBRARY.module} finds no libpq; {remedy}") from None
    return psycopg


def check_version(found: int, url: ServerURL) -> None:
    """Raise StorageError if a server is too old."""
    if found < OLDEST:
        raise StorageError(f"{url.shown}: PostgreSQL {found // 10000}; 13 or newer is needed")


class Connection:
    """One session. ServerGone closes it; ``close`` may be called again and again."""

    def __init__(self, url: ServerURL, about: str) -> None:
        """Connect. ServerGone if it can't be reached, StorageError if it does not let us in."""
        psycopg = client_library()
        self.url = url
        self._psycopg = psycopg
        self._prepared: dict[bytes, bytes] = {}
        self._heard: list[tuple[int, str]] = []
        try:
            self._session = psycopg.connect(_conninfo(psycopg, url, about), autocommit=True)
        except psycopg.Error as error:
            raise self._refusal(error) from None
        self._raw = self._session.pgconn
        self._pid = os.getpid()
        self.backend = int(self._raw.backend_pid)  # the process id of the server's end, as told
        self._raw.nonblocking = 1
        self._poll = select.poll()
        self._poll.register(self._raw.socket, select.POLLIN)
        try:
            check_version(self._raw.server_version, url)
        except StorageError:
            self.close()
            raise

    def fileno(self) -> int:
        """Return the socket's descriptor, -1 once it is closed."""
        return -1 if self._session.closed else int(self._raw.socket)

    def parameter(self, name: str) -> str:
        """Return a setting that the server has told."""
        value = self._raw.parameter_status(name.encode())
        return "" if value is None else value.decode()

    def close(self) -> None:
        """Close it; a forked child its copy only: a farewell would end its parent's session."""
        if self._pid != os.getpid() and not self._session.closed:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, self._raw.socket, inheritable=False)
            os.close(null)
        self._session.close()

    # -- statements

    def run(
        self,
        sql: str,
        parameters: Sequence[bytes | None] = (),
        *,
        limit: float,
        prepare: bool = False,
    ) -> list[Row]:
        """Run one statement, in a transaction of its own; return its rows."""
        end = time.monotonic() + limit
        for tries_left in (2, 1, 0):
            try:
                return self._exchange(
                    self._sender(sql.encode(), list(parameters), prepare, end), end
                )
            except _Busy as busy:
                if not tries_left:
                    raise StorageError(f"{self.url.shown}: {busy}") from None
        raise AssertionError("unreachable")

    def _sender(
        self, statement: bytes, parameters: list[bytes | None], prepare: bool, end: float
    ) -> Callable[[], None]:
        if not prepare:
            return partial(self._raw.send_query_params, statement, parameters)
        if statement not in self._prepared:
            name = b"graced_%d" % (len(self._prepared) + 1)
            self._exchange(partial(self._raw.send_prepare, name, statement), end)
            self._prepared[statement] = name
        return partial(self._raw.send_query_prepared, self._prepared[statement], parameters)

    def _exchange(self, send: Callable[[], None], end: float) -> list[Row]:
        try:
            send()
            self._flush(end)
            return self._result(end)
        except self._psycopg.OperationalError as error:
            self.close()
            raise ServerGone(f"{self.url.shown}: {self._words(str(error))}") from None

    def _flush(self, end: float) -> None:
        while self._raw.flush():
            self._poll.modify(self._raw.socket, select.POLLIN | select.POLLOUT)
            self._await(end)
            self._raw.consume_input()
        self._poll.modify(self._raw.socket, select.POLLIN)

    def _await(self, end: float) -> None:
        left = end - time.monotonic()
        if left <= 0 or not self._poll.poll(left * 1000):
            self.close()
            raise ServerGone(f"{self.url.shown}: the server does not answer")

    def _result(self, end: float) -> list[Row]:
        rows: list[Row] = []
        failure: StorageError | QueueError | None = None
        while True:
            while self._raw.is_busy():
                self._await(end)
                self._raw.consume_input()
            found = self._raw.get_result()
            if found is None:
                break
            if found.status == self._psycopg.pq.ExecStatus.TUPLES_OK:
                columns = range(found.nfields)
                rows += [[found.get_value(n, c) for c in columns] for n in range(found.ntuples)]
            elif found.status == self._psycopg.pq.ExecStatus.FATAL_ERROR:
                failure = self._failure(found)
        self._take_notifications()
        if failure is not None:
            if isinstance(failure, ServerGone):
                self.close()
            raise failure
        return rows

    # -- what is rung

    def heard(self) -> list[tuple[int, str]]:
        """Return notifications: who sent each, and what it says. Never blocks."""
        if self._session.closed:
            return []
        try:
            while self._poll.poll(0):
                self._raw.consume_input()
                if self._raw.is_busy() or not self._take_notifications():
                    break
        except self._psycopg.OperationalError as error:
            self.close()
            raise ServerGone(f"{self.url.shown}: {self._words(str(error))}") from None
        heard, self._heard = self._heard, []
        return heard

    def _take_notifications(self) -> bool:
        before = len(self._heard)
        while (note := self._raw.notifies()) is not None:
            self._heard.append((note.be_pid, note.extra.decode(errors="replace")))
        return len(self._heard) > before

    # -- what went wrong

    def _words(self, text: str) -> str:
        lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
        return self.url.scrub(lines[0] if lines else "the connection is gone")

    def _failure(self, result: Any) -> StorageError | QueueError:
        field = self._psycopg.pq.DiagnosticField
        code = (result.error_field(field.SQLSTATE) or b"").decode()
        words = (result.error_field(field.MESSAGE_PRIMARY) or b"").decode(errors="replace")
        return self._error(code, self.url.scrub(words))

    def _refusal(self, error: Exception) -> StorageError:
        words = self._words(str(error))
        told = str(error)
        if "does not exist" in told or "authentication failed" in told or "no pg_hba" in told:
            return StorageError(f"{self.url.shown}: {words}")
        return ServerGone(f"{self.url.shown}: {words}")

    def _error(self, code: str, words: str) -> StorageError | QueueError:
        place = self.url.shown
        if code in REFUSED:
            return QueueError(words)
        if code in BUSY:
            return _Busy(words)
        if code in MISSING:
            return StorageError(f"{place}: the queue's tables are missing ({words}); {INIT}")
        if code == "25006":
            return StorageError(f"{place}: the server is read-only, a standby perhaps; {words}")
        if code in ENDING or code.startswith("08"):
            return ServerGone(f"{place}: {words}")
        if code == "42501":
            remedy = f"grant it to the daemon's role, or be who ran `{program.name} queue init`"
            return StorageError(f"{place}: {words}; {remedy}")
        return StorageError(f"{place}: {words} ({code})", full=code in FULL)


class _Busy(StorageError):
    """Two transactions were in each other's way."""


def _conninfo(psycopg: Any, url: ServerURL, about: str) -> str:
    said = psycopg.conninfo.conninfo_to_dict(url.library)
    mine = {**DEFAULTS, "application_name": about}
    return str(
        psycopg.conninfo.make_conninfo(
            url.library, **{name: value for name, value in mine.items() if name not in said}
        )
    )
