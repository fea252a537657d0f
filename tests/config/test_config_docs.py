"""The reference and the schema of the configuration agree with the program."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import jsonschema
import pytest
import yaml

from graced.config import reader
from graced.config.reference import DOCS, SECTIONS
from graced.settings import Pool

DOCUMENTS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_make", DOCUMENTS / "make.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_committed_is_what_the_program_says(make: ModuleType) -> None:
    for name, text in make.made().items():
        assert (DOCUMENTS / name).read_text("utf-8") == text, "run python docs/make.py"


def test_every_key_has_its_words_and_no_words_are_left_over(make: ModuleType) -> None:
    assert list(DOCS) == make.keys()
    assert list(SECTIONS) == [name for name, _ in make.sections()]


def test_every_key_of_a_file_is_documented(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("pools: {NAME: {}}\nschedules: {NAME: {}}\n")
    sources = reader.read(str(tmp_path / "config.yaml"), {}, ()).sources
    with_sections = {key for key in DOCS if not DOCS[key].meaning.endswith("ee below.")}
    assert set(sources) == with_sections


@pytest.mark.parametrize("key", [key for key in DOCS if DOCS[key].example])
def test_every_example_is_right(key: str, tmp_path: Path) -> None:
    text = "pools:\n  NAME: {workers: 2}\n  database: {}\n"
    if key.startswith("schedules."):
        rule = "" if key.endswith((".cron", ".every")) else ", every: 10m"
        text += f"schedules:\n  NAME: {{pool: database{rule}}}\n"
    (tmp_path / "config.yaml").write_text(text)
    example = DOCS[key].example
    if key in ("user", "group"):
        example = "root"  # www-data is not everywhere, and root is nobody else's to become
        pytest.importorskip("os").geteuid() == 0 or pytest.skip("needs root")
    to_run = not key.endswith(".env_file")  # that file is not here
    sets = [f"{key}={example}"]
    reading = reader.read(str(tmp_path / "config.yaml"), {}, sets, to_run=to_run)
    limits = [problem for problem in reading.problems if "limit is less" not in problem.what]
    assert limits == []


def test_the_schema_is_one_and_takes_the_smallest_file() -> None:
    schema = json.loads((DOCUMENTS / "config.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load("pools: {jobs: }"), schema)
    jsonschema.validate(yaml.safe_load("user: 1000\nlog:\npools:"), schema)
    for wrong in ("nome: x", "pools: {a.b: {}}", "pools: {a: {workers: 0}}", "log: {level: warn}"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(yaml.safe_load(wrong), schema)


def test_the_smallest_file_of_the_reference(tmp_path: Path) -> None:
    block = (DOCUMENTS / "configuration.md").read_text("utf-8").split("```yaml\n")[1]
    path = tmp_path / "config.yaml"
    path.write_text(block.split("```")[0])
    reading = reader.read(str(path), {}, ())
    assert reading.settings is not None, reading.problems
    assert reading.settings.pools["jobs"] == Pool("jobs")
