"""Small YAML files: shipped ones, called by name, and the user's own, called by path."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from spatialvla.common.budget import Budget, OverBudget
from spatialvla.common.names import did_you_mean
from spatialvla.errors import InputError

_MOST_BYTES = 2**20
_MOST_VALUES = 20_000
_ASSETS = Path(__file__).parents[1] / "assets"
T = TypeVar("T")


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """Reads 1e-3 as a number, which YAML 1.1 takes for a text, and no entry that is there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Of a limit given twice, PyYAML alone would take the last."""
        seen = set()
        for key in (key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key in seen:
                raise yaml.YAMLError(f"the entry {key!r} is there twice{node.start_mark}")
            seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises yaml.YAMLError where it is none or larger than any file of settings, OSError, UnicodeDecodeError.
    """
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise yaml.YAMLError(f"it has more than {_MOST_BYTES} bytes")
    return parse_yaml(data.decode("utf-8"))


def parse_yaml(text: str) -> Any:
    """What a YAML text holds.

    Raises yaml.YAMLError where it is none, and where it holds too many values: an alias counts as all that it
    stands for.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, Budget(_MOST_VALUES, 16 * _MOST_BYTES), {})
        return loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except (ValueError, OverflowError) as error:  # such as dates that do not exist, numbers of 5,000 digits
        raise yaml.YAMLError(str(error)) from None
    finally:
        loader.dispose()


def _count(node: yaml.Node, budget: Budget, costs: dict[int, tuple[int, int] | None]) -> None:
    """Spends what a node would take if it were written out. costs: of those that have been met, by id."""
    key = id(node)
    if key in costs:
        cost = costs[key]
        if cost is None:
            raise OverBudget("an alias in it stands for itself")
        return budget.spend(*cost)
    steps, size = budget.spent
    costs[key] = None
    budget.spend(1, len(node.value) if isinstance(node, yaml.ScalarNode) else 0)
    if isinstance(node, yaml.CollectionNode):
        for child in node.value:
            for part in child if isinstance(child, tuple) else (child,):
                _count(part, budget, costs)
    costs[key] = budget.spent[0] - steps, budget.spent[1] - size
    return None


def number(entry: object, name: str) -> float:
    """An entry that is a number, or a text of one; true is none. Raises ValueError."""
    if isinstance(entry, bool) or not isinstance(entry, int | float | str):
        raise ValueError(f"{name} must be a number, got {entry!r}")
    return float(entry)


def whole_number(entry: object, name: str) -> int:
    """An entry that is a whole number from 0. Raises ValueError."""
    if isinstance(entry, bool) or not isinstance(entry, int) or entry < 0:
        raise ValueError(f"{name} must be a whole number from 0, got {entry!r}")
    return entry


def load(kind: str, name_or_path: str, parse: Callable[[Path, dict[str, Any]], T], *, folder: str) -> T:
    """What `parse` makes of a file's path and entries.

    kind: what the file holds, as sentences call it. folder: of the shipped files, in `assets`.
    Raises InputError where there is no such file, and where `parse` raises what a wrong content leads to.
    """
    shipped = {path.stem: path for path in (_ASSETS / folder).glob("*.yaml")}
    path = shipped.get(name_or_path, Path(name_or_path))
    try:
        raw = read_yaml(path)
    except OSError:
        raise InputError(
            f"There is neither a file nor a shipped {kind} called {name_or_path!r}; "
            f"{did_you_mean(name_or_path, sorted(shipped))}"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no YAML file ({' '.join(str(error).split())}).") from None
    try:
        if not isinstance(raw, dict):
            raise ValueError("it holds no entries")
        return parse(path, raw)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"the entry {error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"The {kind} in {path} cannot be used: {reason.rstrip('.')}. See docs/how-to/serve.md."
        ) from None
