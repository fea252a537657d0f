"""A job as it is shown: a line for people, a line of JSON for programs."""

from __future__ import annotations

import json
import time

from graced.clock import iso
from graced.queue import jsonvalue
from graced.text import one_line
from graced.units import format_age, format_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


MOMENTS = ("submitted", "due", "began", "ended", "scheduled")
FACTS = (
    "payload",
    "priority",
    "unique",
    "schedule",
    "scheduled",
    "submitted",
    "due",
    "began",
    "ended",
    "attempts",
    "max_attempts",
    "token",
    "owner",
    "result",
)
USUAL = {"priority": 0}


def json_line(job: dict[str, Any]) -> str:
    """Return one line with everything that is known of a job."""
    return json.dumps(_shown(job))


def json_whole(job: dict[str, Any]) -> str:
    """Return one line with a job and its attempts one by one."""
    tries = [
        _moments(each) | {"evidence": jsonvalue.read_or_text(each["evidence"])}
        for each in job["tries"]
    ]
    return json.dumps(_shown(job) | {"tries": tries})


def _shown(job: dict[str, Any]) -> dict[str, Any]:
    shown = _moments({key: value for key, value in job.items() if key not in ("dead", "tries")})
    for name in ("payload", "result", "evidence"):
        shown[name] = jsonvalue.read_or_text(job[name])
    return shown


def _moments(told: dict[str, Any]) -> dict[str, Any]:
    known = {name: told[name] for name in MOMENTS if told.get(name) is not None}
    return told | {name: _iso(at) for name, at in known.items()}


def in_full(job: dict[str, Any]) -> str:
    """Return all that is known of a job, for people: one thing a line."""
    shown = _shown(job)
    lines = [f"job {job['id']}: {_state(job)}"]
    for name in FACTS:
        value = shown.get(name)
        if value is not None and value != USUAL.get(name):
            lines.append(f"  {name:13} {_fact(name, value)}")
    last = job["tries"][-1]["evidence"] if job["tries"] else None
    if job["evidence"] is not None and job["evidence"] != last:
        lines += _evidence(shown["evidence"], "  ")
    for each in job["tries"]:
        free = "" if each["counts"] else ", which does not count"
        lines.append(f"  attempt {each['attempt']}{free}: {_lasted(each)}")
        lines += _evidence(jsonvalue.read_or_text(each["evidence"]), "    ")
    return "\n".join(lines)


def _state(job: dict[str, Any]) -> str:
    now = "cancelling" if job.get("cancelling") else job["state"]
    progress = job.get("progress")
    if progress is None:
        return str(now)
    return one_line(f"{now}, {_how_far(progress)}")


def _how_far(progress: dict[str, Any]) -> str:
    """Say how far a job is: ``40% page 4 of 10``."""
    done = [] if progress["fraction"] is None else [f"{progress['fraction']:.0%}"]
    return " ".join([*done, *([progress["text"]] if progress["text"] else [])])


def _fact(name: str, value: Any) -> str:
    if name == "payload":
        return one_line(_what(value))
    return one_line(value if isinstance(value, str) else json.dumps(value))


def _lasted(each: dict[str, Any]) -> str:
    ended = _iso(each["ended"])
    if each["began"] is None:
        return f"ended {ended}"
    return f"{_iso(each['began'])}, {format_duration(max(each['ended'] - each['began'], 0.0))}"


def _evidence(found: Any, indent: str) -> list[str]:
    """Return what is known of a failure, what has several lines last."""
    facts = found if isinstance(found, dict) else {"reason": found}
    short = [(name, value) for name, value in facts.items() if not _is_long(value)]
    lines = [f"{indent}{name}: {one_line(_text(value))}" for name, value in short]
    for name, value in facts.items():
        if _is_long(value):
            lines.append(f"{indent}{name}:")
            lines += [f"{indent}  {one_line(line)}" for line in value.rstrip("\n").split("\n")]
    return lines


def _is_long(value: Any) -> bool:
    return isinstance(value, str) and "\n" in value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


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
        what = _shortened(_what(jsonvalue.read_or_text(job["payload"])), self.MAX_TEXT)
        why = evidence(job).get("reason")
        if job.get("progress"):
            what += f"  ({_shortened(_how_far(job['progress']), self.MAX_TEXT)})"
        elif why and job["state"] != "done":
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
