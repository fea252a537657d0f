"""Reloads of the real program: proven first, refused without a trace, or replaced one by one."""

from __future__ import annotations

import grp
import itertools
import json
import os
import pwd
import re
import signal
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from daemon_harness import DEADLINE, SOON, Daemon, Line, children, comm

TESTS = str(Path(__file__).parents[1])
CREW = "from sample_workers import *\n"
IDLE = {"worker": "sample_workers:Idle"}

# Rounds of 20 ms that say which code and which options they run.
BUSY = """
class Busy(Idle):
    code = "{code}"

    def step(self):
        say("begin", self.slot, self.generation, self.code, self.options.get("colour"))
        time.sleep(0.02)
        say("end", self.slot, self.generation, self.code, self.options.get("colour"))
"""


def write_busy(daemon: Daemon, code: str, first: str = "") -> None:
    """Write the module that the pool imports; `first` runs at its import."""
    daemon.module("busy", CREW + first + BUSY.format(code=code))


def busy_pool(daemon: Daemon, **keys: object) -> Daemon:
    return daemon.pool("busy:Busy", **{"path": [".", TESTS], "workers": 4, **keys})


def rounds_of(daemon: Daemon, code: str) -> list[Line]:
    return daemon.events.matching(rf"^begin \d+ \d+ {code} ")


def assert_no_half_round(daemon: Daemon) -> None:
    """Each round that was begun has been ended, in the same process. To be asked after the end."""
    daemon.events.wait("^teardown ", len(daemon.events.matching("^setup ")))
    assert len(daemon.events.matching("^begin ")) > 0
    half: set[int] = set()
    for line in daemon.events.matching("^(begin|end|teardown) "):
        if line.words[0] == "begin":
            assert line.pid not in half, line
            half.add(line.pid)
        elif line.words[0] == "end":
            half.remove(line.pid)
        else:
            assert line.pid not in half, f"half a round: {line}"
    assert not half


def fewest(daemon: Daemon, leaving: str = "^teardown ") -> int:
    """Return the smallest number of workers that were ready at once, since all were.

    A worker counts from the end of its setup() until its first sign of having been told to leave.
    To be asked before the daemon is stopped.
    """
    since = daemon.notices.matching("^READY=1")[0].at
    changes = [(line.at, +1) for line in daemon.events.matching("^setup ")]
    changes += [(line.at, -1) for line in daemon.events.matching(leaving)]
    count, least = 0, 1_000_000
    for at, change in sorted(changes):
        count += change
        if at >= since:
            least = min(least, count)
    return least


def told(daemon: Daemon) -> tuple[int, int]:
    """Return how often READY=1 and RELOADING=1 were said."""
    ready, reloading = daemon.notices.matching("^READY=1$"), daemon.notices.matching("^RELOADING=1")
    return len(ready), len(reloading)


def reload(daemon: Daemon, times: int = 1) -> None:
    """Ask by signal, and wait until it is over."""
    before = told(daemon)[0]
    daemon.send(signal.SIGHUP)
    daemon.ready(before + times)


def reload_by_command(daemon: Daemon) -> None:
    """Ask by the command, which waits until it is over."""
    result = daemon.run("reload")
    assert (result.returncode, result.stdout) == (0, "reloaded: generation 2\n"), result


def stop(daemon: Daemon, code: int = 0) -> None:
    daemon.send(signal.SIGTERM)
    daemon.ended(code)
    daemon.nothing_left()


def gone(daemon: Daemon) -> set[int]:
    """Return the workers that have cleaned up."""
    return {line.pid for line in daemon.events.matching("^teardown")}


# New code and new options


