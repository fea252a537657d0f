"""The container image, run for real: graced as PID 1, with as few rights as there are."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from containers import BASE, IMAGE, OUT, STRICT, Container, Host, make, strict
from daemon_harness import ROOT

import graced

pytestmark = pytest.mark.timeout(1800)  # the first time the file systems have to be made

KUBERNETES = ROOT / "packaging" / "container" / "kubernetes.yaml"
PAGE = (ROOT / "docs" / "container.md").read_text(encoding="utf-8")
SHOP = "localhost/shop"
ARCHIVE = f"graced-{graced.__version__}.tar"
LARGEST = 45_000_000  # bytes over the base; nearly all of it is Python

SHOP_CODE = """
import time
import greeting
from graced import JobWorker

class Greeter(JobWorker):
    def handle(self, job):
        print("greets", job.payload)
        if job.payload == "Bob":
            time.sleep(600)
        return greeting.greet(job.payload)
"""
SHOP_CONFIG = """
pools:
  shop:
    worker: shop:Greeter
    path: [., lib]
"""

GREETING = {  # a package from elsewhere
    "greeting.py": "def greet(name):\n    return f'good day, {name}'\n",
    "greeting-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n",
    "greeting-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
    "Tag: py3-none-any\n",
    "greeting-1.0.dist-info/RECORD": "",
}

BUILD = f"""
export BUILDAH_ISOLATION=chroot
/src/packaging/container/build {OUT} --base {BASE} --with buildah
/src/packaging/container/build {OUT}/again --base {BASE} --with podman >/dev/null
cd shop
podman build --quiet --format docker --tag {SHOP} .
podman save --quiet --format docker-archive --output {OUT}/shop.tar {SHOP}
"""


def shop(folder: Path) -> None:
    """Write what a user of the image has: code, a configuration, and a package from elsewhere."""
    folder.mkdir()
    [text] = re.findall(r"^```dockerfile\n(.*?)^```", PAGE, re.S | re.M)
    (folder / "Dockerfile").write_text(text)
    (folder / "shop.py").write_text(SHOP_CODE)
    (folder / "config.yaml").write_text(SHOP_CONFIG)
    (folder / "requirements.txt").write_text("/app/greeting-1.0-py3-none-any.whl\n")
    with zipfile.ZipFile(folder / "greeting-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in GREETING.items():
            wheel.writestr(name, text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the image's archive in it, and with that of an image made from it."""
    folder = tmp_path_factory.mktemp("images")
    shop(folder / "shop")
    (folder / "said").write_text(make(folder, BUILD))
    return folder


@pytest.fixture(scope="module")
def host(folder: Path) -> Iterator[Host]:
    """A machine that has the images."""
    with Host(folder) as host:
        yield host


@pytest.fixture
def container(host: Host) -> Iterator[Container]:
    """The image, running and ready, with the strictest options."""
    with strict(host) as container:
        yield container


def submit(container: Container, script: str, *options: str) -> str:
    """Add a job for a shell; return what the command prints."""
    return container.run("graced", "submit", *options, "--", "sh", "-c", script)


# What is in it


class Archive:
    """What is in the file that `docker load` takes."""

    def __init__(self, path: Path) -> None:
        with tarfile.open(path) as tar:

            def read(name: str) -> Any:
                file = tar.extractfile(name)
                assert file is not None
                return json.load(file)

            [self.image] = read("manifest.json")
            self.whole = read(self.image["Config"])
            self.sizes = [tar.getmember(name).size for name in self.image["Layers"]]


