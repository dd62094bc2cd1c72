"""Frozen dataclasses made of plain values, as YAML and JSON hold them, with every value checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from spatialvla.common.names import did_you_mean
from spatialvla.errors import InputError

T = TypeVar("T")


def changed(default: T, content: Mapping[str, Any], where: str = "") -> T:
    """A dataclass with the values that `content` gives by field; nested dataclasses may be given in part.

    where: what stands before names in sentences.
    Raises InputError, naming the field, for one that there is not, and for a value of another type.
    """
    return replace(default, **_values(type(default), content, default, where))  # type: ignore[type-var]


def to_plain(value: Any) -> Any:
    """Mappings, lists, texts and numbers for what a dataclass's `asdict` gives."""
    if isinstance(value, Mapping):
        return {name: to_plain(one) for name, one in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def _values(kind: type, content: object, default: object, where: str) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        raise InputError(f"{where.rstrip('.') or 'The configuration'} must hold entries, not {content!r}.")
    types = _types(kind)
    values = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in types:
            raise InputError(f"There is no entry {where}{key}; {did_you_mean(name, types)}")
        values[name] = _checked(types[name], value, getattr(default, name, None), where + name)
    return values


def _checked(kind: Any, value: Any, default: Any, name: str) -> Any:
    """`value` as of the annotated type `kind`. default: what a nested dataclass's missing entries are."""
    origin, choices = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None and NoneType in choices:
            return None
        (kind,) = (choice for choice in choices if choice is not NoneType)
        return _checked(kind, value, default, name)
    if origin is Literal:
        if value in choices:
            return value
        raise InputError(f"{name} is one of {', '.join(map(str, choices))}, not {value!r}.")
    if origin is tuple and isinstance(value, list):
        kinds = choices[:1] * len(value) if choices[-1] is Ellipsis else choices
        if len(kinds) == len(value):
            return tuple(
                _checked(one, item, None, f"{name}[{number}]")
                for number, (one, item) in enumerate(zip(kinds, value, strict=True))
            )
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {str(key): _checked(choices[1], one, None, f"{name}.{key}") for key, one in value.items()}
    if is_dataclass(kind) and isinstance(kind, type):
        return _nested(kind, value, default, f"{name}.")
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind in (str, int, bool) and type(value) is kind:
        return value
    raise InputError(f"{name} cannot be {value!r}; {_wanted(kind, origin, choices)} stands there.")


def _nested(kind: type, content: object, default: object, where: str) -> Any:
    values = _values(kind, content, default, where)
    if default is not None:
        return replace(default, **values)  # type: ignore[type-var]
    required = [
        field.name
        for field in fields(kind)
        if field.default is MISSING and field.default_factory is MISSING and field.name not in values
    ]
    if required:
        raise InputError(f"{where.rstrip('.')} lacks {' and '.join(required)}; add it.")
    return kind(**values)


def _wanted(kind: Any, origin: Any, choices: tuple[Any, ...]) -> str:
    if origin is tuple:
        return "a list" if choices[-1] is Ellipsis else f"a list of {len(choices)}"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path"}
    return names.get(kind, "entries")


@cache
def _types(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields, by name."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}
