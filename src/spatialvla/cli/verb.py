"""What every verb of the command line is: options, and what is done with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self, TypeVar

import tyro

T = TypeVar("T")


class Verb(ABC):
    """A frozen dataclass of options; the first line of its docstring stands in `spatialvla --help`."""

    @classmethod
    def parse(cls, arguments: Sequence[str], program: str) -> Self:
        """The verb as `arguments` tell it; exits where they cannot be read, or help is asked for.

        program: what usage calls it, such as "spatialvla predict".
        """
        return tyro.cli(cls, prog=program, args=arguments)

    @abstractmethod
    def run(self) -> None:
        """Does what the verb says. Raises InputError or CheckpointError for what cannot be used."""


def read_first(kind: type[T], arguments: Sequence[str], program: str) -> T:
    """Some options alone, for a verb whose other values follow from them; other arguments are passed over."""
    options, _ = tyro.cli(kind, prog=program, args=arguments, add_help=False, return_unknown_args=True)
    return options
