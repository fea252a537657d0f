"""The examples for Kubernetes and Compose, and what the image's files promise each other."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import types
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from daemon_harness import ROOT

import graced
from graced.cli import arguments
from graced.config import reader
from graced.doctor import rules

FOLDER = ROOT / "packaging" / "container"
KUBERNETES = sorted(FOLDER.glob("kubernetes*.yaml"))
COMPOSE = FOLDER / "compose.yaml"
PAGE = ROOT / "docs" / "container.md"
MARGIN = 5  # seconds between the end of the ladder and the kill from outside


def documents(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text(encoding="utf-8")))


def pod(file: Path) -> dict[str, Any]:
    """Return what a file says about its pods."""
    [spec] = [
        document["spec"]["template"]["spec"]
        for document in documents(file)
        if document["kind"] in ("Deployment", "StatefulSet")
    ]
    return spec


def longest_stop(text: str, tmp_path: Path) -> float:
    """Return how long a stop may take by a configuration, in seconds."""
    (tmp_path / "config.yaml").write_text(text)
    reading = reader.read(str(tmp_path / "config.yaml"), {}, ())
    assert reading.settings is not None, reading.problems
    return rules.ladder(reading.settings)


# Schemas


@pytest.fixture(scope="module")
def models() -> Any:
    """The types of Kubernetes' API, made from its own description.

    They are plain dataclasses. What would read them from YAML is in another package, which
    brings a client for HTTP with it and is not as strict as this.
    """
    schema = types.ModuleType("lightkube.core.schema")
    schema.dataclass = dataclasses.dataclass  # type: ignore[attr-defined]
    schema.field = dataclasses.field  # type: ignore[attr-defined]
    schema.DictMixin = object  # type: ignore[attr-defined]
    stand_in = {"lightkube.core": types.ModuleType("lightkube.core"), schema.__name__: schema}
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stand_in.items():
            patch.setitem(sys.modules, name, module)
        from lightkube.models import apps_v1, core_v1

        yield {"apps/v1": apps_v1, "v1": core_v1}


def misfits(value: Any, kind: Any, where: str) -> list[str]:
    """Return in what a value is not of this type: unknown keys, missing ones, wrong values."""
    if typing.get_origin(kind) is typing.Union:
        found = [misfits(value, one, where) for one in typing.get_args(kind)]
        return min(found, key=len)
    if dataclasses.is_dataclass(kind):
        return misfits_of_record(value, kind, where)
    if typing.get_origin(kind) is list and isinstance(value, list):
        [one] = typing.get_args(kind)
        return [m for i, each in enumerate(value) for m in misfits(each, one, f"{where}[{i}]")]
    if typing.get_origin(kind) is dict and isinstance(value, dict):
        _, one = typing.get_args(kind)
        return [m for key, each in value.items() for m in misfits(each, one, f"{where}.{key}")]
    plain = typing.get_origin(kind) or kind
    right = isinstance(value, plain) and not (isinstance(value, bool) and plain is int)
    return [] if right else [f"{where}: {value!r} is no {kind}"]


def misfits_of_record(value: Any, kind: Any, where: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where}: {value!r} is no {kind.__name__}"]
    hints = typing.get_type_hints(kind)
    fields = {field.metadata.get("json", field.name): field for field in dataclasses.fields(kind)}
    found = [f"{where}.{key}: there is no such key" for key in value if key not in fields]
    for name, field in fields.items():
        if name in value:
            found += misfits(value[name], hints[field.name], f"{where}.{name}")
        elif field.default is field.default_factory is dataclasses.MISSING:
            found.append(f"{where}.{name}: is missing")
    return found


def misfits_of_file(text: str, models: Any) -> list[str]:
    return [
        misfit
        for document in yaml.safe_load_all(text)
        for misfit in misfits(
            document, getattr(models[document["apiVersion"]], document["kind"]), document["kind"]
        )
    ]


@pytest.mark.parametrize("file", KUBERNETES, ids=lambda file: file.name)
def test_kubernetes_would_take_it(file: Path, models: Any) -> None:
    assert misfits_of_file(file.read_text(), models) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("terminationGracePeriodSeconds: 45", "terminationGracePeriod: 45"),
        ("terminationGracePeriodSeconds: 45", "terminationGracePeriodSeconds: 45s"),
        ("runAsNonRoot: true", 'runAsNonRoot: "yes"'),
        ("exec: {command: [graced, health]}", "exec: {command: graced health}"),
        ("drop: [ALL]", "drop: [{all: true}]"),
        ("  selector: {matchLabels: {app.kubernetes.io/name: graced}}\n", ""),
    ],
)
def test_what_kubernetes_would_refuse_is_seen(right: str, wrong: str, models: Any) -> None:
    text = KUBERNETES[0].read_text()
    assert right in text
    assert len(misfits_of_file(text.replace(right, wrong, 1), models)) == 1


# What fits together


@pytest.mark.parametrize("file", KUBERNETES, ids=lambda file: file.name)
def test_the_kubelet_waits_longer_than_the_ladder(file: Path, tmp_path: Path) -> None:
    config = documents(file)[0]["data"]["config.yaml"]
    grace = pod(file)["terminationGracePeriodSeconds"]
    assert grace >= longest_stop(config, tmp_path) + MARGIN


def test_compose_waits_longer_than_the_ladder(tmp_path: Path) -> None:
    [service] = documents(COMPOSE)[0]["services"].values()
    grace = re.fullmatch(r"(\d+)s", service["stop_grace_period"])
    assert grace
    assert int(grace[1]) >= longest_stop((FOLDER / "config.yaml").read_text(), tmp_path) + MARGIN


@pytest.mark.parametrize("file", KUBERNETES, ids=lambda file: file.name)
def test_what_is_mounted_is_there(file: Path) -> None:
    [container] = pod(file)["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    claimed = [
        t["metadata"]["name"] for t in documents(file)[-1]["spec"].get("volumeClaimTemplates", [])
    ]
    assert sorted(mounts) == sorted([v["name"] for v in pod(file)["volumes"]] + claimed)
    names = {(d["kind"], d["metadata"]["name"]) for d in documents(file)}
    assert ("ConfigMap", "graced") in names
    assert mounts["state"] == "/var/lib/graced"


def test_all_examples_have_the_same_pods() -> None:
    pods = [pod(file) for file in KUBERNETES]
    for each in pods:
        each["volumes"] = [v for v in each["volumes"] if v["name"] != "state"]
        each["containers"][0].pop("env", None)  # the password of the server
    assert all(each == pods[0] for each in pods)


def test_probes_are_commands_that_exist() -> None:
    [container] = pod(KUBERNETES[0])["containers"]
    lines = [container[f"{name}Probe"]["exec"]["command"] for name in ("startup", "liveness")]
    lines.append(container["readinessProbe"]["exec"]["command"])
    [service] = documents(COMPOSE)[0]["services"].values()
    lines.append(service["healthcheck"]["test"][1:])
    said = re.search(r"^HEALTHCHECK .* CMD \[(.*)\]$", (FOLDER / "Containerfile").read_text(), re.M)
    assert said
    lines.append([word.strip(' "') for word in said[1].split(",")])
    for program, *words in lines:
        assert program == "graced"
        assert arguments.parse(words).command == "health"


def test_nobody_names_another_version() -> None:
    for file in [*KUBERNETES, COMPOSE, PAGE]:
        versions = re.findall(r"localhost/graced:([^\s`]+)", file.read_text())
        assert versions, file
        assert set(versions) == {graced.__version__}, f"{file.name}: the image has a new version"


# The script


DOCKER = """#!/bin/sh
case $1 in
build) { echo "$SOURCE_DATE_EPOCH"; ls -d graced packaging; printf '%s\\n' "$@"; } >"$NOTES" ;;
save) echo image >"$3" ;;
image) echo sha256:0123 ;;
esac
exit "${DOCKER_STATUS:-0}"
"""


def run_build(tmp_path: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the script where Docker's client is a stand-in that takes notes."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "docker").write_text(DOCKER)
    (tools / "docker").chmod(0o755)
    about = {"PATH": f"{tools}:{os.environ['PATH']}", "NOTES": str(tmp_path / "notes")}
    return subprocess.run(
        [str(FOLDER / "build"), *words],
        env={**os.environ, **about, "SOURCE_DATE_EPOCH": "1790000000", **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_docker_is_asked_for_the_same(tmp_path: Path) -> None:
    made = run_build(tmp_path, str(tmp_path / "out"), "--with", "docker", "--base", "mine:1")
    name = f"localhost/graced:{graced.__version__}"
    archive = tmp_path / "out" / f"graced-{graced.__version__}.tar"
    assert made.stdout == f"{archive}\n{name}, 0 MB, sha256:0123\n", made
    assert archive.read_text() == "image\n"
    notes = (tmp_path / "notes").read_text().splitlines()
    assert notes[:4] == ["1790000000", "graced", "packaging", "build"]
    assert notes[-1] == "."
    assert {f"VERSION={graced.__version__}", "BASE=mine:1", name} < set(notes)


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    made = run_build(tmp_path, str(tmp_path / "out"), "--with", "docker", DOCKER_STATUS="5")
    assert made.returncode == 5
    assert list((tmp_path / "out").iterdir()) == []


def test_without_a_tool_it_says_what_is_missing(tmp_path: Path) -> None:
    tools = tmp_path / "few"
    tools.mkdir()
    for name in ("bash", "dirname"):
        (tools / name).symlink_to(shutil.which(name) or name)
    made = run_build(tmp_path, str(tmp_path / "out"), PATH=str(tools))
    assert made.returncode == 1
    wanted = "packaging/container/build: needs buildah, podman or docker .*\n"
    assert re.fullmatch(wanted, made.stderr)


@pytest.mark.parametrize(
    "words", [[], ["out", "more"], ["out", "--with", "rkt"], ["out", "--base"]]
)
def test_a_wrong_command_line_is_answered_by_how_it_is_used(
    words: list[str], tmp_path: Path
) -> None:
    made = run_build(tmp_path, *words)
    assert made.returncode == 2
    assert "build OUTDIR [--base IMAGE]" in made.stderr
