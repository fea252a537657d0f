"""The layout of `graced status`: everything that the JSON has is there, and nothing breaks it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.cli.status_table import table
from graced.units import format_size, format_span

STATUS: dict[str, Any] = {
    "name": "shop",
    "version": "0.1.0",
    "pid": 812,
    "state": "running",
    "generation": 2,
    "ready": True,
    "uptime": 11_110.1,
    "last_reload": {"at": "2026-01-02T03:04:05.678Z", "ok": False, "reason": "config.yaml:7:5: no"},
    "pools": {
        "jobs": {
            "target": 2,
            "ready": 1,
            "busy": 1,
            "deaths": 1,
            "backoff": {"failures": 3, "next_start_in": 1.25},
            "queue": {"waiting": 10, "taken": 3, "done": 120, "dead": 0},
            "workers": [
                {
                    "slot": 0,
                    "pid": 815,
                    "state": "busy",
                    "generation": 2,
                    "rounds": 31,
                    "errors": 4,
                    "busy_for": 1.2,
                    "age": 100.0,
                    "rss": 25165824,
                },
                {
                    "slot": 1,
                    "pid": None,
                    "state": "starting",
                    "generation": 2,
                    "rounds": 0,
                    "errors": 0,
                    "busy_for": None,
                    "age": 0.05,
                    "rss": None,
                },
            ],
            "last_deaths": [
                {
                    "slot": 1,
                    "pid": 817,
                    "at": "2026-01-02T03:04:06.000Z",
                    "reason": "killed by SIGSEGV",
                    "rounds": 12,
                }
            ],
        }
    },
}


def test_all_of_it() -> None:
    assert table(STATUS) == (
        "shop (pid 812, graced 0.1.0): running, generation 2, up 3 h 5 min\n"
        "last reload at 2026-01-02T03:04:05.678Z: refused: config.yaml:7:5: no\n"
        "\n"
        "jobs: 1/2 workers ready, 1 busy, 1 death\n"
        "  in back-off after 3 failures: next start in 1.2 s\n"
        "  queue: 10 waiting, 3 taken, 120 done, 0 dead\n"
        "  SLOT  PID  STATE     GEN  ROUNDS  ERRORS  BUSY FOR           AGE    RSS\n"
        "     0  815  busy        2      31       4     1.2 s  1 min 40 s  24.0M\n"
        "     1    -  starting    2       0       0         -       50 ms      -\n"
        "  last deaths:\n"
        "    2026-01-02T03:04:06.000Z slot 1 (pid 817): killed by SIGSEGV, after 12 rounds\n"
    ).replace("           AGE", "         AGE")


def test_what_is_not_there_is_left_out() -> None:
    text = table({**STATUS, "ready": False, "last_reload": None, "pools": {"p": {}}})
    assert "not ready yet" in text
    assert "reload" not in text
    assert "None" not in table({"pools": {"p": {"workers": [{}]}}}).split("\n", 3)[3]


@pytest.mark.parametrize(
    ("last", "told"),
    [
        ({"ok": True, "reason": None, "incomplete": False}, "done"),
        ({"ok": False, "reason": "why", "incomplete": False}, "refused: why"),
        ({"ok": False, "reason": "why", "incomplete": True}, "incomplete: why"),
    ],
)
def test_the_last_reload(last: dict[str, Any], told: str) -> None:
    text = table({**STATUS, "last_reload": {"at": "then", **last}})
    assert text.splitlines()[1] == f"last reload at then: {told}"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 ms"), (0.35, "350 ms"), (59.94, "59.9 s"), (61, "1 min 1 s"), (90000, "1 d 1 h")],
)
def test_spans(seconds: float, text: str) -> None:
    assert format_span(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (1023, "1023"), (1024, "1.0K"), (3 << 40, "3.0T"), (5 << 50, "5120.0T")],
)
def test_sizes(number: int, text: str) -> None:
    assert format_size(number) == text


@given(st.floats(0, 1e9))
def test_every_span_is_short(seconds: float) -> None:
    assert 3 < len(format_span(seconds)) < 13


def test_no_text_of_a_worker_moves_the_cursor_or_turns_the_line() -> None:
    reason = "ValueError: \x1b[2J\x9b1A\r\x07 \u202egnp.exe\u2066\n second \ud800 naïve →"
    death = {"slot": 0, "pid": 7, "at": "now", "reason": reason, "rounds": 1}
    pool = {"target": 1, "ready": 1, "busy": 0, "deaths": 1, "last_deaths": [death]}
    text = table({"name": "graced", "pools": {"jobs": pool}})
    told = next(line for line in text.splitlines() if "ValueError" in line)
    assert r"\x1b[2J\x9b1A\x0d\x07 \u202egnp.exe\u2066\n second \ud800 naïve →" in told
    assert all(line.isprintable() for line in text.splitlines())
