"""The Debian packages of the tests, made in each release's own root file system.

Three of each: this version, this version again, and the next one. The next is a strict one:
none of its modules lets itself be imported by a process of another version, so whatever a
running daemon takes from files that have been replaced under it is seen.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from exported import export, export_next
from machine import build, give_up, lab

import graced

SUITES = ("bookworm", "trixie")
VERSION = graced.__version__
NEXT = f"{VERSION}.1"

STRICT = f"""
import graced as _graced
if _graced.__version__ != "{NEXT}":
    raise ImportError(f"{{__name__}} of {NEXT} in a process of {{_graced.__version__}}")
"""
# The second is made by somebody whose surroundings are different in every way that could show.
MAKE = """
set -e
/made/sources/first/packaging/deb/build /made/$1/first
cp -a /made/sources/first /tmp/elsewhere
mkdir -m 777 /made/$1/second
mkdir /tmp/bin && printf '#!/bin/sh\nexit 1\n' >/tmp/bin/python3 && chmod 755 /tmp/bin/python3
(
    export TZ=Pacific/Auckland LANG=C PATH=/tmp/bin:$PATH DEB_BUILD_OPTIONS=parallel=7
    umask 077
    setpriv --reuid=1234 --regid=1234 --clear-groups \\
        /tmp/elsewhere/packaging/deb/build /made/$1/second
)
/made/sources/next/packaging/deb/build /made/$1/next

# The one package that there was before there were two.
for name in python3-graced graced; do
    dpkg-deb -R /made/$1/first/${name}_*.deb /tmp/$name
done
cp -a /tmp/python3-graced/usr /tmp/graced/
sed -i 's/^Version:.*/Version: 0.1.0/; s/python3-graced ([^)]*), //' /tmp/graced/DEBIAN/control
mkdir /made/$1/one && dpkg-deb -b /tmp/graced /made/$1/one/graced_0.1.0_all.deb

# A daemon of one's own.
apt-get install -qy /made/$1/first/python3-graced_*.deb
graced new my-app2 --dir /tmp/my-app2 && make -C /tmp/my-app2 deb
cp -r /tmp/my-app2/build/deb /made/$1/own

# Its next version, whose code is another one.
dpkg-deb -R /made/$1/own/my-app2_*.deb /tmp/own
sed -i 's/^Version:.*/Version: 0.1.1/' /tmp/own/DEBIAN/control
sed -i 's/0\\.1\\.0/0.1.1/; s/"sha256": digest/"sha256": digest.upper()/' \\
    $(find /tmp/own -name __init__.py -o -name worker.py)
dpkg-deb -b /tmp/own /made/$1/own/my-app2_0.1.1_all.deb
"""
# A file system with the first version in its archive, to upgrade from; nothing of the network.
PIUPARTS = """
set -e
suite=$1 architecture=$(dpkg --print-architecture)
index=/archive/dists/$suite/main/binary-$architecture
mkdir -p "$index" && cd /archive
cp /made/"$suite"/first/*.deb .
dpkg-scanpackages -m . >"$index/Packages" 2>/dev/null
printf 'Suite: %s\\nCodename: %s\\nComponents: main\\nArchitectures: %s\\n' \
    "$suite" "$suite" "$architecture" >"dists/$suite/Release"
printf 'Acquire::AllowInsecureRepositories "true";\\nAPT::Get::AllowUnauthenticated "true";\\n' \
    >apt.conf
cd / # not in the archive: that would be a process running in its chroot
APT_CONFIG=/archive/apt.conf piuparts --existing-chroot=/base --distribution="$suite" \
    --mirror='file:/archive main' --bindmount=/archive --do-not-verify-signatures \
    --no-eatmydata --skip-minimize \
    /made/"$suite"/next/*.deb 2>&1
"""


class Packages:
    """What was built of one suite."""

    def __init__(self, suite: str, folder: Path) -> None:
        self.suite = suite
        self.folder = folder  # of all suites; machines see it as /made

    def debs(self, which: str = "first") -> list[Path]:
        """Return a version's packages: graced, and then python3-graced."""
        return sorted((self.folder / self.suite / which).glob("*.deb"))

    def seen(self, which: str = "first") -> list[str]:
        """Return the packages' paths as a machine sees them."""
        return [f"/made/{deb.relative_to(self.folder)}" for deb in self.debs(which)]

    def chroot(self, *command: str, **options: str) -> subprocess.CompletedProcess[str]:
        """Run a command where the package was built."""
        return chroot(f"{self.suite}+build", self.folder, *command, **options)


def chroot(
    tree: str, folder: Path, *command: str, shown: str = "", **options: str
) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "GRACED_LAB_BIND": shown, "GRACED_LAB_BIND_RW": f"{folder}:/made"}
    return lab("chroot", tree, *command, env=environ, **options)


def sources(folder: Path) -> None:
    """Export this version, and the next one made of it, into a folder."""
    export(folder, "first")
    following = export_next(folder, NEXT)
    for module in (following / "graced").rglob("*.py"):
        if module != following / "graced" / "__init__.py":
            module.write_text(strict(module.read_text()))
    with open(following / "packaging" / "config.yaml", "a", encoding="utf-8") as config:
        config.write("# The next version says something more.\n")


def strict(text: str) -> str:
    """Return a module that refuses to be part of another version."""
    future = re.search(r"^from __future__ import annotations\n", text, re.MULTILINE)
    at = future.end() if future else len(text)
    return text[:at] + STRICT + text[at:]


def make(suite: str, folder: Path) -> Packages:
    """Build a suite's packages, or skip the test with the reason why they can't be."""
    if why := build(f"{suite}+build"):
        give_up(f"no root file system of {suite} (is there a network?): {why}")
    made = chroot(f"{suite}+build", folder, "bash", "-s", suite, input=MAKE)
    assert made.returncode == 0, made.stdout + made.stderr
    return Packages(suite, folder)
