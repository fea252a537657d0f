"""The history: bounded, over restarts, and never in the way of the daemon."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from xml.etree import ElementTree

from graced.monitoring import history
from graced.monitoring.history import START, History, chosen, chunk, events
from graced.monitoring.timeline import drawn
from graced.monitoring.words import said
from graced.text import one_line

WARNED: list[str] = []


def all_events(folder: Path) -> list[history.Event]:
    found: list[history.Event] = []
    data, place = chunk(str(folder), START)
    while place is not None:
        found += events(data)
        data, place = chunk(str(folder), place)
    return found


def opened(folder: Path, warned: list[str] | None = None) -> History:
    return History(str(folder), WARNED.append if warned is None else warned.append)


def test_it_is_read_in_the_order_of_its_writing_over_restarts(tmp_path: Path) -> None:
    for run in range(3):
        kept = opened(tmp_path)
        kept.record("start", pid=run)
        kept.record("death", pool="jobs", reason="ünspoken\n", slot=None)
        kept.close()
    found = all_events(tmp_path)
    assert [event.get("pid") for event in found if event["what"] == "start"] == [0, 1, 2]
    assert found[1]["reason"] == "ünspoken\n"
    assert "slot" not in found[1]  # what is not known is not told
    assert [len(chosen(found, since)) for since in (found[0]["at"], "9999")] == [6, 0]
    assert [len(chosen(found, "", pool)) for pool in ("jobs", "other", None)] == [6, 3, 6]


def test_it_is_bounded_and_keeps_what_is_newest(tmp_path: Path) -> None:
    kept = opened(tmp_path)
    for number in range(5000):
        kept.record("death", rounds=number, stack="x" * 10_000)
    kept.close()
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert 5_000_000 < size <= 10_000_000
    numbers = [event["rounds"] for event in all_events(tmp_path)]
    assert numbers == list(range(numbers[0], 5000))
    place = (1, 77)  # in a file that is no more
    assert next(iter(events(chunk(str(tmp_path), place)[0])))["rounds"] == numbers[0]


def test_no_room_costs_events_and_nothing_else(tmp_path: Path) -> None:
    """The end of the room cuts a line in two; what comes once there is room again is whole."""
    warned: list[str] = []
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    kept = opened(tmp_path, warned)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
        for number in range(100):
            kept.record("death", rounds=number)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert len(warned) == 1
    assert str(tmp_path) in warned[0]
    kept.record("death", rounds=100)
    kept.close()
    numbers = [event["rounds"] for event in all_events(tmp_path)]
    assert numbers == [*range(len(numbers) - 1), 100]
    assert 5 < len(numbers) < 50


def test_a_folder_that_is_gone_is_told_once(tmp_path: Path) -> None:
    warned: list[str] = []
    kept = opened(tmp_path / "gone", warned)
    kept.record("start")
    kept.record("stop")
    os.mkdir(tmp_path / "gone")
    kept.record("start")
    kept.close()
    assert len(warned) == 1
    assert [event["what"] for event in all_events(tmp_path / "gone")] == ["start"]


def test_what_is_no_event_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "history-7.jsonl").write_bytes(
        b'\n{"at": "2026-01-01", "what": "stop"}\n[]\nnull\n{"at": 3}\n{"at": "x\n\xff\n'
        b'{"at": "x", "what": "stop"}\n{"at": "2026-01-01", "what": []}\n' + b"[" * 100_000 + b"\n"
    )
    (tmp_path / "history-x.jsonl").write_bytes(b"no number")
    assert [event["what"] for event in all_events(tmp_path)] == ["stop"]
    kept = opened(tmp_path)
    kept.record("start")
    kept.close()
    assert [event["what"] for event in all_events(tmp_path)] == ["stop", "start"]


def test_the_picture_has_every_mark_and_is_harmless() -> None:
    at = "2026-01-01T{:02d}:00:00.000Z".format
    odd = '<script>"\x1b[2J&'
    found: list[history.Event] = [
        {"at": at(1), "what": "start", "pid": 1, "version": "1"},
        {"at": at(2), "what": "queue", "pool": "jobs", "waiting": 10, "taken": 2},
        {"at": at(3), "what": "death", "pool": "jobs", "slot": 0, "reason": odd, "rounds": 3},
        {"at": at(4), "what": "reload", "result": "refused", "reason": odd},
        {"at": at(5), "what": "scale", "pool": odd, "before": 1, "workers": 2},
        {"at": at(6), "what": "queue", "pool": "jobs", "waiting": 0, "taken": 0},
        {"at": at(7), "what": "stop", "code": 0},
        {"at": at(9), "what": "start", "pid": 2, "version": "1"},
        {"at": at(10), "what": "unheard of"},
    ]
    picture = drawn(found, at(0), at(12))
    root = ElementTree.fromstring(picture)
    titles = [title.text or "" for title in root.iter("{http://www.w3.org/2000/svg}title")]
    for event in found:
        if event["what"] not in ("queue", "unheard of"):
            assert sum(title.endswith(f" {one_line(said(event))}") for title in titles) == 1
    assert "no daemon" in titles
    assert "12 jobs" in picture
    assert "\x1b" not in picture
    assert len(list(root.iter("{http://www.w3.org/2000/svg}script"))) == 0
    assert ElementTree.fromstring(drawn([], at(0), at(0))) is not None
