"""Makes configuration.md and config.schema.json from the program's own tables.

python docs/make.py            writes both
python docs/make.py --check    exits 1 if what is there differs
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from graced import settings, units  # noqa: E402  (found by the line above)
from graced.config import schema as kinds  # noqa: E402
from graced.config import validators as texts  # noqa: E402
from graced.config.reference import DOCS, SECTIONS  # noqa: E402
from graced.config.show import leaf  # noqa: E402
from graced.record import Record  # noqa: E402

DURATION = r"^ *(\d+\.?\d*|\.\d+) *(ms|s|m|h|d)?$"
NAMED = ("pools", "schedules")
TEXT = {"type": ["string", "number"]}
SIZE = r"^ *(\d+\.?\d*|\.\d+) *[KMGT]?$"


def rows(record: type[Record], prefix: str) -> Iterator[tuple[str, str, kinds.Field, Any]]:
    """Yield dotted key, name, field and default of each key."""
    for name, field in kinds.fields(record).items():
        yield prefix + name, name, field, vars(record)["_defaults"][name]


def sections() -> Iterator[tuple[str, type[Record]]]:
    """Yield the dotted prefix of each record, in the order of the reference."""
    yield "", settings.Settings
    yield "log", settings.Log
    yield "web", settings.Web
    yield "pools.NAME", settings.Pool
    yield "pools.NAME.backoff", settings.Backoff
    yield "pools.NAME.retry", settings.Retry
    yield "schedules.NAME", settings.Schedule


def keys() -> list[str]:
    """Return every dotted key, with NAME for the name of a pool."""
    return [
        key
        for section, record in sections()
        for key, *_ in rows(record, f"{section}." if section else "")
    ]


# The reference


INTRODUCTION = """\
# Configuration

<!-- Made by docs/make.py from graced/settings.py and graced/config/reference.py. -->

graced reads one YAML file: what `-c` names, else `$GRACED_CONFIG`, else `./config.yaml`, else
`/etc/graced/config.yaml`. `graced check` reads it, tells every problem with its place, and
changes nothing; `graced check --show` prints the result, and where each value was set.

The smallest file is a pool of commands:

```yaml
pools:
  jobs: {}
```

## Layers

Each layer is put over the ones before: mappings are merged, all else (lists too) is replaced.
A key with nothing after it, where a mapping belongs, sets nothing.

1. the file;
2. its drop-ins in the order of their names: `config.d/*.yaml` beside `config.yaml`, `shop.d/*.yaml`
   beside `shop.yaml`;
3. variables such as `GRACED__POOLS__JOBS__WORKERS=8`. Two underscores stand between keys, case
   does not count, and `MY_POOL` stands for `my_pool`, or else for `my-pool`. Below `env` a new
   name is taken as it is written, below `options` in lower case. The value is YAML. A variable
   that names no key is an error; so is a pool that no file has;
4. `--set pools.jobs.workers=8`, with keys as they are written in the file.

Only the values that are left after merging are checked.

## Values

- A **duration** is a number and a unit, `500ms`, `30s`, `2m`, `1h`, `1d`, or a number of seconds;
  at most a century.
- A **size** is a number of bytes, or a number and `K`, `M`, `G` or `T`, in steps of 1024.
- A **path** that is relative starts from the folder of the file that has it; in a variable or
  flag, from the folder of the main file.
- A **whole number** has no leading zeros; **true** and **false** have no other spellings.

The file is UTF-8 whatever the locale (where Python would encode names otherwise, graced starts
itself again with `-X utf8`), regular (no pipe), at most 1 MiB, one document; its only tag is
`!file`.
Anchors, aliases and `<<` work; keys that are set twice, and aliases that contain themselves or blow
up, are errors.

## Secrets

`!file PATH` puts what stands in a file in the place of a text, such as that of a variable, an
option, a queue's URL:

```yaml
pools:
  jobs:
    env: {DB_PASSWORD: !file "${CREDENTIALS_DIRECTORY}/db"}
    options: {token: !file /etc/shop/token}
```

`${VARIABLE}` is filled in, in PATH alone. The file is UTF-8 and at most 1 MiB; the newline at its
end is none of the text. It is read anew by each reload, by the daemon's user, and one that is
missing is an error with the place of its `!file`. What is in it is shown nowhere: `graced check
--show` prints `!file PATH`, and no log line, error or status has it. A value of `env` or
`options` reaches the workers of its pool and no other process that runs user code. It has no
place in a command line (`argv`), which every user of the host sees, and is refused in the payload
of a schedule. `name`, `runtime_dir`, `user`, numbers, durations and lists of names can't be in a
file.

An editor that checks YAML has to be told of the tag; for the language server of VS Code it is
`yaml.customTags: ["!file scalar"]`.

`env_file` has many variables at once, one a line, by the rules of systemd's `EnvironmentFile=` as
far as a shell agrees with them:

