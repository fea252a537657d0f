"""What has happened, in words: one line for an event of the history."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Event = dict[str, Any]


def said(event: Event) -> str:
    """Return an event in words, without its time."""
    what, get = str(event["what"]), event.get
    match what:
        case "start":
            return f"started (pid {get('pid')}, version {get('version')})"
        case "stopping":
            return "stopping"
        case "stop":
            return "stopped" if get("reason") is None else f"stopped: {get('reason')}"
        case "death":
            return f"{_worker(event)} died: {get('reason')}, after {get('rounds')} rounds"
        case "killed":
            return f"{_worker(event)} had to be killed, after {get('rounds')} rounds"
        case "reload":
            return _reload(event)
        case "scale":
            return f"{get('pool')}: scaled from {get('before')} to {get('workers')} workers"
        case "trouble":
            return f"queue {get('pool')}: {get('reason') or 'works again'}"
        case "queue":
            states = ("waiting", "taken", "done", "dead")
            counts = ", ".join(
                f"{get(state)} {state}" for state in states if get(state) is not None
            )
            return f"queue {get('pool')}: {counts}"
    return what


def _worker(event: Event) -> str:
    return f"worker {event.get('pool')}/{event.get('slot')} (pid {event.get('pid')})"


def _reload(event: Event) -> str:
    if event.get("result") == "ok":
        return f"reloaded: generation {event.get('generation')}"
    return f"reload {event.get('result')}: {event.get('reason')}"
