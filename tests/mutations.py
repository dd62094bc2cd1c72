"""Documents as damage or malice makes them: one value replaced by another, or left out."""

import copy
from collections.abc import Iterator
from typing import Any

VALUES = (
    None,
    True,
    -1,
    2,
    0.5,
    10**30,
    float("inf"),
    float("nan"),
    "",
    "../../x",
    "{x.__class__}",
    [],
    [None],
    {},
)


def mutations(document: Any, skip: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """(what was changed, the document) for each value of a document and each value in its place, or none.

    skip: keys that are left as they are, with all inside them.
    """
    for path in _paths(document, skip):
        for value in VALUES:
            yield f"{'/'.join(map(str, path))} = {value!r}", _changed(document, path, value)
        yield f"{'/'.join(map(str, path))} left out", _changed(document, path, ..., remove=True)


def _paths(value: Any, skip: tuple[str, ...], path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for number, (key, inner) in enumerate(entries):
        if key not in skip and not (isinstance(value, list) and number > 1):  # items of a list are alike
            yield from _paths(inner, skip, (*path, key))


def _changed(document: Any, path: tuple[Any, ...], value: Any, remove: bool = False) -> Any:
    changed = copy.deepcopy(document)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    if remove:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return changed
