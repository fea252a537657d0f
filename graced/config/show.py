"""The settings as YAML again, each value with a comment that says where it was set."""

from __future__ import annotations

from graced import units
from graced.config.schema import Bytes, Field, Number, Seconds, fields
from graced.queue.servers.url import shown as shown_url
from graced.record import Record
from graced.settings import Pool, Settings
from graced.text import Secret

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

_QUEUE = fields(Pool)["queue"].kind
_COLUMN = 40  # of the comments
_WORDS = ("null", "true", "false", "yes", "no", "on", "off", "cpus")


def shown(settings: Settings, sources: Mapping[str, str]) -> str:
    """Return YAML that reads as *settings* again."""
    return "".join(f"{line}\n" for line in _record(settings, sources, "", 0))


def _record(record: Record, sources: Mapping[str, str], prefix: str, depth: int) -> Iterator[str]:
    for name, field in fields(type(record)).items():
        value = getattr(record, name)
        yield from _key(name, value, field, sources, prefix + name, depth)


def _key(
    name: str,
    value: Any,
    field: Field | None,
    sources: Mapping[str, str],
    key: str,
    depth: int,
) -> Iterator[str]:
    start = "  " * depth + f"{name}:"
    if isinstance(value, Record):
        yield start
        yield from _record(value, sources, f"{key}.", depth + 1)
    elif isinstance(value, dict) and value:
        yield start
        for text, item in value.items():
            if isinstance(item, Secret) and item.file is None:  # of an env_file, which is shown
                continue
            yield from _key(_inline(text), item, None, sources, f"{key}.{_bare(text)}", depth + 1)
    else:
        if field is not None and field.kind == _QUEUE and value is not None:
            value = shown_url(value)
        line = f"{start} {leaf(value, field)}"
        source = sources.get(key)
        if source and isinstance(value, Secret):
            source = f"{source}, *** from a file"
        yield f"{line:{_COLUMN}}  # {source}" if source else line


def leaf(value: Any, field: Field | None) -> str:
    """Return one value in YAML; *field* says whether it is a duration or a size."""
    if field is None or value is None:
        return _inline(value)
    match field.kind:
        case Seconds():
            return units.show_duration(value)
        case Bytes():
            return units.show_size(value)
        case Number():
            return f"{value:.17g}"
    return _inline(value)


def _bare(key: Any) -> str:
    return key if isinstance(key, str) else _inline(key)


def _inline(value: Any) -> str:
    match value:
        case None:
            return "null"
        case Secret():
            return f"!file {_text(value.file or '')}"
        case bool():
            return "true" if value else "false"
        case str():
            return _text(value)
        case float():
            return _float(value)
        case dict():
            pairs = (f"{_inline(key)}: {_inline(item)}" for key, item in value.items())
            return "{" + ", ".join(pairs) + "}"
        case list() | tuple():
            return "[" + ", ".join(_inline(item) for item in value) + "]"
    return str(value)


def _float(value: float) -> str:
    if value != value or value in (float("inf"), float("-inf")):
        return str(value).replace("inf", ".inf").replace("nan", ".nan")
    text = repr(value)
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


def _text(text: str) -> str:
    """Return *text* without quotes where no reader of YAML can take it for anything else."""
    bare = text.replace("_", "").replace("-", "").replace("/", "").replace(".", "")
    if (
        bare.replace(":", "").isalnum()
        and text.isascii()
        and (text[0].isalpha() or text[0] == "/")
        and not text.endswith(":")
        and text.lower() not in _WORDS
    ):
        return text
    return '"' + "".join(_escaped(c) for c in text) + '"'


def _escaped(c: str) -> str:
    if c in '"\\':
        return f"\\{c}"
    if c.isprintable():
        return c
    code = ord(c)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