@pytest.mark.parametrize("way", ["signal", "command"])
def test_new_code_and_options_arrive_without_a_gap(daemon: Daemon, way: str) -> None:
    write_busy(daemon, "old")
    busy_pool(daemon, options={"colour": "red"}).start().ready()
    daemon.events.wait("^end ", 20)
    gate = daemon.gate()
    write_busy(daemon, "new", first=f"say('importing')\npass_gate({{'gate': {gate!r}}})\n")
    busy_pool(daemon, options={"colour": "blue"})
    with ThreadPoolExecutor() as other:
        if way == "signal":
            over = other.submit(reload, daemon)
        else:
            over = other.submit(reload_by_command, daemon)
        daemon.events.wait("^importing")
        before = len(rounds_of(daemon, "old"))
        daemon.until(lambda: len(rounds_of(daemon, "old")) > before + 20)  # they go on meanwhile
        daemon.open_gate()
        over.result()
    status = daemon.status()
    assert (status["generation"], status["ready"], status["state"]) == (2, True, "running")
    assert status["last_reload"]["ok"] is True
    assert status["last_reload"]["reason"] is None
    assert {worker["generation"] for worker in status["pools"]["jobs"]["workers"]} == {2}
    assert status["pools"]["jobs"]["deaths"] == 0
    daemon.events.wait("^begin . 2 new blue", 8)
    assert daemon.log.matching("reloaded: generation 2")
    assert fewest(daemon) >= 4
    stop(daemon)
    assert_no_half_round(daemon)
    assert told(daemon) == (2, 1)


def test_waiting_workers_leave_only_after_their_successors_are_ready(daemon: Daemon) -> None:
    daemon.pool("sample_workers:SlowSetup", workers=4, options={"seconds": 0.1}).start().ready()
    for leave in (4, 8):
        reload(daemon)
        daemon.events.wait("^teardown", leave)
    assert fewest(daemon, "^woken True") >= 4
    for slot in range(4):
        life = [x.words[0] for x in daemon.events.matching(rf"^(setup jobs|teardown) {slot}\b")]
        assert life == ["setup", "setup", "teardown", "setup", "teardown"]
    stop(daemon)


def test_reloading_says_when(daemon: Daemon) -> None:
    daemon.pool().start().ready()
    before = time.monotonic_ns() // 1000
    reload(daemon)
    after = time.monotonic_ns() // 1000
    said = [line.text for line in daemon.notices.lines]
    at = said.index("RELOADING=1")
    word, _, when = said[at + 1].partition("=")
    assert word == "MONOTONIC_USEC"
    assert before <= int(when) <= after
    assert said.index("READY=1", at) > at
    assert told(daemon) == (2, 1)


def test_an_edit_of_the_same_size_in_the_same_second_is_seen(daemon: Daemon) -> None:
    daemon.environ["PYTHONDONTWRITEBYTECODE"] = ""  # whoever runs the tests may have it set
    daemon.pool("busy:Busy", path=[".", TESTS])
    for index, code in enumerate(("one", "two", "six")):
        write_busy(daemon, code)
        os.utime(daemon.home / "busy.py", (1_700_000_000, 1_700_000_000))
        if index == 0:
            daemon.start().ready()
        else:
            reload(daemon)
        daemon.events.wait(rf"^begin 0 {index + 1} {code}")
    assert not (daemon.home / "__pycache__").exists()


def test_without_preload_new_code_arrives_too(daemon: Daemon) -> None:
    write_busy(daemon, "old")
    busy_pool(daemon, workers=2, preload=False).start().ready()
    write_busy(daemon, "new")
    reload(daemon)
    daemon.events.wait("^begin . 2 new", 2)
    assert fewest(daemon) >= 2
    stop(daemon)


# Refused

