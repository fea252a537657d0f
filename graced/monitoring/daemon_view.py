"""The daemon as the process `graced-web` sees it: by questions on one connection.

However many ask here, the main process is asked once a second at most. Threads share it.
"""

from __future__ import annotations

import time
from collections import deque
from threading import Lock

from graced.control.server import encoded
from graced.monitoring.history import CHUNK, START, events

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

    JSON = dict[str, Any]

ANSWER_S = 5.0  # seconds that an answer may take
FRESH_S = 1.0  # seconds for which an answer is good for others too
MAX_EVENTS = 5000  # of the history, the newest
MAX_STACKS = 200  # events with all their words; the older ones lose their stacks


class NoAnswer(Exception):
    """The main process does not answer: it is stopped, or busy, or gone."""


class DaemonView:
    """What can be known of the daemon."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(ANSWER_S)
        self._socket = connection
        self._rest = bytearray()  # read, and not a whole line yet
        self._lock = Lock()
        self._known: dict[str, tuple[float, JSON | NoAnswer]] = {}
        self._owed = 0  # answers that came too late are still to come
        self._events: deque[JSON] = deque(maxlen=MAX_EVENTS)
        self._place: Any = START

    def metrics(self) -> JSON:
        """Return the status, and all that is counted. NoAnswer."""
        return self._fresh("metrics")

    def health(self) -> JSON:
        """Return whether it is healthy and ready, and why not. NoAnswer."""
        return self._fresh("health")

    def jobs(self) -> JSON:
        """Return the jobs that are worth a look, by pool. NoAnswer."""
        return self._fresh("jobs")

    def history(self, after: str) -> list[JSON]:
        """Return what has happened after a moment (ISO 8601). NoAnswer."""
        with self._lock:
            at, _ = self._known.get("history", (0.0, {}))
            if time.monotonic() - at >= FRESH_S:
                self._read_on()
                self._known["history"] = (time.monotonic(), {})
            return [event for event in self._events if event["at"] > after]

    def _read_on(self) -> None:
        while (answer := self._ask("history", {"place": self._place}))["place"] is not None:
            self._place = answer["place"]
            self._events.extend(events(answer["lines"].encode("ascii", "replace")))
        for event in list(self._events)[:-MAX_STACKS]:
            event.pop("stack", None)

    def _fresh(self, command: str) -> JSON:
        with self._lock:
            at, known = self._known.get(command, (0.0, NoAnswer()))
            if not at or time.monotonic() - at >= FRESH_S:
                try:
                    known = self._ask(command, {})
                except NoAnswer as error:
                    known = error
                self._known[command] = (time.monotonic(), known)
        if isinstance(known, NoAnswer):
            raise known
        return known

    def _ask(self, command: str, arguments: JSON) -> JSON:
        from json import loads

        try:
            while self._owed:
                self._line()
                self._owed -= 1
            self._socket.sendall(encoded({**arguments, "command": command}))
            self._owed += 1
            answer = loads(self._line())
            self._owed -= 1
        except TimeoutError:
            raise NoAnswer(f"the daemon has not answered for {ANSWER_S:g} s") from None
        except OSError as error:
            raise NoAnswer(f"the daemon can't be asked: {error.strerror}") from None
        if not (isinstance(answer, dict) and answer.get("ok")):
            raise NoAnswer(str(answer.get("error")) if isinstance(answer, dict) else "no answer")
        return answer

    def _line(self) -> bytes:
        while (end := self._rest.find(b"\n")) < 0:
            data = self._socket.recv(CHUNK)
            if not data:
                raise NoAnswer("the daemon is gone")
            self._rest += data
        line = bytes(self._rest[:end])
        del self._rest[: end + 1]
        return line
