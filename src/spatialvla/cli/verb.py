"""What every verb of the command line is: options, and what is done with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from spatialvla.cli.arguments import parse_options


class Verb(ABC):
    """A frozen dataclass of options; the first line of its docstring stands in `spatialvla --help`."""

    @classmethod
    def parse(cls, arguments: Sequence[str], program: str) -> Self:
        """The verb as `arguments` tell it; exits where help is asked for.

        program: what usage calls it, such as "spatialvla predict".
        Raises InputError where they cannot be read.
        """
        return parse_options(cls, arguments, program)

    @abstractmethod
    def run(self) -> None:
        """Does what the verb says. Raises InputError or CheckpointError for what cannot be used."""