HANG = "time.sleep(60)\n"
BROKEN: dict[str, tuple[str | bytes | None, str, str]] = {
    # what config.yaml and busy.py become ("" : as they were), and what has to be said
    "yaml syntax": ("pools: [\n", "", r"config\.yaml:\d+:\d+: "),
    "missing": (None, "", r"config\.yaml.*[Nn]o such file"),
    "wrong type": ("pools: {jobs: {worker: 'busy:Busy', workers: many}}", "", "workers.*many"),
    "unknown key": ("pools: {jobs: {worker: 'busy:Busy', wrokers: 4}}", "", "wrokers.*workers"),
    "binary": (bytes(range(256)), "", "not UTF-8"),
    "import error": ("", "import nonexistent_module", r"busy\.py:\d+: .*nonexistent_module"),
    "code syntax": ("", "class Busy(:", r"busy\.py:\d+: SyntaxError"),
    "no such class": ("", "class Bsuy(Idle): pass", "no class 'Busy'.*Bsuy"),
    "setup raises": ("", "def setup(self): raise OSError('no disk')", "setup.*raised.*no disk"),
    "setup exits": ("", "def setup(self): os._exit(5)", r"exited with status 5 in setup\(\)"),
    "setup hangs": ("", f"def setup(self): {HANG}", r"setup\(\) took longer than 4 s"),
    "import hangs": ("", HANG, "importing busy:Busy took longer than 4 s"),
    "import exits": ("", "sys.exit(4)", r"busy\.py:\d+: called sys\.exit\(4\)"),
}


def break_it(daemon: Daemon, config: str | bytes | None, code: str) -> None:
    if HANG in code:
        busy_pool(daemon, ready_timeout="4s")
    if config is None:
        daemon.config.unlink()
    elif config:
        daemon.config.write_bytes(config if isinstance(config, bytes) else config.encode())
    if code.startswith("def "):
        daemon.module("busy", f"{CREW}class Busy(Idle):\n  {code}\n")
    elif code:
        daemon.module("busy", f"{CREW}{code}\n")


def mend(daemon: Daemon, code: str) -> None:
    write_busy(daemon, code)
    busy_pool(daemon)


def test_thirteen_broken_reloads_leave_no_trace(daemon: Daemon) -> None:
    mend(daemon, "old")
    daemon.start().ready()
    pids = sorted(daemon.worker_pids())
    others = sorted(children(daemon.pid))
    for number, (name, (config, code, reason)) in enumerate(BROKEN.items(), start=1):
        before = rounds_by(daemon)
        break_it(daemon, config, code)
        result = daemon.run("reload", "--socket", str(daemon.short / "run" / "control.sock"))
        assert result.returncode == 1, (name, result)
        assert re.search(reason, result.stderr), (name, result)
        assert "Traceback" not in result.stderr
        mend(daemon, "old")
        status = daemon.status()
        assert status["last_reload"]["ok"] is False
        assert re.search(reason, status["last_reload"]["reason"]), name
        assert (status["generation"], status["state"]) == (1, "running"), name
        assert told(daemon) == (number + 1, number), name
        assert len(daemon.log.matching(f"reload refused: .*{reason}")) == 1, name
        assert daemon.notices.wait(f"^STATUS=4/4 workers ready; reload refused: .*{reason}"), name
        daemon.until(lambda: sorted(daemon.worker_pids()) == pids)
        daemon.until(lambda: sorted(children(daemon.pid)) == others)
        if "hangs" in name:  # for four seconds: they did not wait for it
            after = rounds_by(daemon)
            assert min(after[pid] - before[pid] for pid in pids) > 20
    write_busy(daemon, "new")
    result = daemon.run("reload")
    assert (result.returncode, result.stdout) == (0, "reloaded: generation 2\n"), result
    assert not re.search("refused", daemon.notices.wait("^STATUS=4/4 workers ready$")[-1].text)
    assert fewest(daemon) >= 4
    stop(daemon)
    assert_no_half_round(daemon)
    ready, reloading = told(daemon)
    assert ready == reloading + 1 == len(BROKEN) + 2


def rounds_by(daemon: Daemon) -> Counter[int]:
    """Return how many rounds each worker has begun."""
    return Counter(line.pid for line in daemon.events.matching("^begin "))


def test_one_broken_pool_refuses_for_all(daemon: Daemon) -> None:
    write_busy(daemon, "old")
    busy = {"worker": "busy:Busy", "path": [".", TESTS], "workers": 2}
    bad = {"worker": "sample_workers:Idle", "workers": 2}
    daemon.configure({"good": busy, "bad": bad}).start().ready()
    daemon.configure({"good": busy, "bad": {**bad, "worker": "sample_workers:FailsInSetup"}})
    write_busy(daemon, "new")
    result = daemon.run("reload")
    assert result.returncode == 1
    assert "pool bad" in result.stderr
    assert "no database at db.example:5432" in result.stderr
    for pool in ("good", "bad"):  # also the canary of the good one leaves
        daemon.until(lambda pool=pool: [w["generation"] for w in daemon.workers(pool)] == [1, 1])
    assert fewest(daemon) >= 4
    assert len(gone(daemon)) <= 1
    stop(daemon)


