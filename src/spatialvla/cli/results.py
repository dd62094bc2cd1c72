"""`spatialvla results`: tables of evaluations beside published figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from spatialvla.cli.verb import Verb
from spatialvla.errors import InputError

if TYPE_CHECKING:
    from spatialvla.evaluation.results.comparison import Comparison
    from spatialvla.evaluation.results.document import Results


@dataclass(frozen=True)
class ShowResults(Verb):
    """Print what evaluations found beside published figures.

    Shards of one evaluation are put together.
    """

    files: Annotated[Positional[tuple[Path, ...]], arg(metavar="[RESULTS ...]")] = ()
    """Results: folders of `spatialvla evaluate`, their results*.json, or aggregates of vla-eval."""

    out: Path | None = None
    """Folder for results.md and results.html."""

    merged: Path | None = None
    """File to write the evaluation to whose shards are given."""

    publish: Path | None = None
    """File to write the evaluation to without folders' names, command and videos, to be handed on."""

    full: bool = False
    """Print each evaluation's tasks and conventions, too; the page always has them."""

    def run(self) -> None:
        """Prints and writes the tables."""
        from spatialvla.evaluation.results.merging import load_results

        evaluations = load_results(self.files)
        if not evaluations:
            raise InputError("There is nothing to show; name results files or folders.")
        if self.merged:
            _only(evaluations, "--merged").save(self.merged)
        if self.publish:
            _only(evaluations, "--publish").shareable().save(self.publish)
        show(evaluations, full=self.full, out=self.out)


def _only(evaluations: Sequence[Results], option: str) -> Results:
    if len(evaluations) != 1:
        raise InputError(f"These are {len(evaluations)} evaluations; {option} writes one.")
    return evaluations[0]


def show(
    evaluations: Sequence[Results],
    comparison: Comparison | None = None,
    *,
    full: bool,
    out: Path | None,
) -> None:
    """Prints evaluations, and their comparison, as tables; writes results.md and results.html into `out`."""
    from spatialvla.evaluation.report.markdown import to_markdown
    from spatialvla.evaluation.report.page import write_page
    from spatialvla.evaluation.report.results_page import results_page
    from spatialvla.evaluation.report.summary import summarize

    summary = summarize(evaluations, comparison)
    print(to_markdown(summary, evaluations=full), end="")
    if out:
        write_page(out / "results.html", results_page(summary))
        (out / "results.md").write_text(to_markdown(summary), encoding="utf-8")
        print(f"\nWrote {out / 'results.md'} and {out / 'results.html'}")
