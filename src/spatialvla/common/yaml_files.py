"""Small YAML files that come with the package and are called by name, or are the user's own and called by path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from spatialvla.errors import InputError

_ASSETS = Path(__file__).parents[1] / "assets"
T = TypeVar("T")


def load(folder: str, name_or_path: str, parse: Callable[[str, Any], T], *, absent: str, of: str) -> T:
    """What `parse` makes of a file's stem and content.

    folder: of the shipped ones, in `assets`. absent: how a sentence begins that a name is unknown. of: what such a file
    is of, in others.

    Raises InputError where there is no such file, and where `parse` raises what a wrong content leads to.
    """
    shipped = {path.stem: path for path in (_ASSETS / folder).glob("*.yaml")}
    path = shipped.get(name_or_path, Path(name_or_path))
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(
            f"{absent} {name_or_path!r}; name a file or one of {', '.join(sorted(shipped))}."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no YAML file of {of} ({error}).") from None
    try:
        return parse(path.stem, raw)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is no file of {of}: {error}. See docs/how-to/serve.md.") from None
