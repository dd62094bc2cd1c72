"""Values read from files, checked against the types that dataclasses declare for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from spatialvla.common.names import did_you_mean

T = TypeVar("T")


def parse(kind: type[T], value: object, name: str = "") -> T:
    """A value of a JSON file as a `kind`: a dataclass, or a number, text, list or mapping of such.

    name: what the value is called in the file, for sentences; none for all of it. Objects
    make dataclasses, lists make tuples; whole numbers serve as floats, but true is no number. Numbers are finite.
    Raises ValueError, naming the entry, for another type, and for missing and unknown entries.
    """
    parsed: T = _parse(kind, value, name)
    return parsed


def changed(default: T, entries: Mapping[str, object], name: str = "") -> T:
    """A dataclass with some of its values from a file; those in it may be given in part, too.

    name: what the value is called in the file. Names may have dashes, as options do.
    Raises ValueError, naming the entry, for another type, and for an unknown one with the closest names.
    """
    if not isinstance(entries, Mapping):
        raise ValueError(f"{name or 'it'} is an object, not {_short(entries)}")
    kind: Any = type(default)
    hints, values = _hints(kind), {}
    known = [field.name for field in fields(kind)]
    for key, entry in entries.items():
        field, inside = str(key).replace("-", "_"), _joined(name, str(key))
        if field not in known:
            raise ValueError(f"there is no entry {inside}; {did_you_mean(field, known)}")
        before = getattr(default, field)
        if is_dataclass(before):
            values[field] = changed(before, entry, inside)  # type: ignore[arg-type]
        else:
            values[field] = _parse(hints[field], entry, inside)
    return replace(default, **values)  # type: ignore[type-var]


def _parse(kind: Any, value: object, name: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, UnionType):
        return _first(arguments, value, name)
    if origin is Literal:
        if value not in arguments or isinstance(value, bool):
            raise ValueError(f"{name} is one of {', '.join(map(str, arguments))}, not {_short(value)}")
        return value
    if is_dataclass(kind):
        return _object(kind, value, name)
    if origin in (tuple, list):
        return origin(_items(arguments, value, name))
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise ValueError(f"{name or 'it'} is an object, not {_short(value)}")
        return {key: _parse(arguments[1], entry, _joined(name, key)) for key, entry in value.items()}
    said, fits = _SIMPLE[kind]
    if not fits(value):
        raise ValueError(f"{name} is {said}, not {_short(value)}")
    return kind(value) if kind in (float, Path) else value


def _object(kind: Any, value: object, name: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{name or 'it'} is an object, not {_short(value)}")
    known = {field.name: field for field in fields(kind)}
    if strange := sorted(set(value) - set(known)):
        raise ValueError(f"{name or 'it'} has an unknown entry {strange[0]!r}")
    for field in known.values():
        if field.name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{name or 'it'} lacks {field.name!r}")
    hints = _hints(kind)
    return kind(**{key: _parse(hints[key], entry, _joined(name, key)) for key, entry in value.items()})


def _joined(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _items(kinds: tuple[Any, ...], value: object, name: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} is a list, not {_short(value)}")
    if len(kinds) == 1 or Ellipsis in kinds:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise ValueError(f"{name} has {len(kinds)} items, not {len(value)}")
    return [
        _parse(kind, item, f"{name}[{number}]")
        for number, (kind, item) in enumerate(zip(kinds, value, strict=True))
    ]


def _first(kinds: tuple[Any, ...], value: object, name: str) -> Any:
    """By the first of the kinds that the value is of."""
    if value is None and NoneType in kinds:
        return None
    reasons = []
    for kind in kinds:
        if kind is not NoneType:
            try:
                return _parse(kind, value, name)
            except ValueError as error:
                reasons.append(str(error))
    raise ValueError(reasons[0])


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**64


def _is_number(value: object) -> bool:
    return _is_integer(value) or (isinstance(value, float) and math.isfinite(value))


_SIMPLE: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("a whole number", _is_integer),
    float: ("a finite number", _is_number),
    str: ("a text", lambda value: isinstance(value, str)),
    Path: ("a path", lambda value: isinstance(value, str)),
}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
