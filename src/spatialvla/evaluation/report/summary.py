"""Several evaluations in one summary: beside published figures, each in full, and a comparison of two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spatialvla.evaluation.report.beside_published import beside_published, unpublished
from spatialvla.evaluation.report.exam_table import exam_table
from spatialvla.evaluation.report.tables import Table, percent
from spatialvla.evaluation.results.comparison import Comparison, p_text, points
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.exam_scores import is_exam
from spatialvla.evaluation.results.published_rates import Source, published_tables


@dataclass(frozen=True)
class Summary:
    """What `markdown.to_markdown` and `results_page.results_page` show.

    tables: our rates beside published ones. sources: of those, numbered from 1.
    """

    title: str
    subtitle: str
    tables: tuple[Table, ...]
    evaluations: tuple[Results, ...]
    comparison: Comparison | None
    sources: tuple[Source, ...]


def summarize(evaluations: Sequence[Results], comparison: Comparison | None = None) -> Summary:
    """A summary of these evaluations, with the published tables that any of their suites is in."""
    suites = {results.suite for results in evaluations}
    published = [table for table in published_tables() if suites & set(table.suites)]
    sources = list(dict.fromkeys(row.source for table in published for row in table.rows))
    listed = {suite for table in published for suite in table.suites}
    tables = [beside_published(table, evaluations, sources) for table in published]
    if others := [results for results in evaluations if results.suite not in listed]:
        tables.append(unpublished(others))
    tables += [exam_table(results) for results in evaluations if is_exam(results)]
    names = list(dict.fromkeys(results.policy for results in evaluations))
    return Summary(
        title=" and ".join(names) if len(names) < 3 else f"{len(names)} policies",
        subtitle="Success rates with 95 % Wilson intervals and the number of episodes. "
        "Published figures are their sources', measured in their own set-ups.",
        tables=tuple(tables),
        evaluations=tuple(evaluations),
        comparison=comparison,
        sources=tuple(sources),
    )


def key_numbers(comparison: Comparison) -> dict[str, str]:
    """What a comparison comes to: names and values to read."""
    total, (first, second) = comparison.total, comparison.tallies
    low, high = total.interval
    return {
        comparison.names[0]: percent(first),
        comparison.names[1]: percent(second),
        f"points of difference, 95 % interval {points(low)} to {points(high)}": points(total.difference),
        "p, exact McNemar test": p_text(total.p_value),
        "episodes on the same start states": str(total.trials),
    }


def caveats(comparison: Comparison) -> list[str]:
    """What differs beside the policies, and what was left out."""
    found = list(comparison.rules)
    if comparison.unpaired:
        found.append(f"{comparison.unpaired} episodes were played by only one of the two and do not count")
    return found
