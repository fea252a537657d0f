"""What is served over HTTP: the page, the metrics, the status, and two answers for probes.

All of it is only looked at. There are no files but those that stand here, read at the start;
a path is a key of a table, and nothing else.
"""

from __future__ import annotations

from importlib.resources import files
from ipaddress import ip_address
from json import dumps
from urllib.parse import parse_qs

from graced.monitoring import exposition
from graced.monitoring.daemon_view import NoAnswer
from graced.monitoring.families import families

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from graced.monitoring.daemon_view import DaemonView

    Headers = list[tuple[str, str]]
    Answer = tuple[str, str, bytes]  # status, type, body

OK = "200 OK"
UNAVAILABLE = "503 Service Unavailable"
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = [
    ("Allow", "GET, HEAD"),
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
]


class Site:
    """A WSGI application. `is_local`: only this host's processes reach it, so no name leads here.

    Else a page of strangers, whose name is made to lead to 127.0.0.1, could read it.
    """

    def __init__(self, daemon: DaemonView, *, is_local: bool) -> None:
        self._daemon = daemon
        self._is_local = is_local
        folder = files("graced.monitoring") / "static"
        self._files = {
            path: (OK, kind, (folder / name).read_bytes()) for path, (name, kind) in FILES.items()
        }
        self._made: dict[str, Callable[[dict[str, Any]], Answer]] = {
            "/metrics": self._metrics,
            "/status.json": self._status,
            "/history.json": self._history,
            "/jobs.json": self._jobs,
            "/health": self._health,
            "/ready": self._ready,
        }

    def __call__(
        self, request: dict[str, Any], start: Callable[[str, Headers], Any]
    ) -> Iterable[bytes]:
        """Answer one request."""
        status, kind, body = self._answer(request)
        start(status, [("Content-Type", kind), ("Content-Length", str(len(body))), *HEADERS])
        return [] if request["REQUEST_METHOD"] == "HEAD" else [body]

    def _answer(self, request: dict[str, Any]) -> Answer:
        path = request.get("PATH_INFO", "")
        if request["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return "405 Method Not Allowed", TEXT, b"this is only looked at\n"
        if self._is_local and not _is_of_this_host(request.get("HTTP_HOST", "")):
            return "421 Misdirected Request", TEXT, b"ask for it as localhost or 127.0.0.1\n"
        if path in self._files:
            return self._files[path]
        make = self._made.get(path)
        if make is None:
            return "404 Not Found", TEXT, b"there is no such page\n"
        try:
            return make(request)
        except NoAnswer as error:
            return UNAVAILABLE, TEXT, f"{error}\n".encode()

    def _metrics(self, request: dict[str, Any]) -> Answer:
        wanted = "application/openmetrics-text" in request.get("HTTP_ACCEPT", "")
        kind = exposition.OPENMETRICS if wanted else exposition.PROMETHEUS
        text = exposition.written(families(self._daemon.metrics()), openmetrics=wanted)
        return OK, kind, text.encode()

    def _status(self, _request: dict[str, Any]) -> Answer:
        return OK, JSON, dumps(self._daemon.metrics()["status"]).encode()

    def _history(self, request: dict[str, Any]) -> Answer:
        after = parse_qs(request.get("QUERY_STRING", "")).get("after", [""])[0]
        return OK, JSON, dumps({"events": self._daemon.history(after)}).encode()

    def _jobs(self, _request: dict[str, Any]) -> Answer:
        return OK, JSON, dumps(self._daemon.jobs()["pools"]).encode()

    def _health(self, _request: dict[str, Any]) -> Answer:
        health = self._daemon.health()
        return (OK if health["healthy"] else UNAVAILABLE), TEXT, f"{health['health']}\n".encode()

    def _ready(self, _request: dict[str, Any]) -> Answer:
        health = self._daemon.health()
        return (OK if health["ready"] else UNAVAILABLE), TEXT, f"{health['status']}\n".encode()


def _is_of_this_host(host: str) -> bool:
    """Whether a Host header names this host by address, as localhost, or not at all."""
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if name.lower() in ("", "localhost"):
        return True
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