def somebody() -> tuple[str, str]:
    """Return a user and a group that this process may become, though no daemon was told to."""
    if os.geteuid() == 0:
        return "nobody", "nogroup"
    return pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name


@pytest.mark.parametrize("key", ["name", "runtime_dir", "state_dir", "user", "group", "queue"])
def test_what_cannot_change_is_refused_by_name(daemon: Daemon, key: str) -> None:
    others = {"name": "other", "user": somebody()[0], "group": somebody()[1]}
    top = {} if key == "queue" else {key: others.get(key, "/tmp/x")}
    daemon.pool().start().ready()
    pid = daemon.worker_pids()
    queue = {"queue": "sqlite:///other.db"} if key == "queue" else {}
    socket = str(daemon.short / "run" / "control.sock")
    daemon.configure({"jobs": {"worker": "sample_workers:Idle", **queue}}, **top)
    result = daemon.run("reload", "--socket", socket)
    assert result.returncode == 1, result
    assert re.search(rf"\b{key} can't change in a running daemon", result.stderr), result
    daemon.pool()
    assert daemon.worker_pids() == pid
    assert told(daemon) == (2, 1)


# Many at once, and stops


def slow_setup(daemon: Daemon, seconds: float, **keys: object) -> Daemon:
    return daemon.pool("sample_workers:SlowSetup", options={"seconds": seconds}, **keys)


