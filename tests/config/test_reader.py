"""The configuration: right files, wrong files, layers, and files that are none."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import pytest
import yaml

from graced import program, units
from graced.config import reader
from graced.config.identity import UnknownDaemonError
from graced.config.reader import ConfigReading, Problem
from graced.host.address import parse
from graced.settings import Backoff, Log, Pool, Schedule, Settings
from graced.text import printable

POOL = "pools: {jobs: {}}\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str | bytes, path: str = "config.yaml") -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(text if isinstance(text, bytes) else text.encode())


def read(text: str | bytes, *sets: str, **environ: str) -> ConfigReading:
    write(text)
    return reader.read("config.yaml", environ, sets)


def settings(text: str | bytes, *sets: str, **environ: str) -> Settings:
    reading = read(text, *sets, **environ)
    assert reading.problems == ()
    assert reading.settings is not None
    return reading.settings


def pool(text: str, *sets: str, **environ: str) -> Pool:
    return settings(f"pools: {{jobs: {{{text}}}}}", *sets, **environ).pools["jobs"]


def problems(text: str | bytes, *sets: str, **environ: str) -> list[str]:
    reading = read(text, *sets, **environ)
    assert reading.settings is None
    for problem in reading.problems:
        assert problem.remedy
        assert "\n" not in str(problem)
        assert len(str(problem)) < 1000
    return [str(problem) for problem in reading.problems]


# Right files

DEFAULTS = """\
name: graced                    # in process titles, logs, metrics
runtime_dir: null
state_dir: null
user: null
group: null
max_lease: 1h
log:
  level: info                   # debug info warning error
  format: auto                  # journal under systemd, text else; or json
  file: null
watchdog_quorum: 1
pools:
  jobs:
    worker: graced.workers:Command   # module:Class
    workers: 1                  # or: cpus
    after: []
    preload: true
    path: []
    env: {}
    env_file: null
    options: {}
    listen: []
    concurrency: 1
    ready_timeout: 30s
    round_timeout: null
    drain_timeout: 30s
    stop_timeout: 5s
    max_errors: 10
    max_rounds: null
    max_age: null
    max_rss: null
    surge: 1
    backoff: {first: 100ms, factor: 2, limit: 30s, reset: 60s}
    queue: null
    max_attempts: 3
    retry: {first: 1s, factor: 2, limit: 10m}
    keep_done: 1d
    max_waiting: null
    lease: 30s
    submit_group: null
schedules: {}
web: {listen: null}
"""


def test_the_published_example_is_exactly_the_defaults() -> None:
    assert settings(DEFAULTS) == Settings(pools={"jobs": Pool("jobs")})
    assert settings(POOL) == settings(DEFAULTS)
    assert settings("pools:\n  jobs:\n") == settings(DEFAULTS)


def test_the_published_example_has_every_key() -> None:
    reading = read(DEFAULTS)
    assert "default" not in reading.sources.values()
    assert reading.sources["pools.jobs.drain_timeout"] == "config.yaml:26:20"
    assert reading.sources["pools.jobs.env"] == "config.yaml:19:10"
    assert reading.sources.keys() == read(POOL).sources.keys()


def test_values_become_what_they_mean(here: Path) -> None:
    text = """
name: shop-1
runtime_dir: run
state_dir: /var/lib/x/../shop
log: {level: error, format: json, file: log/shop.log}
watchdog_quorum: 0
pools:
  a-b:
    worker: shop.mail:Sender.Inner
    workers: 4
    after: [c]
    preload: false
    path: [src, /opt/x, ../lib]
    env: {A: 1, B: true, C: yes, D: 010, E: '', F: "x=y"}
    options: {a: [1, 2.5, true, null, {b: text}], 1: '2', x: 0x1F, inf: -.inf}
    ready_timeout: 500ms
    round_timeout: 2m
    drain_timeout: 0
    stop_timeout: 1.5
    max_rounds: 10000
    max_age: 1d
    max_rss: 300M
    surge: 0
    concurrency: 500
    backoff: {factor: 1.5}
    queue: sqlite:///mail.db
    keep_done: "1h"
  c:
"""
    found = settings(text)
    assert found.name == "shop-1"
    assert found.runtime_dir == f"{here}/run"
    assert found.state_dir == "/var/lib/shop"
    assert found.log == Log("error", "json", f"{here}/log/shop.log")
    assert found.pools == {
        "a-b": Pool(
            name="a-b",
            worker="shop.mail:Sender.Inner",
            workers=4,
            after=("c",),
            preload=False,
            path=(f"{here}/src", "/opt/x", f"{here.parent}/lib"),
            env={"A": "1", "B": "true", "C": "yes", "D": "010", "E": "", "F": "x=y"},
            options={
                "a": [1, 2.5, True, None, {"b": "text"}],
                1: "2",
                "x": 31,
                "inf": float("-inf"),
            },
            ready_timeout=0.5,
            round_timeout=120.0,
            drain_timeout=0.0,
            stop_timeout=1.5,
            max_rounds=10000,
            max_age=86400.0,
            max_rss=300 << 20,
            surge=0,
            concurrency=500,
            backoff=Backoff(factor=1.5),
            queue="sqlite:///mail.db",
            keep_done=3600.0,
        ),
        "c": Pool("c"),
    }


def test_addresses_are_one_or_a_list() -> None:
    assert pool("").listen == pool("listen: []").listen == pool("listen: null").listen == ()
    assert pool("listen: tcp://127.0.0.1:8080").listen == ("tcp://127.0.0.1:8080",)
    found = pool("listen: [unix:///run/x.sock?mode=0666&backlog=7, 'tcp://[::]:1', fd:web]").listen
    assert [parse(text).kind for text in found] == ["unix", "tcp", "fd"]
    unix, tcp, named = map(parse, found)
    assert (unix.name, unix.mode, unix.backlog) == ("/run/x.sock", 0o666, 7)
    assert (tcp.host, tcp.port, tcp.place) == ("::", 1, "tcp://[::]:1")
    assert named.name == "web"


def test_cpus_are_those_that_may_be_used() -> None:
    assert pool("workers: cpus").workers == len(os.sched_getaffinity(0))


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm() -> None:
    assert settings(b"\xef\xbb\xbfname: shop\r\npools: {jobs: {}}\r\n").name == "shop"


def test_aliases_and_merge_keys() -> None:
    text = """
pools:
  a: &a {workers: 2, surge: 3, env: {X: 1}}
  b: &b
    <<: *a
    workers: 4
  c:
    <<: [{preload: false, surge: 5}, *b]
  d: {env: &env {Y: 2}}
  e: {env: *env}
"""
    pools = settings(text).pools
    assert pools["b"] == Pool("b", workers=4, surge=3, env={"X": "1"})
    assert pools["c"] == Pool("c", workers=4, surge=5, env={"X": "1"}, preload=False)
    assert pools["e"].env == {"Y": "2"}


def test_a_value_from_an_alias_is_blamed_where_it_was_written() -> None:
    text = "pools:\n  a: &a\n    workers: 0\n  b:\n    <<: *a\n"
    assert [p.split(" ")[0] for p in problems(text)] == ["config.yaml:3:14:"] * 2


def test_schedules() -> None:
    text = """
pools: {jobs: {}, web: {}}
schedules:
  nightly: {pool: jobs, cron: 30 2 * * *, zone: Europe/Berlin, payload: {argv: [make], 1: ~}}
  often: {pool: jobs, every: 10m, missed: all, overlap: skip, jitter: 5s, payload: [1, x]}
  plain: {pool: web, cron: "@daily"}
