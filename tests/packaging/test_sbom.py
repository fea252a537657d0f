"""The list of what the product is made of: valid, complete, true, and the same each time."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from harness import ROOT

import graced

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
NAME = f"graced-{graced.__version__}.cdx.json"
# What the classifiers of packages call it
LICENCES = {
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: BSD License": "BSD-3-Clause",
}


@pytest.fixture(scope="module", autouse=True)
def _library() -> None:
    try:
        import cyclonedx.validation.json  # noqa: F401
    except ImportError:
        why = "needs cyclonedx-python-lib: pip install '.[packaging]'"
        pytest.fail(why) if os.environ.get("GRACED_LAB_REQUIRED") == "1" else pytest.skip(why)


def sbom(
    folder: Path, *files: Path, python: str = sys.executable, epoch: str = "1790000000"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, ROOT / "packaging" / "sbom", folder, *files],
        env={**os.environ, "SOURCE_DATE_EPOCH": epoch},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def written(folder: Path, *files: Path) -> dict[str, Any]:
    result = sbom(folder, *files)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"{folder / NAME}\n"
    found: dict[str, Any] = json.loads((folder / NAME).read_text("utf-8"))
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The list without any file."""
    return written(tmp_path_factory.mktemp("plain"))


def components(bom: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in bom["components"]}


def below(bom: dict[str, Any]) -> dict[str, set[str]]:
    """Return what each component needs, by name."""
    names = {each["bom-ref"]: each["name"] for each in bom["components"]}
    names[bom["metadata"]["component"]["bom-ref"]] = "graced"
    return {
        names[each["ref"]]: {names[ref] for ref in each.get("dependsOn", [])}
        for each in bom["dependencies"]
    }


def required(requirements: list[str]) -> dict[str, str]:
    """Return name and range of each requirement that is no extra's."""
    pairs = [
        re.match(r"([\w.-]+) *\(?([^;)]*)", each) for each in requirements if "extra ==" not in each
    ]
    return {pair[1]: pair[2] for pair in pairs if pair}


def test_it_is_what_the_schema_wants(tmp_path: Path) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    (tmp_path / f"graced_{graced.__version__}-1_all.deb").write_bytes(b"a package")
    bom = written(tmp_path)
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bom)) is None


def test_the_product_is_told(plain: dict[str, Any]) -> None:
    component = plain["metadata"]["component"]
    assert component["version"] == graced.__version__
    assert component["purl"] == f"pkg:generic/graced@{graced.__version__}"
    assert component["licenses"] == [{"license": {"id": PROJECT["license"]["text"]}}]
    assert "components" not in component


def test_every_dependency_is_there_with_its_range_and_nothing_else(plain: dict[str, Any]) -> None:
    wanted = required(PROJECT["dependencies"])
    optional = required(PROJECT["optional-dependencies"]["title"])
    found = components(plain)
    assert set(found) == {*wanted, *optional, "Python", "lockfile"}
    for name, versions in (wanted | optional).items():
        [told] = found[name]["properties"]
        assert told["value"] == f"vers:pypi/{versions}"
        assert found[name]["purl"] == f"pkg:pypi/{name.lower()}"
        assert found[name]["scope"] == ("required" if name in wanted else "optional")
        assert "version" not in found[name]  # none is pinned
    assert found["Python"]["properties"][0]["value"] == f"vers:generic/{PROJECT['requires-python']}"


def test_who_needs_whom(plain: dict[str, Any]) -> None:
    needs = below(plain)
    direct = required(PROJECT["dependencies"]) | required(PROJECT["optional-dependencies"]["title"])
    assert needs.pop("graced") == {"Python", *direct}
    assert needs.pop("Python") == set()
    for name, told in needs.items():
        try:
            known = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        assert told == {"Python", *required(known)}, name


def test_licences_are_those_that_packages_claim(plain: dict[str, Any]) -> None:
    compared = 0
    for name, component in components(plain).items():
        try:
            claims = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        classified = [LICENCES[c] for c in claims.get_all("Classifier") or [] if c in LICENCES]
        expected = claims.get("License-Expression") or [*classified, claims.get("License")][0]
        assert component["licenses"] == [{"license": {"id": expected}}], name
        compared += 1
    assert compared >= len(PROJECT["dependencies"])


def test_packages_of_this_version_are_told_by_their_checksums(tmp_path: Path) -> None:
    version = graced.__version__
    purls = {
        f"graced_{version}-1_all.deb": f"pkg:deb/graced@{version}-1?arch=all",
        f"graced-{version}-1.noarch.rpm": f"pkg:rpm/graced@{version}-1?arch=noarch",
        f"graced-{version}.tar": None,
    }
    for name in [
        *purls,
        f"graced_{version}.1-1_all.deb",
        "graced_9.9-1_all.deb",
        f"graced-{version}-1.src.rpm",  # it has the name of who packed it in it
        f"graced-{version}.txt",
    ]:
        (tmp_path / name).write_text(name)
    told = written(tmp_path)["metadata"]["component"]["components"]
    assert {each["name"]: each.get("purl") for each in told} == purls
    for each in told:
        hashes = {one["alg"]: one["content"] for one in each["hashes"]}
        assert hashes["SHA-256"] == hashlib.sha256(each["name"].encode()).hexdigest()
        assert hashes["SHA-512"] == hashlib.sha512(each["name"].encode()).hexdigest()
        assert each["type"] == ("container" if each["name"].endswith(".tar") else "file")


def test_files_can_be_named(tmp_path: Path) -> None:
    file = tmp_path / "elsewhere" / "graced.img"
    file.parent.mkdir()
    file.write_bytes(b"")
    told = written(tmp_path / "new", file)["metadata"]["component"]["components"]
    assert [each["name"] for each in told] == ["graced.img"]


def test_the_same_content_makes_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        (folder / f"graced_{graced.__version__}-1_all.deb").write_bytes(b"a package")
    bom = written(first)
    written(second)
    assert (first / NAME).read_bytes() == (second / NAME).read_bytes()
    assert bom["metadata"]["timestamp"] == "2026-09-21T14:13:20+00:00"
    (second / f"graced_{graced.__version__}-1_all.deb").write_bytes(b"another one")
    assert written(second)["serialNumber"] != bom["serialNumber"]


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    result = sbom(tmp_path, tmp_path / "nowhere.deb")
    assert result.returncode == 1
    assert result.stderr == f"sbom: {tmp_path}/nowhere.deb: No such file or directory\n"


def test_a_python_without_the_library_is_told(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    result = sbom(tmp_path, python=str(bare))
    assert result.returncode == 1
    assert "pip install '.[packaging]'" in result.stderr
    assert "Traceback" not in result.stderr
