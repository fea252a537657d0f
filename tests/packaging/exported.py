"""The sources that the tests make packages from: of this version, and of a later one."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from daemon_harness import ROOT

import graced


def export(folder: Path, name: str, **environ: str) -> Path:
    """Export the sources, as packages are made from, to a folder of this name."""
    line = [str(ROOT / "packaging" / "source"), "tree", str(folder)]
    environ = {**os.environ, **environ}
    made = subprocess.run(line, capture_output=True, text=True, env=environ, check=False)
    assert made.returncode == 0, made.stderr
    return Path(made.stdout.strip()).rename(folder / name)


def export_next(folder: Path, version: str, **environ: str) -> Path:
    """Export the sources of a later version, to a folder with the name `next`."""
    tree = export(folder, "next", **environ)
    replace(tree / "graced" / "__init__.py", f'"{graced.__version__}"', f'"{version}"')
    return tree


def replace(file: Path, old: str, new: str) -> None:
    """Replace some text in a file that has it."""
    text = file.read_text(encoding="utf-8")
    assert old in text, f"{file}: no {old}"
    file.write_text(text.replace(old, new), encoding="utf-8")
