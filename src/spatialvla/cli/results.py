"""`spatialvla results`: tables of evaluations beside published figures, and a paired comparison of two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from spatialvla.errors import InputError


@dataclass(frozen=True)
class ResultsVerb:
    """Print what evaluations found, beside published figures, as a page too; put shards together; compare two."""

    files: Annotated[tuple[Path, ...], Positional] = ()
    """Results: folders of `spatialvla evaluate`, their results*.json, or aggregates of vla-eval. Shards of the same
    evaluation become one."""

    compare: tuple[Path, Path] | None = None
    """Two evaluations whose common start states are compared: which policy is better, and is it chance?"""

    out: Path | None = None
    """Folder for results.md and results.html."""

    merged: Path | None = None
    """File to write the evaluation to whose shards are given."""

    full: bool = False
    """Print each evaluation's tasks and conventions, too; the page always has them."""

    def run(self) -> None:
        from spatialvla.evaluation.report.markdown import to_markdown
        from spatialvla.evaluation.report.summary import summarize
        from spatialvla.evaluation.results.comparison import compare
        from spatialvla.evaluation.results.merging import load_results
        from spatialvla.evaluation.results.outcomes import Results

        def only(path: Path) -> Results:
            found = load_results([path])
            if len(found) != 1:
                raise InputError(f"{path} holds {len(found)} evaluations; name one file")
            return found[0]

        evaluations = load_results(self.files)
        comparison = None
        if self.compare:
            comparison = compare(*(only(path) for path in self.compare))
            compared = (comparison.first, comparison.second)
            evaluations += [results for results in compared if results not in evaluations]
        if not evaluations:
            raise InputError("there is nothing to show; name results files or folders")
        if self.merged:
            if len(evaluations) != 1:
                raise InputError(f"these are {len(evaluations)} evaluations; --merged writes one")
            evaluations[0].save(self.merged)
        page = summarize(evaluations, comparison)
        print(to_markdown(page, evaluations=self.full), end="")
        if self.out:
            page.save(self.out / "results.html")
            (self.out / "results.md").write_text(to_markdown(page), encoding="utf-8")
            print(f"\nWrote {self.out / 'results.md'} and {self.out / 'results.html'}")
