"""graced new: what it makes is whole, and what it refuses has a name that could be."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_harness import DEADLINE, ROOT

from graced.cli import arguments, main, new

LEFT = r"(?i:my[-_]app(?!2))|\b(POOLS|TRY)\n|\b(YEAR|WORKER)\b|\bGRACED_(VERSION|FROM)"
REFUSED = {
    "class": "my-class",
    "json": "my-json",
    "graced": "my-app",
    "yaml": "my-yaml",
    "mail": "my-mail",
    "test": "my-test",
    "mypy": "my-mypy",
    "yes": "my-yes",
    "packaging": "my-packaging",
    "x": "my-x",
    "My_App": "my-app",
    "MyApp": "my-app",
    "2fast": "fast",
    "a--b": "a-b",
    "déjà": "d-j",
    "../etc": "etc",
    "x" * 32: "x" * 31,
    "my-app-": "my-app",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_cannot_be(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main.main(["new", name]) == 2
    assert f"; {REFUSED[name]} could be a name\n" in capfd.readouterr().err
    assert new.why_not(REFUSED[name]) is None
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").touch()
    assert main.main(["new", "my-app2", "--dir", str(tmp_path)]) == 1
    assert main.main(["new", "my-app2", "--dir", str(tmp_path / "x")]) == 1
    assert "no empty folder; name another one with --dir" in capfd.readouterr().err
    assert os.listdir(tmp_path) == ["x"]


def run(folder: Path, *words: str) -> str:
    """Run something in a project; return what it says, and fail if it fails."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("GRACED_")}
    environ["PYTHONPATH"] = f"{ROOT}:{folder}"
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", arguments.KINDS)
def test_what_is_made(kind: str, tmp_path: Path) -> None:
    project = tmp_path / "made"
    assert main.main(["new", "my-app2", "--dir", str(project), "--kind", kind]) == 0
    for path in project.rglob("*"):
        assert "my-app/" not in f"{path}/"
        if path.is_file():
            text = path.read_text("utf-8")
            assert not re.search(LEFT, text), path
            assert os.access(path, os.X_OK) == text.startswith("#!")
    for config in ("config.yaml", "packaging/config.yaml"):
        assert run(project, "my_app2", "check", "-c", config) == f"{config}: ok\n"
    told = re.findall(r"[$#`] ?my-app2 ([a-z]+)", (project / "README.md").read_text("utf-8"))
    assert {"submit" if kind in ("jobs", "async") else "status", "try"} <= set(told)
    assert set(told) <= {name for name, *_ in arguments.COMMANDS}
    run(project, "ruff", "check", "-q", ".")
    assert run(project, "my_app2", "--version") == "my-app2 0.1.0\n"
    if kind in ("jobs", "async"):  # the daemon too, under its own name
        run(project, "pytest", "-q", "-p", "no:cacheprovider", "tests/test_worker.py")


def test_graced_s_own_units_are_those_of_the_template() -> None:
    done = subprocess.run([ROOT / "systemd" / "make", "--check"], capture_output=True, check=False)
    assert done.returncode == 0, f"run systemd/make: {done.stdout.decode()}{done.stderr.decode()}"
