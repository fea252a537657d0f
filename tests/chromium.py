"""A real browser without a window, told what to do over a pair of pipes (the DevTools protocol)."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from daemon_harness import DEADLINE

PROGRAM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--remote-debugging-pipe",
)  # fmt: skip
HEARS, SAYS = 3, 4  # its descriptors


class Chromium:
    """One page in it; a context manager that leaves nothing behind."""

    def __init__(self, home: Path) -> None:
        assert PROGRAM is not None
        theirs, self._to = os.pipe()
        self._from, its = os.pipe()
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (theirs, its)]

        def place() -> None:
            for fd, number in zip(high, (HEARS, SAYS), strict=True):
                os.dup2(fd, number)

        self._process = subprocess.Popen(
            [PROGRAM, *FLAGS, f"--user-data-dir={home}/chromium", "about:blank"],
            env={**os.environ, "HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(HEARS, SAYS),
            preexec_fn=place,  # noqa: PLW1509  # the tests have no threads
            start_new_session=True,
        )
        for fd in (theirs, its, *high):
            os.close(fd)
        self.events: list[dict[str, Any]] = []
        self._read = b""
        self._number = 0
        self._session: str | None = None

    def __enter__(self) -> Chromium:
        pages = self.do("Target.getTargets")["targetInfos"]
        [page] = [each["targetId"] for each in pages if each["type"] == "page"]
        attached = self.do("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.do(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._to)
        while os.read(self._from, 65536):  # until the last of its processes is gone
            pass
        os.close(self._from)

    def do(self, method: str, **params: Any) -> dict[str, Any]:
        """Have it do something; return its answer. What it tells meanwhile is in ``events``."""
        self._number += 1
        said: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            said["sessionId"] = self._session
        os.write(self._to, json.dumps(said).encode() + b"\0")
        end = time.monotonic() + DEADLINE
        while (told := self._hear(end)).get("id") != self._number:
            self.events.append(told)
        assert "error" not in told, told
        return dict(told["result"])

    def _hear(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._from], [], [], max(end - time.monotonic(), 0))
            assert ready, "the browser says nothing"
            data = os.read(self._from, 1 << 20)
            assert data, "the browser has ended"
            self._read += data
        told, _, self._read = self._read.partition(b"\0")
        return dict(json.loads(told))

    def value(self, expression: str) -> Any:
        """Return what an expression of JavaScript gives in the page."""
        answer = self.do("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def text(self) -> str:
        """Return the page as people read it."""
        return str(self.value("document.body?.innerText ?? ''"))

    def errors(self) -> list[str]:
        """Return what it complained of: scripts, what could not be loaded or was not allowed."""
        found = [event["params"] for event in self.events if event["method"] in ERRORS]
        wrong = ("error", "assert", None)
        return [
            str(each)
            for each in found
            if each.get("entry", {}).get("level", each.get("type")) in wrong
        ]

    def requests(self) -> list[str]:
        """Return the addresses that the page has asked so far."""
        asked = [e["params"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [each["request"]["url"] for each in asked]


ERRORS = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
