"""Small YAML files: shipped ones, called by name, and the user's own, called by path."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from spatialvla.errors import InputError

_ASSETS = Path(__file__).parents[1] / "assets"
T = TypeVar("T")


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """Reads 1e-3 as a number, which YAML 1.1 takes for a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(text: str) -> Any:
    """What a YAML text holds. Raises yaml.YAMLError where it is none."""
    return yaml.load(text, _Loader)


def load(kind: str, name_or_path: str, parse: Callable[[Path, dict[str, Any]], T], *, folder: str) -> T:
    """What `parse` makes of a file's path and entries.

    kind: what the file holds, as sentences call it. folder: of the shipped files, in `assets`.
    Raises InputError where there is no such file, and where `parse` raises what a wrong content leads to.
    """
    shipped = {path.stem: path for path in (_ASSETS / folder).glob("*.yaml")}
    path = shipped.get(name_or_path, Path(name_or_path))
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(
            f"Unknown {kind} {name_or_path!r}; name a file or one of {', '.join(sorted(shipped))}."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no YAML file ({error}).") from None
    try:
        if not isinstance(raw, dict):
            raise ValueError("it holds no entries")
        return parse(path, raw)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"the entry {error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"The {kind} in {path} cannot be used: {reason}. See docs/how-to/serve.md."
        ) from None