"""
    found = settings(text, GRACED__SCHEDULES__PLAIN__PAYLOAD__A__B="{c: 1}")
    payload = {"argv": ["make"], "1": None}
    assert found.schedules == {
        "nightly": Schedule("nightly", "jobs", "30 2 * * *", None, "Europe/Berlin", payload),
        "often": Schedule("often", "jobs", None, 600.0, "UTC", [1, "x"], "all", "skip", 5.0),
        "plain": Schedule("plain", "web", "@daily", payload={"a": {"b": {"c": 1}}}),
    }
    assert found.pools["jobs"].scheduled == ("nightly", "often")


# Wrong files: text, and how each problem begins

WRONG = {
    "the example of the style guide": (
        "name: x\n\n\npools:\n  jobs:\n\n    drain_timeout: 30 parsecs\n",
        [
            "config.yaml:7:20: pools.jobs.drain_timeout: cannot read '30 parsecs' as a duration; "
            "write a number and a unit, such as 30s"
        ],
    ),
    "empty": ("", ["config.yaml: pools: there are no pools; write"]),
    "only a comment": ("# soon\n", ["config.yaml: pools: there are no pools; write"]),
    "null": ("~", ["config.yaml: pools: there are no pools; write"]),
    "no pools": ("name: x\n", ["config.yaml: pools: there are no pools; write"]),
    "pools without one": ("name: x\npools: {}\n", ["config.yaml:2:8: pools: there are no pools"]),
    "a list": ("- name\n", ["config.yaml:1:1: is not a mapping; write keys"]),
    "a text": ("\nhello\n", ["config.yaml:2:1: is not a mapping; write keys"]),
    "pools in a list": (
        "pools: [jobs]\n",
        ["config.yaml:1:8: pools: is not a mapping; write keys and values below it"],
    ),
    "a pool that is a number": (
        "pools:\n  jobs: 3\n",
        ["config.yaml:2:9: pools.jobs: is not a mapping; write"],
    ),
    "two documents": (
        f"{POOL}---\nname: x\n",
        ["config.yaml:2:1: a second document begins here; keep one"],
    ),
    "a key twice": (
        f"name: a\n{POOL}name: b\n",
        ["config.yaml:3:1: name: is set twice, first in line 1; remove one"],
    ),
    "a pool twice": (
        "pools:\n  a: {}\n  a: {}\n",
        ["config.yaml:3:3: pools.a: is set twice, first in line 2; remove one"],
    ),
    "an option twice": (
        "pools: {a: {options: {x: 1, 'x': 2}}}",
        ["config.yaml:1:29: pools.a.options.x: is set twice, first in line 1"],
    ),
    "an option twice to Python": (
        "pools: {a: {options: {1: a, true: b}}}",
        ["config.yaml:1:29: pools.a.options.true: is set twice; remove"],
    ),
    "a tag": (
        f"name: !!str x\n{POOL}",
        ["config.yaml:1:7: name: has a tag, 'tag:yaml.org,2002:str'; write it without"],
    ),
    "a tag that runs code elsewhere": (
        "pools: {a: {options: {x: !!python/object/apply:os.system [ls]}}}",
        ["config.yaml:1:26: pools.a.options.x: has a tag, 'tag:yaml.org,2002:python/object"],
    ),
    "a tag of one's own": (f"name: ! x\n{POOL}", ["config.yaml:1:7: name: has a tag, '!'"]),
    "an alias that contains itself": (
        "pools: {a: {options: &x {y: *x}}}",
        ["config.yaml:1:29: pools.a.options.y: the alias *x contains itself; write it out"],
    ),
    "an alias of nothing": (
        "name: *x\n",
        ["config.yaml:1:7: name: the alias *x is not defined above; write it out"],
    ),
    "a merge of a text": (
        "pools: {a: {<<: b}}",
        ["config.yaml:1:13: pools.a.<<: only mappings can be merged; write '<<: *name'"],
    ),
    "a key that is a list": (
        "pools: {? [a] : {}, b: }",
        ["config.yaml:1:11: pools.?: a list or a mapping cannot be a key; write a text"],
    ),
    "a tab": (
        "pools:\n\tjobs: {}\n",
        [
            "config.yaml:2:1: pools: cannot be read as YAML: found character that cannot start "
            "any token; indent with spaces, not with tabs"
        ],
    ),
    "a quote that is not closed": (
        'log:\n  file: "x\npools: {}\n',
        ["config.yaml:2:9: log.file: the quote that opens here is never closed; close it"],
    ),
    "a bracket that is not closed": (
        "pools: {a: {after: [x}}\n",
        ["config.yaml:1:22: pools.a.after.1: cannot be read as YAML: did not find expected ',' or"],
    ),
    "a colon too many": (
        "pools:\n  a: {}\nname: a: b\n",
        [
            "config.yaml:3:8: cannot be read as YAML: mapping values are not allowed in "
            "this context; put a value that contains ': ' in quotes"
        ],
    ),
    "a special character": (
        f"name: @x\n{POOL}",
        [
            "config.yaml:1:7: name: cannot be read as YAML: found character that cannot start any "
            "token; put a value that starts with a special character in quotes"
        ],
    ),
    "bad indentation": (
        "pools:\n    jobs: {}\n  name: x\n",
        ["config.yaml:3:3: cannot be read as YAML: did not find expected key; check"],
    ),
    "what comes before the place is checked too": (
        "nome: x\nlog: {level: loud}\npools: [\n",
        [
            "config.yaml:1:1: nome: unknown key; did you mean 'name'?",
            "config.yaml:2:14: log.level: 'loud' is none of debug, info, warning, error; write",
            "config.yaml:3:8: pools.0: the bracket that opens here is never closed; close it",
        ],
    ),
    "Latin-1": (
        b"# a\nname: caf\xe9\n",
        ["config.yaml:2:10: has a byte that is not UTF-8, 0xe9; save it as UTF-8"],
    ),
    "UTF-16": (
        "name: x".encode("utf-16"),
        ["config.yaml:1:1: has a byte that is not UTF-8, 0xff; save it as UTF-8"],
    ),
    "a NUL": (
        b"# a\nname: x\0y\n",
        ["config.yaml:2:8: has a control character; write the file as plain UTF-8 text"],
    ),
    "a NUL by escape": (
        f'{POOL}log: {{file: "a\\0b"}}',
        ["config.yaml:2:13: log.file: 'a\\x00b' cannot be a path; write a path"],
    ),
    "too large": (b"#" * (1 << 20) + b"\n", ["config.yaml: is larger than 1 MiB; make it smaller"]),
    "an unknown key": (
        f"watchdog_qorum: 1\n{POOL}",
        ["config.yaml:1:1: watchdog_qorum: unknown key; did you mean 'watchdog_quorum'?"],
    ),
    "an unknown key like none": (
        f"{POOL}zzz: 1\n",
        ["config.yaml:2:1: zzz: unknown key; write one of name, runtime_dir, state_dir, user"],
    ),
    "a key with dashes": (
        "pools: {jobs: {drain-timeout: 3}}",
        ["config.yaml:1:16: pools.jobs.drain-timeout: unknown key; did you mean 'drain_timeout'?"],
    ),
    "a pool's key outside": (
        f"{POOL}workers: 3\n",
        ["config.yaml:2:1: workers: unknown key; did you mean 'pools.NAME.workers'?"],
    ),
    "the log's key outside": (
        f"{POOL}level: info\n",
        ["config.yaml:2:1: level: unknown key; did you mean 'log.level'?"],
    ),
    "a key of the daemon in a pool": (
        "pools: {jobs: {log: {}}}",
        ["config.yaml:1:16: pools.jobs.log: unknown key; move it out of the pool"],
    ),
    "a pool's name is no key": (
        "pools: {jobs: {name: x}}",
        ["config.yaml:1:16: pools.jobs.name: unknown key; move it out of the pool"],
    ),
    "an unknown key of backoff": (
        "pools: {jobs: {backoff: {max: 3}}}",
        ["config.yaml:1:26: pools.jobs.backoff.max: unknown key; write one of first, factor"],
    ),
    "a key that is empty": (f"{POOL}'': x\n", ["config.yaml:2:1: unknown key; write one of"]),
    "no name": (f"name:\n{POOL}", ["config.yaml:1:6: name: is empty; write a name, or leave"]),
    "a bad name": (
        f"name: a/b\n{POOL}",
        ["config.yaml:1:7: name: 'a/b' cannot be a name; write up to 32 letters"],
    ),
    "a long name": (f"name: {'x' * 33}\n{POOL}", ["config.yaml:1:7: name: 'xxx"]),
    "a pool with a dot": (
        "pools: {a.b: {}}",
        ["config.yaml:1:9: pools.a.b: 'a.b' cannot be a name; write"],
    ),
    "a pool with two underscores": (
        "pools: {a__b: {}}",
        ["config.yaml:1:9: pools.a__b: 'a__b' cannot be a name; write"],
    ),
    "a pool that is a number's name": (
        "pools: {1: {}}",
        ["config.yaml:1:9: pools.1: '1' cannot be a name; write"],
    ),
    "a name in Greek": (f"name: αβγ\n{POOL}", ["config.yaml:1:7: name: 'αβγ' cannot be a name"]),
    "a log level": (
        f"{POOL}log: {{level: warn}}",
        [
            "config.yaml:2:14: log.level: 'warn' is none of debug, info, warning, error; "
            "did you mean 'warning'?"
        ],
    ),
    "a log that is a word": (
        f"{POOL}log: debug\n",
        ["config.yaml:2:6: log: is not a mapping; write keys and values below it, indented"],
    ),
    "a log file that is a folder": (
        f"{POOL}log: {{file: /var/log/}}",
        ["config.yaml:2:13: log.file: '/var/log/' names a folder; write the path of a file"],
    ),
    "a list for a text": (
        f"{POOL}name: [x]\n",
        ["config.yaml:2:7: name: is a list; write a name"],
    ),
    "a text that is true": (
        f"{POOL}runtime_dir: true\n",
        ["config.yaml:2:14: runtime_dir: cannot read 'true' as a path; write a path"],
    ),
    "an unknown user": (
        f"{POOL}user: nobody-at-all\n",
        ["config.yaml:2:7: user: there is no user 'nobody-at-all'; write a user of this host"],
    ),
    "an unknown user's number": (
        f"{POOL}user: 4012345678\n",
        ["config.yaml:2:7: user: there is no user '4012345678'; write a user of this host"],
    ),
    "an unknown group": (
        f"{POOL}group: {{}}\nuser: ''\n",
        ["config.yaml:2:8: group: is a mapping; write a group", "config.yaml:3:7: user: there is"],
    ),
    "more quorum than workers": (
        "watchdog_quorum: 4\npools: {a: {workers: 2}, b: {}}",
        ["config.yaml:1:18: watchdog_quorum: is more than all workers of all pools, which are 3"],
    ),
    "more quorum than workers that are wrong themselves": (
        "watchdog_quorum: 4\npools: {a: {workers: many}}",
        ["config.yaml:2:22: pools.a.workers: cannot read 'many' as a whole number; write"],
    ),
    "no workers": (
        "pools: {a: {workers: 0}}",
        [
            "config.yaml:1:22: pools.a.workers: '0' is too small; "
            "write a whole number from 1 to 1000, or cpus"
        ],
    ),
    "too many workers": (
        "pools: {a: {workers: 1001}}",
        ["config.yaml:1:22: pools.a.workers: '1001' is too large; write"],
    ),
    "too many workers together": (
        "pools:\n  a: {workers: 501}\n  b: {workers: 500}",
        ["config.yaml:2:16: pools.a.workers: all pools together have 1001 workers, more than 1000"],
    ),
    "very many workers": (
        f"pools: {{a: {{workers: {'9' * 10000}}}}}",
        ["config.yaml:1:22: pools.a.workers: '9999"],
    ),
    "workers with a point": (
        "pools: {a: {workers: 2.0}}",
        ["config.yaml:1:22: pools.a.workers: cannot read '2.0' as a whole number; write"],
    ),
    "octal workers": (
        "pools: {a: {workers: 010}}",
        ["config.yaml:1:22: pools.a.workers: '010' is octal to some readers of YAML; write"],
    ),
    "workers in quotes": (
        "pools: {a: {workers: '2'}}",
        ["config.yaml:1:22: pools.a.workers: '2' is a text in quotes; write a whole number"],
    ),
    "workers by yes": (
        "pools: {a: {workers: true}}",
        ["config.yaml:1:22: pools.a.workers: cannot read 'true' as a whole number; write"],
    ),
    "workers by the clock": (
        "pools: {a: {workers: 12:30:00}}",
        ["config.yaml:1:22: pools.a.workers: cannot read '12:30:00' as a whole number; write"],
    ),
    "workers that are null": (
        "pools: {a: {workers: null}}",
        ["config.yaml:1:22: pools.a.workers: is empty; write a whole number"],
    ),
    "a negative surge": (
        "pools: {a: {surge: -1}}",
        ["config.yaml:1:20: pools.a.surge: '-1' is too small; write a whole number from 0 to"],
    ),
    "no error allowed": (
        "pools: {a: {max_errors: 0, max_attempts: 0, max_rounds: 0}}",
        [
            "config.yaml:1:25: pools.a.max_errors: '0' is too small; write a whole number of at",
            "config.yaml:1:42: pools.a.max_attempts: '0' is too small",
            "config.yaml:1:57: pools.a.max_rounds: '0' is too small",
        ],
    ),
    "yes": (
        "pools: {a: {preload: yes}}",
        ["config.yaml:1:22: pools.a.preload: cannot read 'yes' as true or false; write true or"],
    ),
    "true in quotes": (
        "pools: {a: {preload: 'true'}}",
        ["config.yaml:1:22: pools.a.preload: 'true' is a text in quotes; write true or false"],
    ),
    "not a class": (
        "pools: {a: {worker: shop.mail}}",
        ["config.yaml:1:21: pools.a.worker: 'shop.mail' does not name a class; write module:Class"],
    ),
    "not a module": (
        "pools: {a: {worker: 'shop-mail:Sender'}, b: {worker: 'shop:'}, c: {worker: ':X'}}",
        ["config.yaml:1:21: pools.a.worker: ", "config.yaml:1:54: ", "config.yaml:1:76: "],
    ),
    "durations": (
        """\