def test_300_hangups_in_a_storm(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Ticks", workers=4).start().ready()
    for _ in range(300):
        daemon.send(signal.SIGHUP)
        time.sleep(0.002)  # the storm's own pace
    daemon.status()  # it has heard all of them before this
    daemon.until(lambda: daemon.status()["state"] == "running")
    daemon.until(lambda: told(daemon)[0] == told(daemon)[1] + 1)
    assert fewest(daemon) >= 4
    asked = daemon.send(signal.SIGTERM)
    assert daemon.ended(0) - asked < SOON
    daemon.nothing_left()
    ready, reloading = told(daemon)
    assert ready == reloading + 1


@pytest.mark.parametrize("count", [50, 300])
def test_one_reload_follows_however_many_were_asked_for(daemon: Daemon, count: int) -> None:
    slow_setup(daemon, 0).start().ready()
    daemon.pool("sample_workers:GatedSetup", options={"gate": daemon.gate()})
    daemon.send(signal.SIGHUP)
    daemon.events.wait("^setting-up", 2)
    for _ in range(count):
        daemon.send(signal.SIGHUP)
    daemon.status()  # it has heard all of them before this
    daemon.open_gate()
    daemon.ready(3)
    assert daemon.status()["generation"] == 3
    daemon.events.collect(0.3)
    assert told(daemon) == (3, 2)
    assert len(daemon.events.matching("^setting-up")) == 3
    asked = daemon.send(signal.SIGTERM)
    assert daemon.ended(0) - asked < SOON
    daemon.nothing_left()


def test_each_ready_says_how_its_own_reload_went(daemon: Daemon) -> None:
    slow_setup(daemon, 0).start().ready()
    daemon.pool("sample_workers:GatedSetup", options={"gate": daemon.gate()})
    daemon.send(signal.SIGHUP)
    canary = daemon.events.wait("^setting-up", 2)[1].pid
    daemon.send(signal.SIGHUP)
    daemon.status()  # it has heard of both
    os.kill(canary, signal.SIGKILL)
    daemon.open_gate()
    daemon.ready(3)
    said = [line.text for line in daemon.notices.lines]
    told = [then for word, then in itertools.pairwise(said) if word == "READY=1"]
    refused = "STATUS=1/1 workers ready; reload refused: pool jobs: killed by SIGKILL in setup()"
    assert told == ["STATUS=1/1 workers ready", refused, "STATUS=1/1 workers ready"]
    stop(daemon)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_wins_over_a_reload(daemon: Daemon, number: signal.Signals) -> None:
    slow_setup(daemon, 0, workers=4).start().ready()
    slow_setup(daemon, 60, workers=4)
    daemon.send(signal.SIGHUP)
    daemon.events.wait("^setting-up", 5)
    asked = daemon.send(number)
    assert daemon.ended(0) - asked < SOON
    daemon.nothing_left()
    assert len(daemon.events.matching("^teardown")) == 4
    said = [line.text for line in daemon.notices.lines]
    assert said.index("STOPPING=1") > said.index("RELOADING=1")
    assert "READY=1" not in said[said.index("RELOADING=1") :]


def test_a_stop_wins_over_an_import(daemon: Daemon) -> None:
    write_busy(daemon, "old")
    busy_pool(daemon).start().ready()
    write_busy(daemon, "new", first="say('importing')\ntime.sleep(60)\n")
    daemon.send(signal.SIGHUP)
    daemon.events.wait("^importing")
    asked = daemon.send(signal.SIGTERM)
    assert daemon.ended(0) - asked < SOON
    daemon.nothing_left()
    assert_no_half_round(daemon)


def test_who_waits_for_a_reload_is_told_of_the_stop(daemon: Daemon) -> None:
    slow_setup(daemon, 0).start().ready()
    slow_setup(daemon, 60)
    line = daemon.command("reload", "-c", str(daemon.config))
    pipe = {"env": daemon.environment(), "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(line, **pipe) as asking:  # type: ignore[call-overload]
        daemon.events.wait("^setting-up", 2)
        daemon.send(signal.SIGTERM)
        daemon.ended(0)
        _, error = asking.communicate(timeout=DEADLINE)
    assert asking.returncode == 1
    assert "the daemon is stopping" in error


def test_a_reload_during_the_start_waits_for_it(daemon: Daemon) -> None:
    slow_setup(daemon, 0.8, workers=2).start()
    daemon.events.wait("^setting-up", 2)
    slow_setup(daemon, 0, workers=3)
    daemon.send(signal.SIGHUP)
    daemon.ready(2)
    status = daemon.status()
    assert (status["generation"], status["pools"]["jobs"]["ready"]) == (2, 3)
    said = [line.text for line in daemon.notices.lines]
    assert said.index("READY=1") < said.index("RELOADING=1")
    assert fewest(daemon) >= 2
    stop(daemon)


# What it leaves behind: nothing


def held(pid: int) -> dict[str, int]:
    """Return how much a process has of what could leak."""
    status = Path(f"/proc/{pid}/status").read_text()
    memory = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    assert memory is not None
    return {
        "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "children": len(children(pid)),
        "memory in kB": int(memory[1]),
    }


def test_a_hundred_reloads_leave_nothing_behind(daemon: Daemon) -> None:
    daemon.pool("sample_workers:Silent", workers=2).start().ready()
    for _ in range(50):  # until the interpreter has the room that it needs
        reload(daemon)
    before = settled(daemon)
    for _ in range(100):
        reload(daemon)
    # The last of those who asked for the status may not be seen to be gone yet.
    daemon.until(lambda: settled(daemon)["descriptors"] <= before["descriptors"])
    after = settled(daemon)
    assert after["children"] == before["children"] == 3
    assert after["memory in kB"] - before["memory in kB"] < 600, (before, after)
    assert daemon.status()["generation"] == 151
    assert sorted(comm(p) for p in daemon.left()) == ["graced", *FAMILY]
    stop(daemon)


FAMILY = ["graced-worker", "graced-worker", "graced-zygote"]


def settled(daemon: Daemon) -> dict[str, int]:
    """Return what the main process holds once the old generation is gone."""
    daemon.until(lambda: sorted(map(comm, children(daemon.pid))) == FAMILY)
    daemon.status()
    return held(daemon.pid)


# surge


def test_surge_0_replaces_in_place(daemon: Daemon) -> None:
    daemon.pool(workers=3, surge=0).start().ready()
    reload(daemon)
    order = [(line.words[0], line.pid) for line in daemon.events.matching("^(setup|teardown)")]
    assert [word for word, _ in order] == ["setup"] * 3 + ["teardown", "setup"] * 3
    assert fewest(daemon) >= 2
    assert {worker["generation"] for worker in daemon.workers()} == {2}
    stop(daemon)


def test_surge_0_gives_the_slot_back_when_refused(daemon: Daemon) -> None:
    daemon.pool(workers=3, surge=0).start().ready()
    before = {worker["slot"]: worker["pid"] for worker in daemon.workers()}
    daemon.pool("sample_workers:FailsInSetup", workers=3, surge=0)
    assert daemon.run("reload").returncode == 1
    daemon.until(lambda: daemon.status()["pools"]["jobs"]["ready"] == 3)
    after = {worker["slot"]: worker["pid"] for worker in daemon.workers()}
    assert [after[slot] == before[slot] for slot in range(3)] == [False, True, True]
    assert {worker["generation"] for worker in daemon.workers()} == {1}
    stop(daemon)


@pytest.mark.parametrize("surge", [1, 2])
def test_no_more_than_surge_are_ahead(daemon: Daemon, surge: int) -> None:
    """Whoever is ready counts no longer: his predecessor has been told to leave by then."""
    slow_setup(daemon, 0.4, workers=4, surge=surge).start().ready()
    reload(daemon)
    ahead, most = 0, 0
    for line in daemon.events.matching("^(setting-up|setup)")[8:]:
        ahead += 1 if line.words[0] == "setting-up" else -1
        most = max(most, ahead)
    assert most == surge
    assert fewest(daemon) >= 4
    stop(daemon)


# Pools


def test_pools_are_added_removed_and_changed(daemon: Daemon) -> None:
    daemon.configure({"one": {"workers": 2, **IDLE}, "two": IDLE, "three": IDLE}).start().ready()
    before = {pool: daemon.worker_pids(pool) for pool in ("one", "two", "three")}
    three = {**IDLE, "after": ["new"]}
    daemon.configure({"one": {"workers": 3, **IDLE}, "three": three, "new": IDLE})
    result = daemon.run("reload")
    assert result.returncode == 0, result
    daemon.until(lambda: set(daemon.status()["pools"]) == {"one", "three", "new"})
    pools = daemon.status()["pools"]
    assert {name: pool["ready"] for name, pool in pools.items()} == {"one": 3, "three": 1, "new": 1}
    daemon.until(lambda: gone(daemon) == {pid for pids in before.values() for pid in pids})
    daemon.until(lambda: list(daemon.left().values()).count("graced-zygote") == 3)
    stop(daemon)


def test_a_refused_pool_that_is_new_leaves_nothing(daemon: Daemon) -> None:
    daemon.configure({"one": IDLE}).start().ready()
    daemon.configure({"one": IDLE, "new": {"worker": "sample_workers:FailsInSetup"}})
    assert daemon.run("reload").returncode == 1
    daemon.until(lambda: set(daemon.status()["pools"]) == {"one"})
    daemon.until(lambda: len(children(daemon.pid)) == 2)
    stop(daemon)


def test_after_holds_in_a_reload(daemon: Daemon) -> None:
    slow = {"worker": "sample_workers:SlowSetup", "options": {"seconds": 0.4}}
    pools = {"front": {**IDLE, "after": ["back"]}, "back": slow}
    daemon.configure(pools).start().ready()
    reload(daemon)
    setups = [line.words[1] for line in daemon.events.matching("^setup ")]
    assert setups == ["back", "front", "back", "front"]
    stop(daemon)


def test_a_scale_holds_until_the_next_reload(daemon: Daemon) -> None:
    daemon.pool(workers=2).start().ready()
    assert daemon.run("scale", "jobs", "4").returncode == 0
    daemon.until(lambda: daemon.status()["pools"]["jobs"]["ready"] == 4)
    reload(daemon)
    pool = daemon.status()["pools"]["jobs"]
    assert (pool["target"], pool["ready"]) == (2, 2)
    stop(daemon)


def test_a_reload_mends_a_pool_in_back_off(daemon: Daemon) -> None:
    sign = daemon.home / "sign"
    dying = "while not os.path.exists(self.options['sign']): self.wait(0.02)"
    daemon.module(
        "busy", f"{CREW}class Busy(Idle):\n  def step(self):\n    {dying}\n    os._exit(3)"
    )
    limits = {"first": "60s", "limit": "60s"}
    busy_pool(daemon, workers=2, options={"sign": str(sign)}, backoff=limits).start().ready()
    sign.touch()
    daemon.until(lambda: daemon.status()["pools"]["jobs"]["backoff"])
    write_busy(daemon, "new")
    asked = time.monotonic()
    result = daemon.run("reload")
    assert result.returncode == 0, result
    assert time.monotonic() - asked < SOON  # it did not wait for the probe
    pool = daemon.status()["pools"]["jobs"]
    assert (pool["ready"], pool["backoff"]) == (2, None)
    stop(daemon)


def test_a_reload_whose_workers_die_says_so(daemon: Daemon) -> None:
    daemon.pool(workers=2).start().ready()
    daemon.pool(
        "sample_workers:FailsBeyondFirst", workers=2, backoff={"first": "30s", "limit": "30s"}
    )
    result = daemon.run("reload")
    assert result.returncode == 1
    assert re.search("^graced: reload incomplete: pool jobs .*only one of us", result.stderr)
    daemon.notices.wait("^STATUS=.*reload incomplete: .*only one of us")
    last = daemon.status()["last_reload"]
    assert (last["ok"], last["incomplete"]) == (False, True)
    assert "incomplete: pool" in daemon.run("status").stdout
    stop(daemon)


def test_a_reload_mends_a_start_in_back_off(daemon: Daemon) -> None:
    write_busy(daemon, "old", first="")
    daemon.pool("sample_workers:FailsInSetup", backoff={"first": "30s", "limit": "30s"}).start()
    daemon.notices.wait("^STATUS=.*back-off")
    daemon.pool()
    daemon.send(signal.SIGHUP)
    daemon.ready()
    daemon.events.collect(0.2)
    assert told(daemon) == (1, 0)  # to systemd it was all one start
    stop(daemon)


# The log


def test_the_log_changes_with_a_reload(daemon: Daemon) -> None:
    code = CREW + "class Told(Idle):\n  def setup(self):\n    self.log.debug('from the worker')\n"
    daemon.module("told", code)
    told_pool = {"jobs": {"worker": "told:Told", "path": [".", TESTS]}}
    daemon.configure(told_pool, log={"level": "info", "format": "text"}).start().ready()
    file = daemon.home / "graced.log"
    daemon.configure(told_pool, log={"level": "debug", "format": "json", "file": str(file)})
    reload(daemon)
    daemon.until(lambda: "reloaded: generation 2" in file.read_text())
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert any(record["message"] == "from the worker" for record in records)
    assert not daemon.log.matching("from the worker|generation 2")
    daemon.configure(told_pool, log={"level": "error"})
    reload(daemon)
    reload(daemon)
    assert not daemon.log.matching("generation")
    stop(daemon)


def test_a_log_that_cannot_be_written_refuses_the_reload(daemon: Daemon) -> None:
    daemon.pool().start().ready()
    pids = daemon.worker_pids()
    daemon.configure({"jobs": IDLE}, log={"file": str(daemon.home / "no" / "such" / "folder.log")})
    result = daemon.run("reload")
    assert result.returncode == 1, result
    refused = r"generation 1 goes on: log\.file: .*folder\.log: No such file"
    assert re.search(refused, result.stderr), result
    assert daemon.worker_pids() == pids
    assert not daemon.log.matching("Traceback"), str(daemon.log)
