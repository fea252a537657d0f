"""What tests of the rpm share: rpms of this checkout and of a later version, made in the lab.

Debian's rpm knows nothing of what Debian's packages have installed. So that ours is installed
with its dependencies looked at, a small rpm says it: HOST.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import exported
from machine import build, give_up, impossible, lab

import graced

EPOCH = "1790000000"  # the same for all: what differs then is no accident
NOW, NEXT = graced.__version__, "9.8.7"

HOST = """
Name: host
Version: 1
Release: 1
Summary: What the packages of Debian have
License: Apache-2.0
BuildArch: noarch
Provides: /bin/sh, /usr/bin/python3, findutils, python3 = 3.11, systemd = 252
Provides: python3dist(python-daemon) = 3.1.2, python3dist(pyyaml) = 6.0.2
Provides: python3dist(sdnotify) = 0.3.2
%description
%{summary}.
%files
"""

# A further Python, as far as rpm and the package are concerned.
PYTHON = """
Name: python3.99
Version: 1
Release: 1
Summary: A new Python
License: Apache-2.0
BuildArch: noarch
%global __os_install_post %{nil}
%description
%{summary}.
%install
install -d %{buildroot}%{_bindir}
printf '#!/bin/sh\\nexec /usr/bin/python3 "$@"\\n' >%{buildroot}%{_bindir}/python3.99
chmod 755 %{buildroot}%{_bindir}/python3.99
%files
%{_bindir}/python3.99
"""


@dataclass(frozen=True)
class Workshop:
    """A folder with sources and rpms, and a Debian with its rpm to work on them."""

    suite: str
    folder: Path

    def run(self, script: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a script with /in for the sources, read-only, and /out for what it makes."""
        binds = {
            "GRACED_LAB_BIND": f"{self.folder}/in:/in",
            "GRACED_LAB_BIND_RW": f"{self.folder}/out:/out",
        }
        line = ("chroot", self.suite, "sh", "-e", "-c", script)
        return lab(*line, env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH, **binds, **environ})

    def must(self, script: str) -> str:
        done = self.run(script)
        assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
        return done.stdout

    def source(self, name: str, text: str) -> None:
        (self.folder / "in" / name).write_text(text, encoding="utf-8")


def workshop(suite: str, folder: Path) -> Workshop:
    """Return a workshop with the sources in /in/now, or skip the test."""
    if why := impossible():
        give_up(why)
    if why := build(suite):
        give_up(f"no root file system of {suite} (is there a network?): {why}")
    (folder / "out").mkdir()
    exported.export(folder / "in", "now", SOURCE_DATE_EPOCH=EPOCH)
    return Workshop(suite, folder)


def export_next(folder: Path) -> None:
    """Export a later version, whose default configuration is another one."""
    tree = exported.export_next(folder / "in", NEXT, SOURCE_DATE_EPOCH=EPOCH)
    exported.replace(tree / "packaging" / "config.yaml", "workers: 2 ", "workers: 3 ")
