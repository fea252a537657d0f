"""The rpm as it is made: by two Debians' rpm and with Fedora's macros, the same bytes each time.

Where no file system of the lab can be had these are skipped, and say why.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from daemon_harness import ROOT
from rpmlab import NOW, Workshop, workshop

pytestmark = pytest.mark.timeout(1800)  # the first one may have to build file systems

SUITES = ["bookworm+rpm", "trixie+rpm"]
RPM, SOURCE = f"graced-{NOW}-1.noarch.rpm", f"graced-{NOW}-1.src.rpm"
TRIGGERS = "[%{FILETRIGGERSCRIPTS}]"
MODULE = f"python3-{RPM}"
LINT = ROOT / "packaging" / "rpm" / "rpmlint.toml"
SCRIPTS = {"": ["PREIN", "POSTIN", "PREUN", "POSTUN"], "python3-": ["POSTIN", "PREUN", TRIGGERS]}

# What Fedora's rpm has and Debian's has not, as far as the spec asks for it. A package that let
# its files be worked on would end the build.
FEDORA = r"""
%dist .fc99
%_unitdir /usr/lib/systemd/system
%_presetdir /usr/lib/systemd/system-preset
%_sysusersdir /usr/lib/sysusers.d
%_docdir /usr/share/doc
%_pkgdocdir %{_docdir}/%{name}
%__os_install_post exit 99
%systemd_post() if [ $1 -eq 1 ]; then \
    systemd-update-helper install-system-units %{?*} || : \
fi \
%{nil}
%systemd_preun() if [ $1 -eq 0 ]; then \
    systemd-update-helper remove-system-units %{?*} || : \
fi \
%{nil}
%systemd_postun_with_restart() if [ $1 -ge 1 ]; then \
    systemd-update-helper mark-restart-system-units %{?*} || : \
fi \
%{nil}
"""

# Built twice as differently as one can; and by somebody who may nothing but this.
BUILD = """
/in/now/packaging/rpm/build /out/first
mkdir /tmp/other && cd /tmp/other && umask 077
env TMPDIR=/tmp/other TZ=Asia/Tokyo HOME=/nowhere /in/now/packaging/rpm/build /out/second
install -d -o nobody /out/third /tmp/nobody
cd / && umask 022
env TMPDIR=/tmp/nobody setpriv --reuid nobody --regid nogroup --clear-groups \
    /in/now/packaging/rpm/build /out/third
