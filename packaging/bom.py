"""What the product is made of, as CycloneDX: called by `packaging/sbom`, which see.

The dependencies are those of pyproject.toml; what no file of ours can know of them, their licences
and what they need in turn, stands in KNOWN, and a test holds it to what is installed. None of
them is pinned: a component has the range that is wanted, and no version. What an installed
package or an image has in it is told by its own list (dpkg, rpm).
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import re
import subprocess
import sys
import tomllib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

try:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentScope, ComponentType
    from cyclonedx.model.license import DisjunctiveLicense
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
    from packageurl import PackageURL
except ImportError as error:
    sys.exit(
        f"sbom: {sys.executable} has no {error.name}: run `make sbom`, or "
        f"{sys.executable} -m pip install '.[packaging]'"
    )

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SCHEMA = SchemaVersion.V1_6
REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)\s*([<>=!~].*)?$")
DEB = re.compile(r"^(?P<name>[^_]+)_(?P<version>[^_]+)_(?P<arch>[^_]+)\.deb$")
RPM = re.compile(r"^(?P<name>.+)-(?P<version>[^-]+-[^-]+)\.(?P<arch>[^.]+)\.rpm$")
IMAGE = re.compile(r"^(?P<name>[^_]+)-(?P<version>[0-9][^-]*)\.tar$")


class Known(NamedTuple):
    """What is known of a dependency."""

    licence: str  # in SPDX's short form
    description: str
    needs: tuple[str, ...] = ()


KNOWN = {
    "python-daemon": Known(
        "Apache-2.0", "Leaves the terminal for graced run --daemonize", ("lockfile>=0.10",)
    ),
    "lockfile": Known("MIT", "Named by python-daemon for PID files; graced locks with flock(2)"),
    "sdnotify": Known("MIT", "Finds systemd's notification socket"),
    "pyyaml": Known("MIT", "Reads the configuration"),
    "setproctitle": Known("BSD-3-Clause", "Shows pool and slot in the command lines of workers"),
}


class Wrong(Exception):
    """What cannot be told; says what to do."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="sbom", description="Write a list of what graced is made of."
    )
    parser.add_argument("folder", metavar="OUTDIR", type=Path)
    parser.add_argument("files", metavar="FILE", type=Path, nargs="*", help="packages and images")
    args = parser.parse_args()
    try:
        print(write(args.folder, args.files))
    except Wrong as error:
        print(f"sbom: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"sbom: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def write(folder: Path, files: list[Path]) -> Path:
    """Write the list, and return its path."""
    version = source("version")
    epoch = datetime.datetime.fromtimestamp(int(source("epoch")), datetime.UTC)
    folder.mkdir(parents=True, exist_ok=True)
    bom = product(version, files or list(packages(folder, version)))
    bom.metadata.timestamp = epoch
    text = numbered(bom)
    problem = JsonStrictValidator(SCHEMA).validate_str(text)
    if problem is not None:
        raise Wrong(f"what was made is no CycloneDX: {problem}")
    goal = folder / f"graced-{version}.cdx.json"
    goal.write_text(text, encoding="utf-8")
    return goal


def source(what: str) -> str:
    """Ask packaging/source, which says itself what is wrong."""
    found = subprocess.run([HERE / "source", what], stdout=subprocess.PIPE, text=True, check=False)
    if found.returncode:
        sys.exit(found.returncode)
    return found.stdout.strip()


def packages(folder: Path, version: str) -> Iterator[Path]:
    """Yield the packages and images of this version in a folder, to be installed: no sources."""
    for path in sorted(folder.iterdir()):
        parts = next((p for form in (DEB, RPM, IMAGE) if (p := form.match(path.name))), None)
        if not parts or path.name.endswith(".src.rpm"):
            continue
        if re.match(rf"{re.escape(version)}(?![0-9.])", parts["version"]):
            yield path


def numbered(bom: Bom) -> str:
    """Return the text, with a serial number that the same content has again."""
    bom.serial_number = uuid.UUID(int=0)
    content = _text(bom)
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_OID, content)
    return _text(bom)


