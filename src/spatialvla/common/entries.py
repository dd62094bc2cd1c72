"""Frozen dataclasses from what a YAML file holds, with errors that name the entry."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from spatialvla.common.yaml_files import read_yaml
from spatialvla.errors import InputError

T = TypeVar("T")


def load_entries(path: str | Path, what: str) -> Any:
    """What a YAML file holds. what: as sentences call it. Raises InputError where it cannot be read."""
    try:
        content = read_yaml(Path(path).expanduser())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; name the {what}'s YAML file.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} is no readable YAML ({' '.join(str(error).split())}).") from None
    return {} if content is None else content


def from_entries(kind: type[T], content: Any, what: str, prefix: str = "") -> T:
    """A dataclass from a dictionary of its fields, and of those of the dataclasses in it.

    what: with its article, as sentences call it. prefix: the entry that holds it.
    Raises InputError for unknown keys, naming the closest, and wrong values.
    """
    if not isinstance(content, Mapping):
        raise InputError(
            f"{prefix or what} needs lines of the form 'key: value', of {_names(kind)}; got {content!r}."
        )
    known = [entry.name for entry in fields(kind)]  # type: ignore[arg-type]
    for key in content:
        if key not in known:
            close = get_close_matches(str(key), known, n=3) or known
            raise InputError(f"unknown key '{_join(prefix, str(key))}'; the closest are {', '.join(close)}.")
    hints = get_type_hints(kind)
    values = {key: _value(hints[key], value, what, _join(prefix, key)) for key, value in content.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(
            f"{prefix or what} lacks {str(error).split(':')[-1].strip()}; it has {_names(kind)}."
        ) from None


def _value(hint: Any, value: Any, what: str, key: str) -> Any:
    """`value` as the type of the field under `key`, which is dotted."""
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        if value is None and len(kinds) < len(get_args(hint)):
            return None
        nested = [kind for kind in kinds if hasattr(kind, "__dataclass_fields__")]
        return _value(nested[0] if nested and isinstance(value, Mapping) else kinds[0], value, what, key)
    if hasattr(hint, "__dataclass_fields__"):
        return from_entries(hint, value, what, key)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise InputError(f"{key} is {value!r}; choose from {', '.join(map(str, get_args(hint)))}.")
        return value
    if get_origin(hint) is Mapping:
        if not isinstance(value, Mapping):
            raise InputError(f"{key} needs lines of the form 'name: …', got {value!r}.")
        inner = get_args(hint)[1]
        return {str(name): _value(inner, item, what, _join(key, str(name))) for name, item in value.items()}
    if get_origin(hint) is tuple:
        inner = get_args(hint)[0]
        items = value if isinstance(value, list) else [value]
        return tuple(_value(inner, item, what, key) for item in items)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise InputError(f"{key} is {value!r}, which is no {hint.__name__}.")
    return value


def _names(kind: type) -> str:
    return ", ".join(entry.name for entry in fields(kind))


def _join(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key