pools:
  a:
    ready_timeout: 0
    round_timeout: 0s
    drain_timeout: -1s
    stop_timeout: .inf
    max_age: .nan
    keep_done: 12:30:00
    retry: {first: 1h30m, limit: 1e3, factor: 0.5}
    backoff:
      first: 30S
      limit: 36501d
      reset: yes
      factor: .inf
""",
        [
            "config.yaml:3:20: pools.a.ready_timeout: must be more than 0; write",
            "config.yaml:4:20: pools.a.round_timeout: must be more than 0; write",
            "config.yaml:5:20: pools.a.drain_timeout: '-1s' is negative; write",
            "config.yaml:6:19: pools.a.stop_timeout: cannot read '.inf' as a duration; write",
            "config.yaml:7:14: pools.a.max_age: cannot read '.nan' as a duration; write",
            "config.yaml:8:16: pools.a.keep_done: cannot read '12:30:00' as a duration; write",
            "config.yaml:9:20: pools.a.retry.first: cannot read '1h30m' as a duration; write",
            "config.yaml:9:34: pools.a.retry.limit: cannot read '1e3' as a duration; write",
            "config.yaml:9:47: pools.a.retry.factor: '0.5' is too small; write a number of at",
            "config.yaml:11:14: pools.a.backoff.first: cannot read '30S' as a duration; write",
            "config.yaml:12:14: pools.a.backoff.limit: '36501d' is more than a century; write",
            "config.yaml:13:14: pools.a.backoff.reset: cannot read 'yes' as a duration; write",
            "config.yaml:14:15: pools.a.backoff.factor: cannot read '.inf' as a number; write",
        ],
    ),
    "sizes": (
        "pools: {a: {max_rss: 1KB}, b: {max_rss: 300}, c: {max_rss: 9999999T}, d: {max_rss: -1M}}",
        [
            "config.yaml:1:22: pools.a.max_rss: cannot read '1KB' as a size; write",
            "config.yaml:1:41: pools.b.max_rss: must be at least 1M; write",
            "config.yaml:1:60: pools.c.max_rss: '9999999T' is more than any machine has; write",
            "config.yaml:1:84: pools.d.max_rss: cannot read '-1M' as a size; write",
        ],
    ),
    "limits below the first wait": (
        "pools:\n  a:\n    backoff: {first: 31s}\n    retry: {first: 3, limit: 2}\n",
        [
            "config.yaml:3:22: pools.a.backoff.first: limit is less than first; write",
            "config.yaml:4:30: pools.a.retry.limit: limit is less than first; write",
        ],
    ),
    "after": (
        "pools:\n  jobs: {after: job}\n  b: {after: [jbos, b, jobs, jobs, [x], ~, true]}\n",
        [
            "config.yaml:2:17: pools.jobs.after: is not a list; write a list, such as [jobs]",
            "config.yaml:3:15: pools.b.after.0: there is no pool 'jbos'; did you mean 'jobs'?",
            "config.yaml:3:21: pools.b.after.1: a pool cannot come after itself; take b out",
            "config.yaml:3:30: pools.b.after.3: names jobs twice; remove one of them",
            "config.yaml:3:36: pools.b.after.4: is a list; write a text",
            "config.yaml:3:41: pools.b.after.5: is empty; write a name",
            "config.yaml:3:44: pools.b.after.6: cannot read 'true' as a name; write a name",
        ],
    ),
    "a circle": (
        "pools: {x: {after: [a]}, a: {after: [b]}, b: {after: [c, d]}, c: {after: [a]}, d: }",
        ["config.yaml:1:37: pools.a.after: these pools wait for each other: a after b after c "],
    ),
    "a path that is a text": (
        "pools: {a: {path: src}}",
        ["config.yaml:1:19: pools.a.path: is not a list; write a list, such as [src]"],
    ),
    "an empty path": (
        "pools: {a: {path: ['']}}",
        ["config.yaml:1:20: pools.a.path.0: '' cannot be a path; write a path"],
    ),
    "variables": (
        'pools: {a: {env: {"A=B": x, C: [y], D: ~, E: "\\0", "": z}}}',
        [
            "config.yaml:1:26: pools.a.env.A=B: cannot be the name of a variable; write a name",
            "config.yaml:1:32: pools.a.env.C: is a list; write a text",
            "config.yaml:1:40: pools.a.env.D: is empty; write '' for an empty text",
            "config.yaml:1:46: pools.a.env.E: has a NUL character; leave it out",
            "config.yaml:1:56: pools.a.env.: cannot be the name of a variable; write a name",
        ],
    ),
    "variables in a list": (
        "pools: {a: {env: [A=1]}}",
        ["config.yaml:1:18: pools.a.env: is not a mapping; write keys and values below it"],
    ),
    "options in a list": (
        "pools: {a: {options: [x]}}",
        ["config.yaml:1:22: pools.a.options: is not a mapping; write"],
    ),
    "options that are read in two ways": (
        "pools: {a: {options: {a: yes, b: [010], c: 12:30:00, d: 2024-01-01, e: 1e3, f: 1_000}}}",
        [
            "config.yaml:1:26: pools.a.options.a: 'yes' is ambiguous in YAML; "
            "write true or false, or put it in quotes",
            "config.yaml:1:35: pools.a.options.b.0: '010' is ambiguous",
            "config.yaml:1:44: pools.a.options.c: '12:30:00' is ambiguous",
            "config.yaml:1:57: pools.a.options.d: '2024-01-01' is ambiguous",
            "config.yaml:1:72: pools.a.options.e: '1e3' is ambiguous",
            "config.yaml:1:80: pools.a.options.f: '1_000' is ambiguous",
        ],
    ),
    "queues": (
        "pools:\n"
        "  a: {queue: amqp://localhost/0}\n"
        "  b: {queue: 'sqlite://jobs.db'}\n"
        "  c: {queue: 'sqlite:///'}\n"
        "  d: {queue: 'sqlite:///:memory:'}\n"
        "  e: {queue: 'sqlite:///x?mode=ro'}\n"
        "  f: {queue: jobs.db}\n",
        [
            "config.yaml:2:14: pools.a.queue: 'amqp://localhost/0' names no queue engine, only "
            "sqlite, ",
            "config.yaml:3:14: pools.b.queue: 'sqlite://jobs.db' names a host; write",
            "config.yaml:4:14: pools.c.queue: 'sqlite:///' names no file; write",
            "config.yaml:5:14: pools.d.queue: 'sqlite:///:memory:' names no file; write",
            "config.yaml:6:14: pools.e.queue: 'sqlite:///x?mode=ro' is more than the path",
            "config.yaml:7:14: pools.f.queue: 'jobs.db' names no queue engine, only sqlite",
        ],
    ),
    "addresses": (
        "pools:\n"
        "  a: {listen: tcp://localhost:80}\n"
        "  b: {listen: 'tcp://127.0.0.1'}\n"
        "  c: {listen: ['tcp://[::1]:0', 'udp://1.2.3.4:5', 'fd:']}\n"
        "  d: {listen: 'unix://x.sock'}\n"
        "  e: {listen: 'unix:///x?mode=999'}\n"
        "  f: {listen: 'fd:web?backlog=3'}\n"
        "  g: {listen: {tcp: 80}}\n",
        [
            "config.yaml:2:15: pools.a.listen: 'localhost' is no numeric IP address; write 127.",
            "config.yaml:3:15: pools.b.listen: 'tcp://127.0.0.1' has no port; write tcp://127.0.",
            "config.yaml:4:16: pools.c.listen.0: there is no port 0; write a port from 1 to 65535",
            "config.yaml:4:33: pools.c.listen.1: 'udp://1.2.3.4:5' is no address; write tcp://",
            "config.yaml:4:52: pools.c.listen.2: '' cannot be the name of a descriptor; write the",
            "config.yaml:5:15: pools.d.listen: 'unix://x.sock' has no absolute path; write unix://",
            "config.yaml:6:15: pools.e.listen: mode=999 is no mode; write three octal digits",
            "config.yaml:7:15: pools.f.listen: 'backlog=3' means nothing there; write ?backlog=100",
            "config.yaml:8:15: pools.g.listen: is not a list; write a list, such as [tcp://127.0.",
        ],
    ),
    "one address for two": (
        "pools: {a: {listen: 'tcp://[::1]:80'}, b: {listen: [fd:x, 'tcp://[0:0::1]:080']}}",
        ["config.yaml:1:59: pools.b.listen.1: pool a listens on tcp://[::1]:80 already; remove"],
    ),
    "one address for a pool and the page": (
        "pools: {a: {listen: 'tcp://[::1]:80'}}\nweb: {listen: 'tcp://[::1]:80'}",
        ["config.yaml:2:15: web.listen: pool a listens on tcp://[::1]:80 already; remove one"],
    ),
    "one queue for two": (
        "pools: {a: {queue: 'sqlite:///x.db'}, b: {queue: 'sqlite:///x.db'}}",
        ["config.yaml:1:50: pools.b.queue: pool a has the same queue; write another one"],
    ),
    "schedules": (
        "pools: {jobs: {}}\n"
        "schedules:\n"
        "  a: {pool: jobs}\n"
        "  b: {pool: jobs, cron: '@daily', every: 10m}\n"
        "  c: {every: 1s}\n"
        "  d: {pool: jops, every: 1.5s}\n"
        "  e: {pool: jobs, cron: '0 0 31 2 *', zone: Berlin}\n"
        "  f: {pool: jobs, cron: 5 4 * *, zone: Europe/Berlni, missed: never, overlap: yes}\n"
        "  g: {pool: jobs, every: 0, payload: {a: .nan}}\n"
        "  h_: {pool: jobs, every: 1h, evry: 1}\n",
        [
            "config.yaml:3:3: schedules.a: has neither cron nor every; write cron: '30 2 * * *'",
            "config.yaml:4:42: schedules.b.every: cron is there too; remove one of them",
            "config.yaml:5:3: schedules.c: has no pool; write pool: jobs",
            "config.yaml:6:13: schedules.d.pool: there is no pool 'jops'; did you mean 'jobs'?",
            "config.yaml:6:26: schedules.d.every: is no number of whole seconds; write 1s, 90s",
            "config.yaml:7:25: schedules.e.cron: '0 0 31 2 *': never falls due: no such month has",
            "config.yaml:7:45: schedules.e.zone: there is no time zone 'Berlin'; did you mean "
            "'Europe/Berlin'?",
            "config.yaml:8:25: schedules.f.cron: '5 4 * *': has 4 fields, not five; write minute",
            "config.yaml:8:40: schedules.f.zone: there is no time zone 'Europe/Berlni'; did you",
            "config.yaml:8:63: schedules.f.missed: 'never' is none of skip, once, all; write one",
            "config.yaml:8:79: schedules.f.overlap: 'yes' is none of queue, skip; write one of",
            "config.yaml:9:26: schedules.g.every: must be more than 0; write a number and a unit",
            "config.yaml:9:38: schedules.g.payload: is no JSON value: Out of range float values",
            "config.yaml:10:3: schedules.h_: 'h_' cannot be a name; write up to 32 letters",
            "config.yaml:10:31: schedules.h_.evry: unknown key; did you mean 'every'?",
        ],
    ),
    "a text that tries to fool the terminal": (
        '"na\\x1b[2Jme": x\npools: {a: {worker: "x\\ny"}}',
        [
            "config.yaml:1:1: na\\x1b[2Jme: unknown key; ",
            "config.yaml:2:21: pools.a.worker: 'x\\ny' does not name a class",
        ],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files(case: str) -> None:
    text, expected = WRONG[case]
    found = problems(text)
    assert len(found) == len(expected), found
    for line, beginning in zip(found, expected, strict=True):
        assert line.startswith(beginning), line


@pytest.mark.parametrize(
    "case",
    [
        case
        for case, (_, expected) in WRONG.items()
        if not any(" read as YAML:" in line or "never closed" in line for line in expected)
    ],
)
def test_wrong_files_without_the_c_library(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, expected = WRONG[case]
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    for line, beginning in zip(problems(text), expected, strict=True):
        assert line.startswith(beginning), line


def test_half_a_character_without_the_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    assert problems(POOL + 'runtime_dir: "\\ud800"') == [
        "config.yaml:2:14: runtime_dir: is not a Unicode text; leave out \\ud800 to \\udfff",
        "config.yaml:2:14: runtime_dir: '' cannot be a path; write a path",
    ]


def test_the_file_is_called_what_the_user_calls_it(here: Path) -> None:
    write(f"name: 1\n{POOL}", "sub/x.yaml")
    for path in ("sub/x.yaml", f"{here}/sub/x.yaml", "./sub/../sub/x.yaml"):
        assert reader.read(path, {}, ()).problems[0].place == f"{path}:1:7"


def test_a_hundred_problems_are_enough() -> None:
    found = problems("".join(f"key{number}: 1\n" for number in range(1000)))
    assert len(found) == 100
    assert found[-1].startswith("config.yaml:99:1: and 902 more problems from here on; ")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "{a: " * 100_000,
        "- " * 100_000,
        "? " * 100_000,
        "".join(" " * depth + "a:\n" for depth in range(1000)),
        "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}' if n else 'x'] * 9)}]\n" for n in range(99)),
        "pools: {a: {options: {x: [" + "x," * 100_000 + "]}}}",
    ],
    ids=["lists", "mappings", "dashes", "keys", "indents", "laughs", "long"],
)
def test_what_is_too_deep_or_too_much_is_refused_at_once(text: str) -> None:
    found = problems(text)
    # PyYAML may have a limit of nesting of its own, and says it in its own words.
    assert found
    assert all(re.fullmatch(r"config\.yaml:\d+:\d+: .+; .+", line) for line in found), found


# Files that are none


def unreadable(path: str, **environ: str) -> str:
    reading = reader.read(path, environ, ())
    assert reading.settings is None
    assert len(reading.problems) == 1
    assert reading.path == path
    return str(reading.problems[0])


def test_no_file() -> None:
    places = "write ./config.yaml or /etc/graced/config.yaml, or name a file with -c or"
    assert unreadable("config.yaml").startswith(f"config.yaml: no such file; {places}")
    whole = os.path.abspath("config.yaml")
    assert unreadable(whole).startswith(f"{whole}: no such file; {places}")
    assert unreadable("x/y.yaml") == "x/y.yaml: no such file; check the path after -c"
    assert unreadable("x", GRACED_CONFIG="x") == "x: no such file; check $GRACED_CONFIG"


def test_a_folder() -> None:
    os.mkdir("folder")
    assert unreadable("folder") == "folder: is a folder; name the file in it"


def test_a_pipe_is_not_waited_for() -> None:
    os.mkfifo("pipe")
    assert unreadable("pipe").startswith("pipe: is not a regular file; write it to a file")


def test_a_device() -> None:
    assert unreadable("/dev/zero").startswith("/dev/zero: is not a regular file; ")


def test_a_path_through_a_file() -> None:
    write(POOL)
    assert "Not a directory" in str(reader.read("config.yaml/x", {}, ()).problems[0])


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 5000, "\udcff"])
def test_a_path_that_cannot_be(path: str) -> None:
    reading = reader.read(path, {}, ())
    assert reading.settings is None
    assert str(reading.problems[0]).encode()


def test_a_file_that_may_not_be_read() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = f"{folder}/config.yaml"
        write(POOL, path)
        os.chmod(path, 0)
        user = os.geteuid()
        os.seteuid(65534 if user == 0 else user)  # to root all is readable
        try:
            found = unreadable(path)
            unknown = no_identity(path)
        finally:
            os.seteuid(user)
    assert found == f"{path}: may not be read by this user; give this user the right to read it"
    assert unknown == found


def test_finding_the_file(here: Path) -> None:
    assert reader.find(None, {}) in ("config.yaml", "/etc/graced/config.yaml")
    write(POOL)
    assert reader.find(None, {}) == "config.yaml"
    assert reader.find(None, {"GRACED_CONFIG": ""}) == "config.yaml"
    assert reader.find(None, {"GRACED_CONFIG": "b.yaml"}) == "b.yaml"
    assert reader.find("a.yaml", {"GRACED_CONFIG": "b.yaml"}) == "a.yaml"
    assert reader.read(None, {"GRACED_CONFIG": "b.yaml"}, ()).path == "b.yaml"


# Users


def test_a_user_by_name_and_by_number() -> None:
    import grp
    import pwd

    user = pwd.getpwuid(os.geteuid()).pw_name
    group = grp.getgrgid(os.getegid()).gr_name
    assert settings(f"{POOL}user: {user}\ngroup: {group}\n").user == user
    numbered = settings(f"{POOL}user: {os.geteuid()}\ngroup: {os.getegid()}\n")
    assert (numbered.user, numbered.group) == (user, group)


@pytest.mark.parametrize("key", ["user", "group"])
def test_only_root_may_become_another_to_run_and_anybody_may_read_it(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    text = f"{POOL}{key}: root\n"
    for identity in ("geteuid", "getegid"):
        monkeypatch.setattr(os, identity, lambda: 0)
    assert getattr(settings(text), key) == "root"
    for identity in ("geteuid", "getegid"):
        monkeypatch.setattr(os, identity, lambda: 12345)
    [problem] = problems(text)
    assert problem.startswith(
        f"config.yaml:2:{len(key) + 3}: {key}: only root can become the {key}"
    )
    to_ask = reader.read("config.yaml", {}, (), to_run=False)
    assert getattr(to_ask.settings, key) == "root"


# Layers


def test_overlays_are_merged_in_the_order_of_their_names(here: Path) -> None:
    write("pools: {jobs: {workers: 5}}", "config.d/20.yaml")
    write(
        "pools: {jobs: {workers: 3, env: {B: 2}, path: [c], backoff: {factor: 3}}, mail: }",
        "config.d/10.yaml",
    )
    for name in ("30.yaml~", ".40.yaml", "50.yml", "README"):
        write("name: [", f"config.d/{name}")
    reading = read(
        "pools: {jobs: {workers: 2, surge: 2, env: {A: 1}, path: [a, b], backoff: {first: 2}}}"
    )
    assert reading.settings is not None
    assert reading.settings.pools == {
        "jobs": Pool(
            "jobs",
            workers=5,
            surge=2,
            env={"A": "1", "B": "2"},
            path=(f"{here}/config.d/c",),
            backoff=Backoff(2.0, 3.0),
        ),
        "mail": Pool("mail"),
    }
    assert reading.files == ("config.yaml", "config.d/10.yaml", "config.d/20.yaml")
    sources = reading.sources
    assert sources["pools.jobs.workers"] == "config.d/20.yaml:1:25"
    assert sources["pools.jobs.surge"] == "config.yaml:1:35"
    assert sources["pools.jobs.env.A"] == "config.yaml:1:47"
    assert sources["pools.jobs.env.B"] == "config.d/10.yaml:1:37"
    assert sources["pools.jobs.preload"] == "default"


def test_a_key_with_nothing_below_sets_nothing() -> None:
    write("log:\npools:\n  jobs:\n", "config.d/1.yaml")
    assert pool("workers: 3, options: {x: 1}") == Pool("jobs", workers=3, options={"x": 1})
    write("pools: {jobs: {options: {x: }, round_timeout: }}", "config.d/1.yaml")
    assert pool("round_timeout: 3, options: {x: {y: 1}}") == Pool("jobs", options={"x": None})


def test_problems_of_all_layers_come_together_and_in_order() -> None:
    write("pools: {jobs: {surge: x}}", "config.d/1.yaml")
    write("name: [", "config.d/2.yaml")
    found = problems(
        "pools: {jobs: {workers: 0, preload: 1}}",
        "log.level=x",
        "nome=x",
        GRACED__POOLS__JOBS__MAX_RSS="[",
        GRACED__LOG__FILES="x",
    )
    assert [line.split("; ")[0] for line in found] == [
        "config.yaml:1:25: pools.jobs.workers: '0' is too small",
        "config.yaml:1:37: pools.jobs.preload: cannot read '1' as true or false",
        "config.d/1.yaml:1:23: pools.jobs.surge: cannot read 'x' as a whole number",
        "config.d/2.yaml:1:7: name.0: the bracket that opens here is never closed",
        "$GRACED__LOG__FILES: log.files: unknown key",
        "$GRACED__POOLS__JOBS__MAX_RSS: pools.jobs.max_rss.0: the bracket that opens here is "
        "never closed",
        "--set: log.level: 'x' is none of debug, info, warning, error",
        "--set: nome: unknown key",
    ]


def test_no_rule_is_broken_by_what_could_not_be_read() -> None:
    write("pools: {mail: {}}\nname: [", "config.d/1.yaml")
    found = problems("pools: {jobs: {after: [mail]}}", GRACED__POOLS__NEWS__WORKERS="1")
    assert len(found) == 1
    assert found[0].startswith("config.d/1.yaml:2:7: ")


def test_config_d_that_is_no_folder() -> None:
    write(POOL, "config.d")
    assert problems(POOL) == [
        "config.d: cannot be read: Not a directory; make it a folder, or remove it"
    ]


def test_overlays_that_are_no_files() -> None:
    os.makedirs("config.d/1.yaml")
    os.mkfifo("config.d/2.yaml")
    os.symlink("nowhere", "config.d/3.yaml")
    assert [line.split(";")[0] for line in problems(POOL)] == [
        "config.d/1.yaml: is a folder",
        "config.d/2.yaml: is not a regular file",
        "config.d/3.yaml: no such file",
    ]


def test_variables(here: Path) -> None:
    environ = {
        "GRACED__NAME": "shop",
        "graced__log__LEVEL": "debug",
        "GRACED__POOLS__MY_POOL__WORKERS": "8",
        "GRACED__POOLS__MY_POOL__PATH": "[src]",
        "GRACED__POOLS__MY_POOL__ENV__NEW__NAME": "1",
        "GRACED__POOLS__MY_POOL__ENV__OLD": "2",
        "GRACED__POOLS__MY_POOL__OPTIONS__SIZE": "{a: 1}",
        "GRACED__POOLS__MY_POOL__OPTIONS__DEEP__SIZE": "3",
        "GRACED__POOLS__MY_POOL__BACKOFF": "{first: 2, limit: 3}",
        "GRACED__POOLS__MY_POOL__BACKOFF__LIMIT": "4",
        "GRACED__LOG__FILE": "",
        "GRACED_CONFIG": "x",
        "GRACED_SOCKET": "x",
        "GRACED": "x",
        "MY_GRACED__NAME": "x",
    }
    text = "log: {file: x}\npools: {my-pool: {env: {Old: 1}, options: {Deep: {x: 1}, y: 2}}}"
    reading = read(text, **environ)
    assert reading.settings == Settings(
        name="shop",
        log=Log("debug"),
        pools={
            "my-pool": Pool(
                "my-pool",
                workers=8,
                path=(f"{here}/src",),
                env={"Old": "2", "NEW__NAME": "1"},
                options={"Deep": {"x": 1, "size": 3}, "y": 2, "size": {"a": 1}},
                backoff=Backoff(2.0, limit=4.0),
            )
        },
    )
    assert reading.sources["log.level"] == "$graced__log__LEVEL"
    assert reading.sources["pools.my-pool.backoff.limit"] == (
        "$GRACED__POOLS__MY_POOL__BACKOFF__LIMIT"
    )


def test_a_longer_variable_counts_over_a_shorter_one() -> None:
    environ = {
        "graced__pools__jobs__backoff": "{first: 2, limit: 3}",
        "GRACED__POOLS__JOBS__BACKOFF__LIMIT": "4",
    }
    assert pool("", **environ).backoff == Backoff(2.0, limit=4.0)


def test_a_variable_finds_its_pool_by_the_nearest_name() -> None:
    text = "pools: {my_pool: {}, my-pool: {}, MAIL: {}}"
    found = settings(text, GRACED__POOLS__MY_POOL__WORKERS="2", GRACED__POOLS__mail__WORKERS="3")
    assert {pool.name: pool.workers for pool in found.pools.values()} == {
        "my_pool": 2,
        "my-pool": 1,
        "MAIL": 3,
    }
    text = "pools: {a-b: {}, A-B: {}}"
    assert problems(text, GRACED__POOLS__A_B__WORKERS="2") == [
        "$GRACED__POOLS__A_B__WORKERS: pools.a_b.workers: may be a-b or A-B; use --set, or a file"
    ]


def test_a_variable_has_no_name_from_the_level_above() -> None:
    text = "pools: {jobs: {path: [], worker: graced.workers:Command}}"
    found = settings(text, GRACED__POOLS__JOBS__ENV__PATH="/x")
    assert found.pools["jobs"].env == {"PATH": "/x"}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("POOLS__JBOS__WORKERS", "8", "pools.jbos.workers: there is no pool 'JBOS'; did you mean"),
        ("POOLS__JOBS__WORKRES", "8", "pools.jobs.workres: unknown key; did you mean 'workers'?"),
        ("POOLS__JOBS__WORKERS__X", "8", "pools.jobs.workers.x: unknown key; leave out what"),
        ("NOME", "x", "nome: unknown key; did you mean 'name'?"),
        ("SCHEDULES__N__CRON", "@daily", "schedules.n.cron: there is no schedule 'N'; write"),
        ("", "x", "unknown key; write one of"),
        ("LOG____LEVEL", "x", "log..level: unknown key; write one of"),
        ("__".join(["POOLS", "JOBS", "OPTIONS"] + ["X"] * 99), "x", "pools.jobs.options.x.x.x.x"),
        ("NAME", "[a", "name.1: the bracket that opens here is never closed; "),
        ("NAME", "a\0", "name: has a control character; "),
        ("NAME", "\udcff", "name: has a byte that is not UTF-8; "),
        ("POOLS__JOBS__WORKERS", "", "pools.jobs.workers: is empty; write a whole number"),
        ("POOLS__JOBS", "{workers: 0}", "pools.jobs.workers: '0' is too small; "),
        ("POOLS", "{mail: {nome: 0}}", "pools.mail.nome: unknown key; "),
    ],
)
def test_wrong_variables(name: str, value: str, expected: str) -> None:
    (line,) = problems(POOL, **{f"GRACED__{name}": value})
    assert line.startswith(f"$GRACED__{name}: {expected}") or len(name) > 100


def test_flags_come_last_and_in_order() -> None:
    reading = read(
        POOL,
        "pools.jobs.workers=2",
        "pools.jobs.workers=3",
        "pools.jobs.options.a.b=[x, 1]",
        "pools.jobs.env.A.B=c=d",
        "pools={mail: {surge: 2}}",
        GRACED__POOLS__JOBS__WORKERS="9",
    )
    assert reading.settings is not None
    assert reading.settings.pools == {
        "jobs": Pool("jobs", workers=3, options={"a": {"b": ["x", 1]}}, env={"A.B": "c=d"}),
        "mail": Pool("mail", surge=2),
    }
    assert reading.sources["pools.jobs.workers"] == "--set"


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("name", "--set: name: no value is given; write --set key.path=value"),
        ("", "--set: no value is given; write --set key.path=value"),
        ("=x", "--set: unknown key; write one of name"),
        ("nme=x", "--set: nme: unknown key; did you mean 'name'?"),
        ("NAME=x", "--set: NAME: unknown key; did you mean 'name'?"),
        ("pools.job.workers=1", "--set: pools.job.workers: there is no pool 'job'; did you mean"),
        ("pools.jobs.workers=x", "--set: pools.jobs.workers: cannot read 'x' as a whole number; "),
        ("pools.jobs.path=[", "--set: pools.jobs.path.0: the bracket that opens here is never"),
    ],
)
def test_wrong_flags(flag: str, expected: str) -> None:
    (line,) = problems(POOL, flag)
    assert line.startswith(expected), line


# Telling


def test_showing_where_each_value_came_from() -> None:
    write("log: {level: error}", "config.d/1.yaml")
    reading = read(
        "pools: {jobs: {env: {A: 1}, options: {x: [yes!, '1'], 'a: b': {c: 1}}}}",
        "pools.jobs.keep_done=90s",
        GRACED__POOLS__JOBS__MAX_RSS="2048K",
    )
    lines = reader.show(reading).splitlines()
    assert lines[0] == "name: graced                              # default"
    assert "  level: error                            # config.d/1.yaml:1:14" in lines
    assert "    max_rss: 2M                           # $GRACED__POOLS__JOBS__MAX_RSS" in lines
    assert "    keep_done: 90s                        # --set" in lines
    assert '      A: "1"                              # config.yaml:1:25' in lines
    assert '      x: ["yes!", "1"]                    # config.yaml:1:42' in lines
    assert '      "a: b":' in lines
    assert "        c: 1                              # config.yaml:1:67" in lines
    assert all("  # " in line or line.endswith(":") for line in lines)


def test_what_is_shown_reads_the_same() -> None:
    for text in (DEFAULTS, POOL):
        reading = read(text)
        assert settings(reader.show(reading)) == reading.settings
    assert reader.show(read("name: [")) == ""


# Name and runtime directory


IDENTITY = "name: shop\nruntime_dir: run\n"


@pytest.mark.parametrize(
    "rest",
    [
        "",
        POOL,
        "pools:\n\t- x\n",
        "pools: [\n",
        "pools: {a: 'x\n",
        "nonsense\n",
        "name: other\n",
        "x: &x [*x]\n",
        "x: *nothing\n",
        "x: !!python/name:os.system\n",
        "x: \0\n",
        "--- \n--- x\n",
        "x: " + "[" * 1000 + "\n",
    ],
)
@pytest.mark.parametrize("order", ["before", "after"])
def test_name_and_runtime_dir_are_found_in_broken_files(here: Path, rest: str, order: str) -> None:
    write(IDENTITY + rest if order == "before" else rest + IDENTITY)
    found = reader.read_identity("config.yaml", {}, ())
    assert found == ("other" if order == "after" and "other" in rest else "shop", f"{here}/run")


def test_name_and_runtime_dir_in_a_file_that_is_not_utf8(here: Path) -> None:
    write(b"# caf\xe9\nname: shop  # \xff\nruntime_dir: 'run'  # here\n")
    assert reader.read_identity("config.yaml", {}, ()) == ("shop", f"{here}/run")


@pytest.mark.parametrize(
    "text", ["- name: shop\n", "shop\n", "\x7fELF\0\0", "[tool]\nname = 1\n", "a: ["]
)
def test_a_file_that_is_no_configuration_names_no_daemon(text: str) -> None:
    write(text)
    assert no_identity("config.yaml") == "config.yaml: is no configuration; check the path"


@pytest.mark.parametrize(
    "text", ["", "# all in config.d\n", "null\n", "{}\n", "log: [\n", "pools:\n - [\n"]
)
def test_a_file_that_names_no_daemon_means_the_default(text: str) -> None:
    write(text)
    assert reader.read_identity("config.yaml", {}, ()) == ("graced", None)


def test_a_name_in_quotes_after_what_is_broken() -> None:
    write("pools: [\n'name': shop\n")
    assert reader.read_identity("config.yaml", {}, ())[0] == "shop"


def test_name_and_runtime_dir_come_from_all_layers(here: Path) -> None:
    write(IDENTITY)
    write("name: two\nruntime_dir: two\n", "config.d/1.yaml")
    write("pools: [\n", "config.d/2.yaml")

    def found(*sets: str, **environ: str) -> tuple[str, str | None]:
        return reader.read_identity(None, environ, sets)

    assert found() == ("two", f"{here}/config.d/two")
    assert found(Graced__Name="three") == ("three", f"{here}/config.d/two")
    assert found("name=four", GRACED__NAME="three", GRACED__RUNTIME_DIR="/run/x") == (
        "four",
        "/run/x",
    )
    assert found("runtime_dir=", "name=4", "name=four", "pools.x=[") == ("four", None)


def no_identity(path: str | None, *sets: str, **environ: str) -> str:
    with pytest.raises(UnknownDaemonError) as caught:
        reader.read_identity(path, environ, sets)
    return str(caught.value)


@pytest.mark.parametrize("path", ["nothing", "/dev/zero", "", "a\0b", ".", "nothing/here"])
def test_a_file_that_somebody_has_named_has_to_be_there(here: Path, path: str) -> None:
    assert no_identity(path).startswith(f"{printable(path)}: ")
    assert no_identity(path, "name=x")
    if path and "\0" not in path:
        assert no_identity(None, GRACED_CONFIG=path).startswith(f"{path}: ")


def test_name_and_runtime_dir_without_any_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "config", "etc/config.yaml")
    assert reader.read_identity(None, {}, ()) == ("graced", None)
    assert reader.read_identity(None, {"GRACED__NAME": "x"}, ())[0] == "x"
    (here / "etc").mkdir()
    (here / "etc" / "config.yaml").symlink_to("nowhere")
    assert no_identity(None) == "etc/config.yaml: no such file; check the path"
    (here / "config.yaml").mkdir()
    assert no_identity(None) == "config.yaml: is a folder; name the file in it"


def test_each_configuration_has_drop_ins_of_its_own(here: Path) -> None:
    write(POOL)
    write("name: others\nlog: [", "config.d/1.yaml")
    write(POOL, "shop.yaml")
    write("name: shop\nruntime_dir: run\n", "shop.d/1.yaml")
    reading = reader.read("shop.yaml", {}, ())
    assert reading.settings is not None
    assert (reading.settings.name, reading.settings.runtime_dir) == ("shop", f"{here}/shop.d/run")
    assert reading.files == ("shop.yaml", "shop.d/1.yaml")
    assert reader.read_identity("shop.yaml", {}, ()) == ("shop", f"{here}/shop.d/run")


def test_what_is_put_over_the_file_has_to_be_readable_too(here: Path) -> None:
    write(IDENTITY)
    (here / "config.d").mkdir()
    (here / "config.d" / "1.yaml").mkdir()
    assert no_identity(None) == "config.d/1.yaml: is a folder; name the file in it"


@pytest.mark.parametrize(
    ("text", "sets", "environ", "said"),
    [
        ("name: [x]\n", [], {}, "config.yaml:1:7: name: is a list or a mapping; write a text"),
        ("name: a/b\n", [], {}, "config.yaml:1:7: name: 'a/b' cannot be a name; write up to "),
        ("name: [\n", [], {}, "config.yaml: name: cannot be read; write a text"),
        ("name: shop\n", ["name=4"], {}, "--set: name: '4' cannot be a name; write up to "),
        ("name: shop\n", [], {"GRACED__NAME": "["}, "$GRACED__NAME: name: cannot be read; "),
        ("runtime_dir: {}\n", [], {}, "config.yaml:1:14: runtime_dir: is a list or a mapping; "),
        ("runtime_dir: x\n", [], {"GRACED__RUNTIME_DIR": "[a]"}, "$GRACED__RUNTIME_DIR: runtime_d"),
    ],
)
def test_a_name_that_cannot_be_is_no_other(
    text: str, sets: list[str], environ: dict[str, str], said: str
) -> None:
    write(text)
    assert no_identity("config.yaml", *sets, **environ).startswith(said)


def test_where_the_folder_is_known_the_name_does_not_matter(here: Path) -> None:
    write("name: [x]\nruntime_dir: run\n")
    assert reader.read_identity("config.yaml", {}, ())[1] == f"{here}/run"


# Numbers


@pytest.mark.parametrize("digits", [18, 19, 499, 500, 5000])
def test_a_number_of_any_length_in_options(digits: int) -> None:
    """Python refuses to read one of some thousand digits."""
    write(f"pools: {{a: {{worker: a:B, options: {{x: {'7' * digits}}}}}}}\n")
    reading = reader.read("config.yaml", {}, ())
    if digits < 500:
        assert reading.settings is not None
        assert reading.settings.pools["a"].options["x"] == int("7" * digits)
    else:
        [problem] = reading.problems
        assert "is ambiguous in YAML; put it in quotes" in str(problem)


# Units


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *[("500ms", 0.5), ("30s", 30), ("2m", 120), ("1h", 3600), ("1d", 86400), ("2.5", 2.5)],
        *[("7ms", 0.007), (".5s", 0.5), ("1. h", 3600), ("0", 0), ("36500d", units.MAX_DURATION_S)],
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert units.duration(text) == seconds
    assert units.duration(units.show_duration(seconds)) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", ".", "1.2.3", "1 2", "1s2", "٣s", "1e3", "+1", "1_0", "0x1"]
)
def test_texts_that_are_no_durations(text: str) -> None:
    with pytest.raises(ValueError):
        units.duration(text)


def test_problems_are_values() -> None:
    assert str(Problem("a:1:2", "", "wrong", "correct it")) == "a:1:2: wrong; correct it"