def test_the_archive_says_what_it_is(folder: Path) -> None:
    path = folder / ARCHIVE
    said = (folder / "said").read_text().splitlines()
    assert said[:1] == [f"{OUT}/{ARCHIVE}"]
    assert re.fullmatch(rf"{IMAGE}, \d+ MB, (sha256:)?[0-9a-f]{{64}}", said[1])
    assert f", {path.stat().st_size // 1_000_000} MB, " in said[1]
    archive = Archive(path)
    assert archive.image["RepoTags"] == [IMAGE]
    assert sum(archive.sizes[1:]) < LARGEST
    config = archive.whole["config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["graced"]
    assert config["Cmd"] == ["run"]
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"] == ["CMD", "graced", "health"]
    assert config["Labels"]["org.opencontainers.image.version"] == graced.__version__
    assert archive.whole["created"].startswith("2026-09-21T14:13:20")  # SOURCE_DATE_EPOCH


def test_two_tools_make_the_same_layers_byte_for_byte(folder: Path) -> None:
    first, second = Archive(folder / ARCHIVE), Archive(folder / "again" / ARCHIVE)
    assert first.whole["rootfs"] == second.whole["rootfs"]
    assert len(first.whole["rootfs"]["diff_ids"]) == 2


def test_no_byte_code_is_made_again(host: Host) -> None:
    """Every date is that of the sources: .pyc files that went by dates would all be stale."""
    script = (
        "import sys, yaml, daemon, sdnotify, setproctitle, waitress\n"
        "import graced.supervisor.loop, graced.queue.keeper\n"
        "for name, module in list(sys.modules.items()):\n"
        "    cached = getattr(module, '__cached__', None)\n"
        "    if cached:\n"
        "        print(name, int.from_bytes(open(cached, 'rb').read(8)[4:], 'little'))\n"
    )
    found = host.once(*STRICT, "--entrypoint", "python3", IMAGE, "-c", script)
    assert found.returncode == 0, found
    kinds = dict(line.split() for line in found.stdout.splitlines())
    assert {"graced.supervisor.loop", "signal", "yaml"} <= set(kinds)
    assert set(kinds.values()) == {"1"}  # by its hash, which nobody checks


def test_there_is_nothing_that_is_not_needed(host: Host) -> None:
    script = """
        find /var/lib/apt/lists /var/cache/apt /var/log /root/.cache /app -type f -size +0
        find / -xdev -name pip -o -xdev -name '*.opt-1.pyc' -o -xdev -name systemd -type f
        command -v gcc make git
    """
    found = host.once(*STRICT, "--user", "0", "--entrypoint", "sh", IMAGE, "-c", script)
    assert found.stdout == "", found.stdout


def test_python_s_tools_know_it(host: Host) -> None:
    script = "import importlib.metadata as m; print(m.version('graced'))"
    found = host.once(*STRICT, "--entrypoint", "python3", IMAGE, "-c", script)
    assert found.stdout.strip() == graced.__version__, found


# It runs


def test_jobs_run_as_pid_1_with_no_rights_at_all(container: Container) -> None:
    asked = "echo $(cat /proc/1/comm) $(id -u) $(grep CapEff /proc/self/status)"
    submit(container, f"{asked}; touch /x || echo no", "--wait")
    container.log.wait(r"graced 10001 CapEff:\s*0000000000000000 ")
    container.log.wait(r": no job=1")
    status = container.status()
    assert status["pid"] == 1
    assert status["pools"]["jobs"]["queue"]["done"] == 1


def test_the_status_of_a_job_comes_out(container: Container) -> None:
    line = ["graced", "submit", "--wait", "--max-attempts", "1", "--", "sh", "-c", "exit 7"]
    assert container.attempt(*line).returncode == 7


def test_orphans_are_buried(container: Container) -> None:
    submit(container, "setsid sleep 0.3 >/dev/null 2>&1 & echo orphan $!", "--wait")
    [line] = container.log.wait("orphan [0-9]+")
    pid = line.text.partition("orphan ")[2].split()[0]
    container.until(lambda: container.attempt("test", "-e", f"/proc/{pid}").returncode == 1)
    zombies = "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null"
    container.until(lambda: container.attempt("sh", "-c", zombies).stdout == "")


def test_what_user_code_prints_is_in_the_log_at_once(host: Host) -> None:
    with strict(host, image=SHOP) as container:
        answer = container.run("graced", "submit", "--wait", "--json", '"Ada"')
        assert json.loads(answer) == "good day, Ada"
        container.run("graced", "submit", "--json", '"Bob"')
        container.log.wait("^greets Bob$")  # and is still at it
        assert container.status()["pools"]["shop"]["busy"] == 1


def test_the_log_can_be_json(host: Host) -> None:
    with strict(host, "--env", "GRACED__LOG__FORMAT=json") as container:
        submit(container, "echo hello", "--wait")
        [line] = container.log.wait("hello")
        assert json.loads(line.text)["job"] == 1


# It stops


def test_a_stop_in_the_middle_of_a_job_drains(host: Host, container: Container) -> None:
    submit(container, "echo begun; sleep 3; echo finished")
    container.log.wait(": begun job=1")
    container.podman("stop", "--time", "20")
    assert container.ended() == 0
    container.log.wait(": finished job=1")
    assert host.inspect(container.name)["State"]["ExitCode"] == 0


def test_sigint_is_now_and_the_job_is_not_lost(host: Host) -> None:
    keep = ("--volume", "kept:/var/lib/graced")
    with strict(host, *keep) as container:
        submit(container, "echo attempt $GRACED_JOB_ATTEMPT; test -e /run/graced/go || sleep 600")
        container.log.wait(": attempt 1 job=1")
        container.podman("kill", "--signal", "INT")
        assert container.ended() == 0
    with strict(host, *keep) as container:
        container.log.wait(": attempt 1 job=1")  # an interrupt does not count
        container.podman("kill", "--signal", "INT")
        assert container.ended() == 0


def test_a_sigterm_in_the_first_moment_is_not_lost(host: Host) -> None:
    """PID 1 has no default action: what comes before there is a handler would be dropped."""
    with Container(host, *STRICT) as container:
        container.ready()
        container.podman("kill", "--signal", "KILL")
        container.ended()
        for _ in range(5):
            assert first_moment(host, container.name) == 0


def first_moment(host: Host, name: str) -> int:
    """Start a container, send SIGTERM as soon as its program runs; return its exit status.

    As soon as SIGTERM is blocked or caught, that is, in whoever is named so by then.
    """
    host.podman("init", name)
    pid = host.inspect(name)["State"]["Pid"]
    script = f"""
        podman start {name} >/dev/null &
        until grep -qE 'python3|graced' /proc/{pid}/comm &&
            grep -qE '^Sig(Blk|Cgt):.*[4-7c-f][0-9a-f]{{3}}$' /proc/{pid}/status; do :; done
        kill -TERM {pid}
        timeout 60 podman wait {name} || podman kill {name}
    """
    return int(host.run("sh", "-c", script, timeout=120).split()[-1])


# Its health


def test_health_goes_with_the_workers(host: Host, container: Container) -> None:
    def look() -> int:
        return host.attempt("podman", "healthcheck", "run", container.name).returncode

    def state() -> str:
        health: str = host.inspect(container.name)["State"]["Health"]["Status"]
        return health

    # The image's own command and number of failures; looked at by nobody else, and from now on.
    container.podman("update", "--health-interval", "disable", "--health-start-period", "0s")
    assert look() == 0
    assert state() == "healthy"
    workers = " ".join(container.workers())
    container.run("sh", "-c", f"kill -STOP {workers}")
    assert [look() for _ in range(3)] == [1, 1, 1]
    assert state() == "unhealthy"
    container.run("sh", "-c", f"kill -CONT {workers}")
    container.until(lambda: look() == 0)
    assert state() == "healthy"


# What can be wrong


def refused(host: Host, *options: str) -> str:
    """Return what a container says that must not start, without a traceback."""
    done = host.once(*options)
    assert done.returncode == 78, done
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_wrong_configuration_is_told(host: Host) -> None:
    said = refused(host, *STRICT, "--env", "GRACED__POOLS__JOBS__WORKERZ=3", IMAGE)
    assert "GRACED__POOLS__JOBS__WORKERZ" in said


def test_a_state_folder_that_cannot_be_written_to_is_told(host: Host) -> None:
    said = refused(host, *STRICT, "--image-volume", "ignore", IMAGE)
    assert "/var/lib/graced" in said


def test_any_user_may_run_it_in_group_0(host: Host) -> None:
    with strict(host, "--user", "12345:0") as container:
        submit(container, "echo I am $(id -u):$(id -g)", "--wait")
        container.log.wait(": I am 12345:0 job=1")


def test_another_group_is_told_about_the_state_folder(host: Host) -> None:
    assert "/var/lib/graced" in refused(host, *STRICT, "--user", "12345:12345", IMAGE)


# With a configuration from outside


def test_a_reload_takes_a_changed_config_map(host: Host) -> None:
    """The kubelet shows a ConfigMap through two symbolic links, and turns the first one."""
    text = "pools: {{jobs: {{worker: 'graced.workers:Command', workers: {}}}}}\n"
    write = host.machine.write
    write("/srv/map/..1/config.yaml", text.format(1))
    write("/srv/map/..2/config.yaml", text.format(3))
    host.run("sh", "-c", "cd /srv/map; ln -s ..1 ..data; ln -s ..data/config.yaml config.yaml")
    with strict(host, "--volume", "/srv/map:/etc/graced:ro") as container:
        assert len(container.workers()) == 1
        host.run("sh", "-c", "cd /srv/map; ln -s ..2 new; mv -T new ..data")
        container.run("graced", "reload")
        assert len(container.workers()) == 3


# The examples


@pytest.fixture(scope="module")
def engine(host: Host) -> Host:
    """The same machine, where what speaks to Docker's engine reaches podman."""
    host.machine.write("/etc/resolv.conf", "nameserver 192.0.2.1\n")  # podman wants one
    host.run("systemctl", "start", "podman.socket")
    return host


def compose(engine: Host, file: str, *words: str) -> subprocess.CompletedProcess[str]:
    socket = "unix:///run/podman/podman.sock"
    return engine.attempt("docker-compose", "--host", socket, "--file", file, *words)


def test_the_compose_file_starts_and_drains(engine: Host) -> None:
    file = "/src/packaging/container/compose.yaml"

    def do(*words: str) -> str:
        done = compose(engine, file, *words)
        assert done.returncode == 0, done
        return done.stdout

    do("up", "--detach", "--wait")  # until it is healthy
    inside = ("exec", "-T", "graced", "graced")
    do(*inside, "submit", "--", "sh", "-c", "touch /tmp/begun; sleep 3; echo finished")
    do("exec", "-T", "graced", "sh", "-c", "until test -e /tmp/begun; do sleep 0.05; done")
    do("stop")
    assert ": finished job=1" in do("logs", "graced")
    assert "Exited (0)" in do("ps", "--all")
    do("down", "--volumes")


def test_a_compose_file_with_a_wrong_key_is_refused(engine: Host) -> None:
    right = (ROOT / "packaging/container/compose.yaml").read_text()
    wrong = right.replace("stop_grace_period:", "stop_graceperiod:")
    assert wrong != right
    engine.machine.write("/srv/compose.yaml", wrong)
    refused = compose(engine, "/srv/compose.yaml", "config", "--quiet")
    assert refused.returncode != 0
    assert "stop_graceperiod" in refused.stderr


def playable(text: str) -> str:
    """Return what podman takes: nothing that wants cgroup controllers or the kubelet's fsGroup."""
    documents = list(yaml.safe_load_all(text))
    claim, deployment = documents[1], documents[2]
    claim["metadata"]["annotations"] = {"volume.podman.io/uid": "10001"}
    del deployment["spec"]["template"]["spec"]["containers"][0]["resources"]
    return yaml.safe_dump_all(documents)


def test_the_deployment_starts_and_drains(engine: Host) -> None:
    file = engine.machine.write("/srv/kubernetes.yaml", playable(KUBERNETES.read_text()))
    engine.podman("kube", "play", "/srv/kubernetes.yaml")
    name = "graced-pod-graced"

    def attempt(*words: str) -> subprocess.CompletedProcess[str]:
        return engine.attempt("podman", "exec", name, *words)

    engine.machine.until(lambda: attempt("graced", "health", "--ready").returncode == 0)
    assert attempt("cat", "/proc/1/comm").stdout == "graced\n"
    script = "touch /tmp/begun; sleep 3; echo finished"
    assert attempt("graced", "submit", "--", "sh", "-c", script).returncode == 0
    engine.machine.until(lambda: attempt("test", "-e", "/tmp/begun").returncode == 0)
    engine.podman("pod", "stop", "graced-pod")
    assert '"finished"' in engine.attempt("podman", "logs", name).stderr
    state = engine.inspect(name)
    assert (state["State"]["ExitCode"], state["Config"]["StopTimeout"]) == (0, 45)
    assert state["HostConfig"]["ReadonlyRootfs"]
    assert state["Config"]["Healthcheck"]["Test"] == ["CMD", "graced", "health"]
    engine.podman("kube", "down", "--force", "/srv/kubernetes.yaml")
    file.unlink()