```
# a comment; empty lines count for nothing
DB_HOST=db.example
GREETING=spaces are kept, and so is a # here
QUOTED='as it stands: $x'
DOUBLE="in these \\" \\\\ \\$ \\` are escapes"
```

Blanks around name and value are left out, nothing is expanded, and a value ends with its line.
What readers of such files disagree on is an error with file and line: `export`, a backslash
outside of quotes, text after a closing quote, a name that is set twice. Of a queue's URL that
stands in a file, a log line may name host and queue, never a password.
"""


def reference() -> str:
    """Return configuration.md."""
    return INTRODUCTION + "".join(_section(name, record) for name, record in sections())


def _section(section: str, record: type[Record]) -> str:
    title = f"`{section}`" if section else "The daemon"
    lines = [f"\n## {title}\n", SECTIONS[section], ""]
    lines += ["| key | type | default | meaning | example |", "| --- | --- | --- | --- | --- |"]
    for key, name, field, default in rows(record, f"{section}." if section else ""):
        doc = DOCS[key]
        shown = "" if isinstance(default, Record) or key in NAMED else f"`{_default(key)}`"
        example = f"`{doc.example}`" if doc.example else ""
        lines.append(f"| `{name}` | {_type(field)} | {shown} | {doc.meaning} | {example} |")
    return "\n".join(lines) + "\n"


def _default(key: str) -> str:
    for section, record in sections():
        for other, _, field, default in rows(record, f"{section}." if section else ""):
            if other == key:
                return leaf(default, field)
    raise KeyError(key)


def _type(field: kinds.Field) -> str:
    return _kind(field.kind) + (" or null" if field.nullable else "")


def _kind(kind: kinds.Kind) -> str:
    match kind:
        case kinds.Seconds(zero):
            return "duration" if zero else "duration, not 0"
        case kinds.Bytes(least):
            return f"size, at least {units.show_size(least)}"
        case kinds.Whole(least, most, word):
            end = f"≥ {least}" if most == kinds.ENDLESS else f"{least} to {most}"
            return f"whole number, {end}" + (f", or `{word}`" if word else "")
        case kinds.Number(least):
            return f"number, ≥ {least:g}"
        case kinds.Switch():
            return "true or false"
        case kinds.Choice(words):
            return ", ".join(f"`{word}`" for word in words)
        case kinds.Text(_, noun):
            return noun
    return _collection(kind)


def _collection(kind: kinds.Kind) -> str:
    match kind:
        case kinds.Names():
            return "list of pools"
        case kinds.Folders():
            return "list of paths"
        case kinds.Addresses():
            return "address or list of addresses"
        case kinds.Variables():
            return "mapping of texts"
        case kinds.Value():
            return "any value"
    return "mapping"


# The schema


def schema() -> dict[str, Any]:
    """Return a JSON Schema of the file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "graced: config.yaml",
        **_object(settings.Settings, ""),
    }


def _object(record: type[Record], prefix: str) -> dict[str, Any]:
    return {
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": {
            name: _property(key, field, default)
            for key, name, field, default in rows(record, prefix)
        },
    }


def _property(key: str, field: kinds.Field, default: Any) -> dict[str, Any]:
    doc = DOCS[key].meaning
    found = _json_kind(field.kind, key)
    if field.nullable:
        found = {"anyOf": [found, {"type": "null"}]}
    if doc != "See below.":
        found = {"description": doc, **found}
    if not isinstance(default, Record) and key not in NAMED:
        found["default"] = _json_default(default, field)
    return found


def _json_default(value: Any, field: kinds.Field) -> Any:
    if isinstance(field.kind, (kinds.Seconds, kinds.Bytes)) and value is not None:
        return leaf(value, field)
    return list(value) if isinstance(value, tuple) else value


def _json_kind(kind: kinds.Kind, key: str) -> dict[str, Any]:
    match kind:
        case kinds.Seconds(zero):
            number = {"type": "number", "minimum" if zero else "exclusiveMinimum": 0}
            return {"anyOf": [number, {"type": "string", "pattern": DURATION}]}
        case kinds.Bytes(least):
            number = {"type": "number", "minimum": least}
            return {"anyOf": [number, {"type": "string", "pattern": SIZE}]}
        case kinds.Whole(least, most, word):
            whole = {"type": "integer", "minimum": least, "maximum": most}
            return {"anyOf": [whole, {"const": word}]} if word else whole
        case kinds.Number(least, most):
            return {"type": "number", "minimum": least, "maximum": most}
        case kinds.Switch():
            return {"type": "boolean"}
        case kinds.Choice(words):
            return {"enum": list(words)}
        case kinds.Text(_, _, pattern):
            text = {"type": "string", "pattern": f"^{pattern}$"}
            return text if pattern else TEXT
        case kinds.Section(record):
            return _object(record, f"{key}.")
    return _json_collection(kind, key)


def _json_collection(kind: kinds.Kind, key: str) -> dict[str, Any]:
    match kind:
        case kinds.Names() | kinds.Folders():
            return {"type": ["array", "null"], "items": TEXT}
        case kinds.Addresses():
            text = {"type": "string"}
            return {"anyOf": [text, {"type": ["array", "null"], "items": text}]}
        case kinds.Variables():
            values = {"type": ["string", "number", "boolean"]}
            return {"type": ["object", "null"], "additionalProperties": values}
        case kinds.Named(record):
            names = {"pattern": f"^{texts.NAME}$", "maxLength": texts.MAX_NAME_LENGTH}
            return {
                "type": ["object", "null"],
                "propertyNames": names,
                "additionalProperties": _object(record, f"{key}.NAME."),
            }
        case kinds.Value():
            return {}
    return {"type": ["object", "null"]}


# Files


def made() -> dict[str, str]:
    """Return what belongs into each file."""
    return {
        "configuration.md": reference(),
        "config.schema.json": json.dumps(schema(), indent=2, ensure_ascii=False) + "\n",
    }


def main() -> int:
    differing = [name for name, text in made().items() if _there(HERE / name) != text]
    if "--check" in sys.argv[1:]:
        for name in differing:
            print(f"docs/{name} is not what docs/make.py makes; run it", file=sys.stderr)
        return 1 if differing else 0
    for name in differing:
        (HERE / name).write_text(made()[name], encoding="utf-8")
        print(f"docs/{name}")
    return 0


def _there(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
