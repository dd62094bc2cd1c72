"""`spatialvla compare`: which of two evaluated policies is better, and whether that is chance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from spatialvla.cli.results import show
from spatialvla.cli.verb import Verb
from spatialvla.errors import InputError

if TYPE_CHECKING:
    from spatialvla.evaluation.results.document import Results


@dataclass(frozen=True)
class Compare(Verb):
    """Compare two evaluations start state by start state."""

    first: Annotated[Positional[Path], arg(metavar="FIRST")]
    """An evaluation: a folder of `spatialvla evaluate`, its results*.json, or an aggregate of vla-eval."""

    second: Annotated[Positional[Path], arg(metavar="SECOND")]
    """The other one. Start states that both have played are compared."""

    out: Path | None = None
    """Folder for results.md and results.html."""

    full: bool = False
    """Print each evaluation's tasks and conventions, too; the page always has them."""

    def run(self) -> None:
        """Prints and writes the tables."""
        from spatialvla.evaluation.results.comparison import compare

        comparison = compare(_only(self.first), _only(self.second))
        show([comparison.first, comparison.second], comparison, full=self.full, out=self.out)


def _only(path: Path) -> Results:
    from spatialvla.evaluation.results.merging import load_results

    found = load_results([path])
    if len(found) != 1:
        raise InputError(f"{path} holds {len(found)} evaluations; name one file.")
    return found[0]
