"""Optional parts of the installation, and the one sentence that says how to add a missing one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from spatialvla.errors import InputError


@contextmanager
def needs_extra(extra: str, purpose: str) -> Iterator[None]:
    """What is imported inside the `with` comes with an extra of this distribution.

    extra: its name in pyproject.toml. purpose: what needs it, such as "Drawing"; the sentence begins with it.
    Raises InputError, with the command that installs the extra, where a module is missing.
    """
    try:
        yield
    except ImportError as error:
        if error.name is not None and error.name.partition(".")[0] == "spatialvla":
            raise
        raise InputError(
            f"{purpose} needs {error.name or error}; run pip install 'spatialvla[{extra}]'."
        ) from error
