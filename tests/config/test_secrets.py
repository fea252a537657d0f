"""What stands in files of its own: `!file`, and a pool's `env_file`."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from graced.config import reader
from graced.config.reader import ConfigReading
from graced.settings import Pool
from graced.text import Secret

SECRET = "hunter2!"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "db").write_text(f"{SECRET}\n")
    return tmp_path


def read(text: str, *sets: str, to_run: bool = True, **environ: str) -> ConfigReading:
    Path("config.yaml").write_text(text)
    return reader.read("config.yaml", environ, sets, to_run=to_run)


def pool(text: str, *sets: str, **environ: str) -> Pool:
    reading = read(f"pools: {{jobs: {text}}}", *sets, **environ)
    assert reading.settings is not None, reading.problems
    return reading.settings.pools["jobs"]


def problems(text: str, *sets: str, **environ: str) -> list[str]:
    found = list(map(str, read(text, *sets, **environ).problems))
    assert SECRET not in "".join(found)
    return found


# !file


def test_a_file_stands_for_any_text(folder: Path) -> None:
    (folder / "url").write_text("sqlite:///other.db")
    found = pool(
        """{env: {A: !file db, B: !file "${WHERE}/db"}, queue: !file url,
        options: {a: [!file db, {b: !file 'db'}], c: &x !file db, d: *x}}""",
        WHERE=str(folder),
    )
    assert found.env == {"A": SECRET, "B": SECRET}
    assert found.options == {"a": [SECRET, {"b": SECRET}], "c": SECRET, "d": SECRET}
    assert found.queue == "sqlite:///other.db"
    assert SECRET not in repr(found)


def test_one_newline_at_its_end_is_none_of_it(folder: Path) -> None:
    (folder / "lines").write_bytes(b"\xef\xbb\xbf one\ntwo\n\r\n")
    assert pool("{options: {x: !file lines}}").options == {"x": " one\ntwo\n"}


def test_layers_have_files_too_and_one_that_is_replaced_is_not_read(folder: Path) -> None:
    (folder / "config.d").mkdir()
    (folder / "config.d" / "a.yaml").write_text("pools: {jobs: {env: {A: !file ../db}}}")
    flags = "pools.jobs.env.B=!file db", "pools.jobs.env.C=plain"
    found = pool("{env: {A: !file none, C: !file none}}", *flags)
    assert found.env == {"A": SECRET, "B": SECRET, "C": "plain"}
    assert pool("{}", GRACED__POOLS__JOBS__ENV__D="!file db").env == {"A": SECRET, "D": SECRET}


def test_show_names_the_file_and_reads_the_same_again(folder: Path) -> None:
    text = "{env: {A: !file db}, options: {x: [!file db], y: !file '${W}/db'}, env_file: e}"
    (folder / "e").write_text(f"B={SECRET}\n")
    first = read(f"pools: {{jobs: {text}}}", W=".")
    shown = reader.show(first)
    assert SECRET not in shown
    assert re.search(r"A: !file db +# config.yaml:1:\d+, \*\*\* from a file\n", shown)
    again = read(shown, W=".")
    assert again.settings == first.settings
    assert again.settings is not None
    assert again.settings.pools["jobs"].env == {"A": SECRET, "B": SECRET}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("env: {A: !file none}", "1:22: pools.a.env.A: {}/none: no such file; write it, or name"),
        ("env: {A: !file .}", "1:22: pools.a.env.A: {}: is a folder; name the file in it"),
        ("env: {A: !file /dev/null}", "1:22: pools.a.env.A: /dev/null: is not a regular file"),
        ("env: {A: !file latin}", "1:22: pools.a.env.A: {}/latin: is not UTF-8; save it as"),
        ("env: {A: !file large}", "1:22: pools.a.env.A: {}/large: is larger than 1 MiB; make"),
        ("env: {A: !file '${N}/x'}", "1:22: pools.a.env.A: ${{N}}/x: $N is not set; set it, or"),
        ("env: {A: !file }", "1:22: pools.a.env.A: names no file; write !file PATH"),
        ("env: {A: !file nul}", "1:22: pools.a.env.A: has a NUL character; leave it out"),
        ("env: {!file db: x}", "1:19: pools.a.env.: a key cannot be in a file; write it out"),
        ("workers: !file db", "1:22: pools.a.workers: cannot be in a file: it is no text; write"),
        ("listen: !file db", "1:21: pools.a.listen: cannot be in a file: it is no text; write"),
        ("listen: [!file db]", "1:22: pools.a.listen.0: cannot be in a file; write it out"),
        ("queue: !file db", "1:20: pools.a.queue: what stands in db is no URL that can be used;"),
        ("worker: !file db", "1:21: pools.a.worker: what stands in db is no class that can be"),
        ("env: !file [db]", "1:18: pools.a.env: has a tag, '!file'; write it without"),
    ],
)
def test_what_is_wrong_is_said_with_its_place_and_without_the_secret(
    folder: Path, text: str, told: str
) -> None:
    (folder / "latin").write_bytes(SECRET.encode() + b"\xe9")
    (folder / "large").write_bytes(SECRET.encode() * (1 << 18))
    (folder / "nul").write_bytes(SECRET.encode() + b"\0")
    found = problems(f"pools: {{a: {{{text}}}}}")
    assert found[0].startswith(f"config.yaml:{told.format(folder)}"), found
    assert len(found) == 1 or "[db]" in text


def test_a_rule_that_is_broken_does_not_tell_the_secret_either() -> None:
    text = "schedules: {s: {pool: !file db, every: 1h}}\npools: {a: {}}"
    assert "schedules.s.pool: there is no pool '***'" in problems(text)[0]


@pytest.mark.parametrize("key", ["name", "runtime_dir", "user"])
def test_what_commands_find_the_daemon_by_stands_in_no_file(key: str) -> None:
    [told] = problems(f"{key}: !file db\npools: {{a: {{}}}}")
    assert f"{key}: cannot be in a file: every command needs it; write it out" in told
    if key != "user":
        with pytest.raises(Exception, match="cannot be in a file"):
            reader.read_identity("config.yaml", {}, [])


def test_a_payload_has_no_secrets() -> None:
    text = "schedules: {s: {pool: a, every: 1h, payload: [!file db]}}\npools: {a: {}}"
    [told] = problems(text)
    assert "schedules.s.payload: has a value that stands in a file, and is shown by jobs" in told


def test_a_command_that_runs_no_worker_needs_none_of_its_secrets(folder: Path) -> None:
    text = "pools: {a: {env: {A: !file none}, options: {x: !file none}, env_file: none}}"
    assert read(text, to_run=False).settings is not None
    assert read(text.replace("env:", "queue: !file none, env:"), to_run=False).settings is None


def test_root_reads_no_secret_that_others_can_change(as_root: None, folder: Path) -> None:
    os.chown(folder / "db", 65534, -1)
    (folder / "e").write_text("A=1")
    (folder / "e").chmod(0o666)
    found = problems("pools: {a: {env: {A: !file db}, env_file: e}}")
    assert len(found) == 2
    for told in found:
        assert "is not for root to read" in told
        assert "name another file, run graced as that user (sudo -u), or chown it to root" in told


def test_a_secret_is_a_text_that_does_not_show() -> None:
    secret = Secret(SECRET, "db")
    assert (secret == SECRET, f"{secret}", repr([secret])) == (True, SECRET, "['***']")


# env_file


def test_the_variables_of_a_file(folder: Path) -> None:
    (folder / "jobs.env").write_text(
        "\ufeff# a comment\n\n ; another\nA=plain # text\n  B = \t spaced  \r\nC=\n"
        "D='single \\n $x'\nE=\"a \\\"b\\\" \\\\ \\$x \\n\"\nF=a=b\nG=''\nH=mine\n_i9=é"
    )
    assert pool("{env_file: jobs.env, env: {H: over}}").env == {
        "A": "plain # text",
        "B": "spaced",
        "C": "",
        "D": "single \\n $x",
        "E": 'a "b" \\ $x \\n',
        "F": "a=b",
        "G": "",
        "H": "over",
        "_i9": "é",
    }


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (SECRET, "2:1: is not KEY=VALUE; write KEY=VALUE, or # before a comment"),
        ("export A=1", "2:1: what stands before '=' cannot be the name of a variable; write"),
        ("  A-B=1", "2:3: what stands before '=' cannot be the name of a variable; write"),
        ("=1", "2:1: what stands before '=' cannot be the name of a variable; write letters"),
        (f"A='{SECRET}", "2:1: A: the quote is not closed in its line; close it"),
        (f'A="{SECRET}\\"', "2:1: A: the quote is not closed in its line; close it"),
        (f"A='x'{SECRET}", "2:1: A: goes on after its closing quote; put all of it in quotes"),
        (f"A={SECRET}\\", "2:1: A: has a backslash outside of quotes; put it in single quotes"),
        (f"A={SECRET}\0", "2:1: A: has a NUL character; leave it out: no variable can have one"),
        (f"FIRST={SECRET}", "2:1: FIRST is set twice; remove one of them"),
    ],
)
def test_a_line_that_can_not_be(folder: Path, line: str, told: str) -> None:
    (folder / "jobs.env").write_text(f"FIRST=1\n{line}\n")
    [found] = problems("pools: {a: {env_file: jobs.env}}")
    assert found.startswith(f"{folder}/jobs.env:{told}")


def test_a_missing_file_is_an_error_with_the_place_of_its_name(folder: Path) -> None:
    [found] = problems("pools: {a: {env_file: none.env}}")
    assert found == (
        f"config.yaml:1:23: pools.a.env_file: {folder}/none.env: no such file; "
        "write it, or set env_file to null"
    )
