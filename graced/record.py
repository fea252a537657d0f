"""Frozen, slotted value objects: what events, actions and settings are made of.

They are dataclasses to the reader and to the type checker, but cost a tenth to
create: importing :mod:`dataclasses` takes as long as starting the interpreter,
and sixty of its classes twice that, all of it on the way to READY.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self, dataclass_transform
else:

    def dataclass_transform(**_options):
        return lambda cls: cls


@dataclass_transform(frozen_default=True, kw_only_default=False)
class RecordType(type):
    """The metaclass: annotations become slots, values become defaults."""

    _set: tuple[Any, ...]  # what puts a value into each slot

    def __new__(mcs, name: str, bases: tuple[type, ...], space: dict[str, Any]) -> RecordType:
        own = tuple(space.get("__annotations__", {}))
        inherited = tuple(f for base in bases for f in getattr(base, "__match_args__", ()))
        defaults = {f: v for base in bases for f, v in getattr(base, "_defaults", {}).items()}
        defaults.update({field: space.pop(field) for field in own if field in space})
        space["__slots__"] = own
        space["__match_args__"] = inherited + own
        space["_defaults"] = defaults
        cls = super().__new__(mcs, name, bases, space)
        cls._set = tuple(getattr(cls, field).__set__ for field in inherited + own)
        return cls


class Record(metaclass=RecordType):
    """Base of all records. Subclass with annotations; instances compare by value."""

    if not TYPE_CHECKING:

        def __init__(self, *args, **kwargs):
            if kwargs or len(args) != len(self._set):
                args = self._completed(args, kwargs)
            for put, value in zip(self._set, args):
                put(self, value)

        @classmethod
        def _completed(cls, args, kwargs):
            """Return all values: those given by name, too, and defaults."""
            fields = cls.__match_args__
            if len(args) > len(fields):
                raise TypeError(f"{cls.__name__} takes {len(fields)} values")
            missing = fields[len(args) :]
            if unknown := [name for name in kwargs if name not in missing]:
                raise TypeError(f"{cls.__name__} has no {unknown[0]!r}")
            given = {**cls._defaults, **kwargs}
            for field in missing:
                if field not in given:
                    raise TypeError(f"{cls.__name__} needs {field!r}")
            return *args, *(given[field] for field in missing)

        def __setattr__(self, name, value):
            raise AttributeError(f"{type(self).__name__} is frozen")

        def __delattr__(self, name):
            raise AttributeError(f"{type(self).__name__} is frozen")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and (
            type(self) is type(other) and values(self) == values(other)
        )

    def __hash__(self) -> int:
        return hash((type(self), values(self)))

    def __repr__(self) -> str:
        shown = ", ".join(f"{f}={getattr(self, f)!r}" for f in names(self))
        return f"{type(self).__name__}({shown})"

    def __reduce__(self) -> tuple[Any, ...]:  # else a copy would be filled in, and is frozen
        return type(self), values(self)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some values changed."""
        fields = {f: getattr(self, f) for f in names(self)}
        return type(self)(**{**fields, **changes})


def names(record: Record) -> tuple[str, ...]:
    """Return the names of the record's fields, in order."""
    fields: tuple[str, ...] = type(record).__match_args__
    return fields


def values(record: Record) -> tuple[Any, ...]:
    """Return the record's values, in the order of its fields."""
    return tuple(getattr(record, field) for field in names(record))
