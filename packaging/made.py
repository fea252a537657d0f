"""Makes what packages have and the sources have not: manual pages, completions for shells.

python3 packaging/made.py OUTDIR            writes graced.8, graced.yaml.5, graced.bash, _graced
                                            (zsh) and graced.fish
python3 packaging/made.py OUTDIR --check    exits 1 if what is there differs

The same sources make the same bytes: the date is that of `packaging/source epoch`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
sys.dont_write_bytecode = True  # packages are made of this folder

import completions  # noqa: E402  (found by the line above)
import manpages  # noqa: E402

from graced import __version__, cli  # noqa: E402


def made() -> dict[str, str]:
    """Return what belongs into each file."""
    return {
        **manpages.pages(__version__, _epoch(), cli._parser()),
        **completions.completions(cli._parser()),
    }


def _epoch() -> int:
    found = subprocess.run(
        [HERE / "source", "epoch"], stdout=subprocess.PIPE, text=True, check=False
    )
    if found.returncode:
        sys.exit(found.returncode)  # it has said why
    return int(found.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(prog="made.py", description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="OUTDIR", type=Path)
    parser.add_argument("--check", action="store_true", help="exit 1 if what is there differs")
    args = parser.parse_args()
    try:
        return _check(args.folder) if args.check else _write(args.folder)
    except OSError as error:
        print(f"made.py: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1


def _write(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in made().items():
        (folder / name).write_text(text, encoding="utf-8")
        print(folder / name)
    return 0


def _check(folder: Path) -> int:
    differing = [name for name, text in made().items() if _there(folder / name) != text]
    for name in differing:
        again = f"python3 packaging/made.py {folder}"
        print(f"{folder / name}: is not what the sources make; run {again}", file=sys.stderr)
    return 1 if differing else 0


def _there(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())