def _text(bom: Bom) -> str:
    return make_outputter(bom, OutputFormat.JSON, SCHEMA).output_as_string(indent=2) + "\n"


# Components


def product(version: str, files: list[Path]) -> Bom:
    """Return graced, the files that it is handed out as, and what it needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    graced = Component(
        type=ComponentType.APPLICATION,
        name="graced",
        version=version,
        description=project["description"],
        licenses=[DisjunctiveLicense(id=project["license"]["text"])],
        purl=PackageURL("generic", name="graced", version=version),
        bom_ref=f"graced@{version}",
        components=[_file(path) for path in files],
    )
    bom = Bom()
    bom.metadata.component = graced
    python = _python(project["requires-python"])
    bom.components.add(python)
    needed = [_needed(bom, each, ComponentScope.REQUIRED) for each in project["dependencies"]]
    optional = [
        _needed(bom, each, ComponentScope.OPTIONAL)
        for each in project["optional-dependencies"]["title"]
    ]
    bom.register_dependency(graced, [python, *needed, *optional])
    return bom


def _python(wanted: str) -> Component:
    return Component(
        type=ComponentType.PLATFORM,
        name="Python",
        description="The interpreter, with its standard library",
        licenses=[DisjunctiveLicense(id="PSF-2.0")],
        purl=PackageURL("generic", name="python"),
        bom_ref="python",
        scope=ComponentScope.REQUIRED,
        properties=_range("generic", wanted),
    )


def _needed(bom: Bom, requirement: str, scope: ComponentScope | None) -> Component:
    """Return the component that a requirement names; it is added if it is a new one."""
    found = REQUIREMENT.match(requirement)
    if not found:
        raise Wrong(f"pyproject.toml: cannot read {requirement!r}; write NAME>=VERSION")
    name, wanted = found[1], found[2] or ""
    component = Component(
        type=ComponentType.LIBRARY,
        name=name,
        description=_known(name).description,
        licenses=[DisjunctiveLicense(id=_known(name).licence)],
        purl=PackageURL("pypi", name=name),
        bom_ref=name.lower(),
        scope=scope,
        properties=_range("pypi", wanted),
    )
    there = next((each for each in bom.components if each.bom_ref == component.bom_ref), None)
    if there is not None:
        return there
    below = [_needed(bom, each, scope) for each in _known(name).needs]
    [python] = [each for each in bom.components if each.type is ComponentType.PLATFORM]
    bom.components.add(component)
    bom.register_dependency(component, [python, *below])
    return component


def _range(scheme: str, wanted: str) -> list[Property]:
    """Return which versions are wanted, in the notation of package URLs."""
    versions = "|".join(each.strip() for each in wanted.split(",")) or "*"
    return [Property(name="graced:version-range", value=f"vers:{scheme}/{versions}")]


def _known(name: str) -> Known:
    try:
        return KNOWN[name.lower()]
    except KeyError:
        raise Wrong(
            f"nothing is known of {name}; add its licence to KNOWN in packaging/bom.py"
        ) from None


def _file(path: Path) -> Component:
    data = path.read_bytes()
    return Component(
        type=ComponentType.CONTAINER if IMAGE.match(path.name) else ComponentType.FILE,
        name=path.name,
        purl=_purl(path.name),
        bom_ref=f"file:{path.name}",
        hashes=[
            HashType(alg=HashAlgorithm.SHA_256, content=hashlib.sha256(data).hexdigest()),
            HashType(alg=HashAlgorithm.SHA_512, content=hashlib.sha512(data).hexdigest()),
        ],
    )


def _purl(name: str) -> PackageURL | None:
    for kind, form in (("deb", DEB), ("rpm", RPM)):
        if parts := form.match(name):
            arch = {"arch": parts["arch"]}
            return PackageURL(kind, name=parts["name"], version=parts["version"], qualifiers=arch)
    return None
