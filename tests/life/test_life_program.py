"""Programs as workers: started, ready, reloaded, drained, killed, with all that is theirs."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from daemon_harness import SOON, Daemon, wait_gone
from test_life_sockets import Callers

PROGRAM = str(Path(__file__).parent / "programs.py")
SLEEPS = ["sh", "-c", "sleep 1000 & wait"]


def ours(*words: str) -> list[str]:
    return [sys.executable, PROGRAM, *words]


def run(daemon: Daemon, argv: list[str], options: Mapping[str, Any] = {}, **keys: Any) -> Daemon:
    told = {"argv": argv, "ready": "50ms", **options}
    return daemon.pool("graced.workers:Program", options=told, **keys)


def children(pid: int | None) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:  # it has ended, or has no number as yet
        return []


def programs(daemon: Daemon) -> list[int]:
    """Return the numbers of the programs, by slot."""
    return [child for pid in daemon.worker_pids() for child in children(pid)]


def test_it_is_told_its_place_and_asked_to_stop_with_its_group(daemon: Daemon) -> None:
    (daemon.home / "folder").mkdir()
    argv = [*ours("notify"), "{pool}/{slot}", "{print}"]
    told = {"ready": "notify", "cwd": "folder", "env": {"ROLE": "{pool}-{slot}"}}
    run(daemon, argv, {**told, "stop_signal": "quit"}, workers=2).start().ready()
    for slot in (0, 1):
        where = daemon.home / "folder"
        daemon.log.wait(f"begins notify jobs/{slot} {{print}} {where} jobs-{slot}$")
    daemon.log.wait("status: warming up", 2)
    assert [w["state"] for w in daemon.workers()] == ["ready", "ready"]
    daemon.send(signal.SIGTERM)
    daemon.ended(0)
    assert len(daemon.log.matching("heard SIGQUIT")) == 2
    assert len(daemon.log.matching("the program exited with status 0, asked to leave")) == 2
    daemon.nothing_left()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"argv": ["nonesuch"]}, "options.argv: cannot run nonesuch: there is no such program"),
        ({"argv": ["/etc/passwd"]}, "options.argv: cannot run /etc/passwd: it may not be executed"),
        ({"argv": ["true"], "cwd": "/nonesuch"}, "options.cwd: /nonesuch: No such file"),
        ({"argv": ["sh", "-c", "echo a reason; exit 3"]}, "status 3 before it was ready: a reason"),
        ({"argv": ["sh", "-c", "kill -9 $$"]}, "was killed by SIGKILL before it was ready"),
        ({"argv": ["sleep", 1000], "ready": "notify"}, "not ready|longer than"),
    ],
)
def test_a_reload_with_one_that_fails_is_refused_and_the_old_one_serves_on(
    daemon: Daemon, options: dict[str, Any], why: str
) -> None:
    run(daemon, SLEEPS).start().ready()
    [before] = programs(daemon)
    timeout = "700ms" if "ready" in options else "30s"
    run(daemon, SLEEPS, options, ready_timeout=timeout)
    refused = daemon.run("reload")
    assert refused.returncode == 1
    daemon.log.wait(f"refused.*({why})")
    daemon.until(lambda: programs(daemon) == [before])
    assert "Traceback" not in str(daemon.log)
    daemon.send(signal.SIGTERM)
    daemon.ended(0)
    daemon.nothing_left()


def test_one_that_serves_before_it_is_ready_is_drained_where_its_reload_is_refused(
    daemon: Daemon, port: int
) -> None:
    listen, stop = [f"tcp://127.0.0.1:{port}"], {"stop_signal": "quit", "ready": "10m"}
    run(daemon, SLEEPS, listen=listen).start().ready()
    [before] = programs(daemon)
    gate = daemon.gate()
    fails = {"argv": ["sh", "-c", f": < {gate}; exit 7"], "ready": "10m"}
    serves = {"worker": "graced.workers:Program", "listen": listen, "stop_timeout": "100ms"}
    serves["options"] = {"argv": ours("serve", "tells"), **stop}
    other = {"worker": "graced.workers:Program", "options": fails}
    daemon.configure({"jobs": serves, "other": other}).send(signal.SIGHUP)
    with socket.create_connection(("127.0.0.1", port), timeout=SOON) as caller:
        daemon.log.wait("has a caller")
        [new] = [w["pid"] for w in daemon.workers() if w["state"] == "starting"]
        os.kill(new, signal.SIGSTOP)  # it is seen in its setup()
        daemon.open_gate()
        daemon.log.wait("refused.*exited with status 7")
        assert [w["state"] for w in daemon.workers() if w["pid"] == new] == ["draining"]
        os.kill(new, signal.SIGCONT)
        daemon.log.wait("heard SIGQUIT")
        caller.sendall(b"hello")
        assert caller.recv(100).endswith(b" 0 hello")
    daemon.log.wait("exited with status 0, asked to leave")
    assert programs(daemon) == [before]
    daemon.send(signal.SIGTERM)
    daemon.ended(0)
    daemon.nothing_left()


def test_wrong_options_are_told_with_their_place(daemon: Daemon) -> None:
    daemon.write_config(
        "pools:\n"
        "  a: {worker: 'graced.workers:Program', options: {argv: [x], redy: 2s}}\n"
        "  b: {worker: 'graced.workers:Program', options: {argv: [x], ready: soon}}\n"
        "  c: {worker: 'graced.workers:Program', options: {argv: x}}\n"
        "  d: {worker: 'graced.workers:Program'}\n"
        "  e: {worker: 'graced.workers:Program', options: {argv: [x], stop_signal: HUPP}}\n"
        "  f: {worker: 'graced.workers:Program', options: {argv: [x, true]}}\n"
        "  g: {worker: 'graced.workers:Program', options: {argv: [x], env: {A: [1]}}}\n"
        "  h: {worker: 'graced.workers:Program', options: {argv: [x], ready: 'tcp://h:1'}}\n"
        "  i: {worker: 'graced.workers:Program', options: {argv: [x], ready: 'tcp://0.0.0.0:1'},"
        " listen: 'tcp://0.0.0.0:1'}\n"
    )
    checked = daemon.run("check")
    assert checked.returncode == 78
    told = [line.split(": ", 1)[1] for line in checked.stderr.splitlines()]
    assert [line.split("; ")[0] for line in told] == [
        "pools.a.options.redy: unknown option",
        "pools.b.options.ready: cannot read 'soon'",
        "pools.c.options.argv: is not a list",
        "pools.d.worker: options.argv is missing",
        "pools.e.options.stop_signal: there is no signal 'HUPP'",
        "pools.f.options.argv.1: is not a text",
        "pools.g.options.env.A: is not a text",
        "pools.h.options.ready: 'h' is no numeric IP address",
        "pools.i.options.ready: tcp://0.0.0.0:1 accepts before the program does: the pool listens"
        " there",
    ]
    assert "config.yaml:2:68: pools.a.options.redy" in checked.stderr


def test_check_looks_for_the_program(daemon: Daemon) -> None:
    def checked(*argv: str, **options: Any) -> tuple[int, str]:
        run(daemon, list(argv), options)
        done = daemon.run("check")
        return done.returncode, done.stderr

    assert checked("sh") == (0, "")
    assert checked("./sh", cwd="/bin") == (0, "")
    status, said = checked("/nonesuch")
    assert (status, said.count("cannot run /nonesuch: there is no such program")) == (78, 1)
    assert re.match(r"\S+config.yaml:\d+:\d+: pools.jobs.options.argv: cannot", said), said
    status, said = checked("nonesuch", env={"PATH": "/bin"})
    assert (status, said.count("cannot run nonesuch")) == (78, 1)
    status, said = checked("nonesuch")  # the daemon's PATH may be another one
    assert (status, said.count("warning: options.argv: cannot run nonesuch")) == (0, 1)


def test_its_end_is_a_death_whatever_its_status(daemon: Daemon) -> None:
    run(daemon, ["sh", "-c", "sleep 1000 & wait; exit 0"], workers=2).start().ready()
    first, second = programs(daemon)
    [sleep] = daemon.until(lambda: children(first))
    os.kill(sleep, signal.SIGTERM)
    daemon.log.wait("died.*the program exited with status 0")
    [sleep] = daemon.until(lambda: children(second))
    os.kill(second, signal.SIGSEGV)
    daemon.log.wait("died.*the program was killed by SIGSEGV")
    wait_gone([sleep])
    daemon.until(lambda: len(programs(daemon)) == 2)
    pool = daemon.status()["pools"]["jobs"]
    assert pool["deaths"] == 2
    reasons = [death["reason"].removesuffix(" (core dumped)") for death in pool["last_deaths"]]
    assert reasons == ["the program exited with status 0", "the program was killed by SIGSEGV"]


def test_it_goes_with_its_worker_and_with_the_daemon(daemon: Daemon) -> None:
    run(daemon, SLEEPS, workers=2).start().ready()
    [killed, _] = daemon.worker_pids()
    [program] = children(killed)
    group = [program, *daemon.until(lambda: children(program))]
    os.kill(killed, signal.SIGKILL)
    wait_gone(group)
    daemon.until(lambda: len(programs(daemon)) == 2)
    os.kill(daemon.pid, signal.SIGKILL)
    daemon.nothing_left()


def test_a_drain_waits_for_the_group_and_the_ladder_ends_it(daemon: Daemon) -> None:
    """The leader is gone at once, its child finishes; one that hears nothing is killed."""
    finishes = "(trap '' TERM; echo deaf; sleep 0.5; echo finished) & wait"
    run(daemon, ["sh", "-c", finishes]).start().ready()
    daemon.log.wait("deaf")
    daemon.send(signal.SIGTERM)
    daemon.log.wait("finished")
    daemon.ended(0)
    run(daemon, ours("ignore"), stop_timeout="300ms", drain_timeout="1s", workers=2)
    daemon.start().ready(2)
    daemon.log.wait("begins ignore", 2)
    daemon.send(signal.SIGTERM)
    daemon.ended(1)
    assert len(daemon.log.matching("heard SIGTERM")) >= 2
    daemon.nothing_left()


def test_none_who_calls_is_refused_over_reloads_deaths_and_scaling(
    daemon: Daemon,
    port: int,
) -> None:
    argv, listen = ours("notify", "serve", "slow"), f"tcp://127.0.0.1:{port}"
    run(daemon, argv, {"ready": "notify"}, listen=[listen], workers=2).start().ready()
    with Callers(port, 3) as callers:
        for _ in range(2):
            assert daemon.run("reload").returncode == 0
            callers.more(5)
        assert daemon.run("scale", "jobs", "1").returncode == 0
        callers.more(5)
        assert daemon.run("scale", "jobs", "3").returncode == 0
        daemon.until(lambda: len(programs(daemon)) == 3)
        callers.more(5)
    assert len({answer[0] for answer in callers.answers}) > 3
    daemon.send(signal.SIGTERM)
    daemon.ended(0)


def test_an_address_that_accepts_is_that_of_the_program_itself(
    daemon: Daemon,
    port: int,
) -> None:
    """With surge 0 a reload moves on; with surge 1 the port is taken, and it is refused."""
    serve = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    ready = {"ready": f"tcp://127.0.0.1:{port}"}
    run(daemon, serve, ready, surge=0).start().ready()
    socket.create_connection(("127.0.0.1", port), timeout=SOON).close()
    [before] = programs(daemon)
    assert daemon.run("reload").returncode == 0
    [after] = programs(daemon)
    assert after != before
    run(daemon, serve, ready, surge=1)
    assert daemon.run("reload").returncode == 1
    daemon.log.wait("accepts before the program is started")
    daemon.log.wait("refused.*before it was ready.*Address already in use")
    socket.create_connection(("127.0.0.1", port), timeout=SOON).close()
    assert programs(daemon) == [after]


def test_it_is_recycled_by_memory_and_when_it_says_that_it_stops(daemon: Daemon) -> None:
    run(daemon, ours("notify"), {"ready": "notify"}).start().ready()
    [before] = programs(daemon)
    os.kill(before, signal.SIGUSR1)
    daemon.log.wait("says that it is stopping")
    daemon.draining(1)
    assert not daemon.log.matching("heard SIGTERM")
    os.kill(before, signal.SIGTERM)
    wait_gone([before])
    daemon.until(lambda: len(programs(daemon)) == 1)
    assert daemon.status()["pools"]["jobs"]["deaths"] == 0
    run(daemon, ours("notify", "large"), {"ready": "notify"})
    assert daemon.run("reload").returncode == 0
    daemon.until(lambda: max(worker["rss"] or 0 for worker in daemon.workers()) > 50 << 20)
    run(daemon, ours("notify", "large"), {"ready": "notify"}, max_rss="40M")
    assert daemon.run("reload").returncode == 0
    daemon.log.wait("max_rss")