rpm --install --define '_topdir /out/fedora' /out/first/*.src.rpm
install -D /in/fedora /etc/rpm/macros.fedora
rpmbuild --quiet -bb --nodeps --define '_topdir /out/fedora' /out/fedora/SPECS/graced.spec
cp -p /out/fedora/RPMS/noarch/*.rpm /out/fedora/
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Workshop]:
    """Make the rpms with a suite's tools, once."""

    @functools.cache
    def make(suite: str) -> Workshop:
        shop = workshop(suite, tmp_path_factory.mktemp("rpm"))
        shop.source("fedora", FEDORA)
        shop.must(BUILD)
        return shop

    return make


@pytest.fixture(params=SUITES)
def built(request: pytest.FixtureRequest, made: Callable[[str], Workshop]) -> Workshop:
    """A workshop with the rpms that were made in it."""
    return made(request.param)


def out(built: Workshop, folder: str) -> dict[str, bytes]:
    files = (built.folder / "out" / folder).glob("*.rpm")
    return {file.name: file.read_bytes() for file in files}


def query(built: Workshop, file: str, what: str) -> str:
    return built.must(f"rpm -qp --nosignature --qf '{what}' /out/{file}")


def test_the_same_sources_make_the_same_bytes(built: Workshop) -> None:
    first = out(built, "first")
    assert set(first) == {RPM, MODULE, SOURCE}
    assert out(built, "second") == first
    for name in (RPM, MODULE):
        assert out(built, "third")[name] == first[name]  # the source rpm names whoever packed it


def test_no_file_is_younger_than_the_sources(built: Workshop) -> None:
    times = query(built, f"first/{RPM}", "[%{FILEMTIMES} ]%{BUILDTIME} %{BUILDHOST}").split()
    assert times.pop() == "localhost"
    assert set(times) == {"1790000000"}


def test_what_is_in_it(built: Workshop) -> None:
    what = r"[%{FILEMODES:perms} %{FILEGROUPNAME} %{FILENAMES}\n]"
    lines = query(built, f"first/{RPM} /out/first/{MODULE}", what)
    files = {name: (mode, group) for mode, group, name in map(str.split, lines.splitlines())}
    module = query(built, f"first/{MODULE}", r"[%{FILENAMES}\n]").splitlines()
    service = query(built, f"first/{RPM}", r"[%{FILENAMES}\n]").splitlines()
    of_services = ("/etc", "/usr/lib/systemd", "/usr/lib/sysusers.d")
    assert not [name for name in module if name.startswith(of_services)]
    assert not set(module) & set(service)
    sources = built.folder / "in" / "now"
    for module in (sources / "graced").rglob("*.py"):
        name = f"/usr/lib/graced/{module.relative_to(sources)}"
        assert files[name] == ("-rw-r--r--", "root")
    assert files["/usr/bin/graced"] == ("lrwxrwxrwx", "root")
    assert files["/usr/lib/graced/launch"] == ("-rwxr-xr-x", "root")
    assert files["/etc/graced/config.yaml"] == ("-rw-r-----", "graced")
    for unit in ("graced.service", "graced@.service", "graced.socket"):
        assert f"/usr/lib/systemd/system/{unit}" in files
    for page in ("man8/graced.8.gz", "man5/graced.yaml.5.gz"):
        assert f"/usr/share/man/{page}" in files
    for completion in ("bash-completion/completions/graced", "zsh/site-functions/_graced"):
        assert f"/usr/share/{completion}" in files
    assert not [name for name in files if name.endswith((".pyc", ".orig", ".rej"))]
    assert {group for _, group in files.values()} == {"root", "graced"}


def test_the_configuration_is_kept(built: Workshop) -> None:
    flags = query(built, f"first/{RPM}", r"[%{FILEFLAGS:fflags} %{FILENAMES}\n]")
    assert "cn /etc/graced/config.yaml" in flags.splitlines()
    licence = [line for line in flags.splitlines() if line.startswith("l ")]
    assert [line.rpartition("/")[2] for line in licence] == ["LICENSE"]


@pytest.mark.parametrize("place", ["first", "fedora"])
def test_every_scriptlet_can_be_read_by_a_shell(built: Workshop, place: str) -> None:
    suffix = ".fc99.noarch.rpm" if place == "fedora" else ".noarch.rpm"
    for kind, script in [(kind, script) for kind, scripts in SCRIPTS.items() for script in scripts]:
        tag = script if script.startswith("[") else f"%{{{script}}}"
        text = query(built, f"{place}/{kind}{RPM.removesuffix('.noarch.rpm')}{suffix}", tag)
        assert text not in ("", "(none)")
        assert "%" not in re.sub(r"%[a-z](?=\W)", "", text), "a macro that nobody knows"
        for shell in ("sh", "bash"):
            line = [shell, "-n"]
            read = subprocess.run(line, input=text, capture_output=True, text=True, check=False)
            assert (read.returncode, read.stderr) == (0, ""), text


def test_with_fedoras_macros_it_is_done_their_way(built: Workshop) -> None:
    name = RPM.replace(".noarch", ".fc99.noarch")
    assert set(out(built, "fedora")) == {name, f"python3-{name}"}
    post, preun, postun = (
        query(built, f"fedora/{name}", f"%{{{script}}}") for script in SCRIPTS[""][1:]
    )
    assert "systemd-update-helper install-system-units graced.service graced.socket" in post
    assert "systemd-update-helper remove-system-units graced.socket graced.service" in preun
    assert "systemd-update-helper mark-restart-system-units graced.service" in postun
    assert "try-restart graced.service" not in postun
    assert query(built, f"fedora/{name}", r"[%{FILENAMES}\n]") == query(
        built, f"first/{RPM}", r"[%{FILENAMES}\n]"
    )


def test_rpmlint_has_nothing_to_say(built: Workshop) -> None:
    said = built.run("rpmlint -c /in/now/packaging/rpm/rpmlint.toml /out/first/*.rpm")
    assert said.returncode == 0, said.stdout
    assert re.search(r" 0 errors, 0 warnings, ", said.stdout), said.stdout


def test_every_filter_is_needed(made: Callable[[str], Workshop]) -> None:
    text = LINT.read_text(encoding="utf-8")
    said = []
    for shop in map(made, SUITES):
        shop.source("bare.toml", text.partition("\nFilters")[0])
        said.append(shop.run("rpmlint -c /in/bare.toml /out/first/*.rpm").stdout)
    for line in tomllib.loads(text)["Filters"]:
        assert re.search(line, "".join(said)), f"nobody says {line}"


def test_without_rpmbuild_it_says_what_to_install(tmp_path: Path) -> None:
    for name in ("bash", "dirname", "env"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    done = subprocess.run(
        [str(ROOT / "packaging" / "rpm" / "build"), str(tmp_path / "dist")],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "dnf install rpm-build" in done.stderr
    assert not (tmp_path / "dist").exists()
