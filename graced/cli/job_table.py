"""A job as it is shown: a line for people, a line of JSON for programs."""

from __future__ import annotations

import json
import time

from graced.clock import iso
from graced.queue import jsonvalue
from graced.text import one_line
from graced.units import format_age

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def json_line(job: dict[str, Any]) -> str:
    """Return one line with everything that is known of a job."""
    shown = {key: job[key] for key in ("id", "state", "attempts", "max_attempts", "owner")}
    for moment in ("submitted", "due", "ended"):
        at = job[moment]
        shown[moment] = None if at is None else _iso(at)
    for name in ("payload", "result", "evidence"):
        shown[name] = _parsed(job[name])
    return json.dumps(shown)


def _parsed(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return jsonvalue.read(text)
    except ValueError:  # what a stranger has put into the queue
        return text


def _iso(at: float) -> str:
    return iso(round(at * 1000) * 1_000_000)


def evidence(job: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of the last attempt that failed."""
    text = job.get("evidence")
    found = json.loads(text) if text else {}
    return found if isinstance(found, dict) else {"reason": str(found)}


class Table:
    """One job a line, for people; the first line comes with the head."""

    MAX_TEXT = 100  # characters

    def __init__(self) -> None:
        self._head = f"{'ID':>8}  {'STATE':8} {'TRIES':>5}  {'AGE':>6}  WHAT\n"

    def __call__(self, job: dict[str, Any]) -> str:
        """Return a job's line."""
        head, self._head = self._head, ""
        age = format_age(time.time() - job["submitted"])
        what = _shortened(_what(_parsed(job["payload"])), self.MAX_TEXT)
        why = evidence(job).get("reason")
        if why and job["state"] != "done":
            what += f"  ({_shortened(str(why), self.MAX_TEXT)})"
        tries = job["attempts"]
        return f"{head}{job['id']:>8}  {job['state']:8} {tries:>5}  {age:>6}  {one_line(what)}"


def _what(payload: Any) -> str:
    if isinstance(payload, dict) and isinstance(payload.get("argv"), list):
        from shlex import join

        return join(str(word) for word in payload["argv"])
    return json.dumps(payload)


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
