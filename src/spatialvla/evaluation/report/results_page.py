"""A summary of evaluations as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from spatialvla.evaluation.report.facts import facts, small_print
from spatialvla.evaluation.report.legends import PAIRS
from spatialvla.evaluation.report.page import facts_list, html_table, page, titled_table
from spatialvla.evaluation.report.summary import Summary, caveats, key_numbers
from spatialvla.evaluation.report.tables import count, pairs_table, success_table
from spatialvla.evaluation.results.comparison import Comparison
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.published_rates import Source


def results_page(summary: Summary) -> str:
    """The page: a comparison if there is one, rates beside published ones, each evaluation, the sources."""
    parts = [
        _comparison(summary.comparison) if summary.comparison else "",
        *(titled_table(table, kind="methods") for table in summary.tables),
        '<h2 id="evaluations">How each was measured</h2>' if summary.evaluations else "",
        *map(_evaluation, summary.evaluations),
        _sources(summary.sources) if summary.sources else "",
    ]
    return page(summary.title, summary.subtitle, "".join(parts), styles=("style.css", "results.css"))


def _evaluation(results: Results) -> str:
    table = success_table(results)
    return f"""<details class="evaluation"><summary><b>{escape(table.title)}</b>
<span class="muted">{escape(small_print(results))}</span>
<span class="sum">{count(results.total)}</span></summary>
{html_table(table)}
{facts_list(facts(results))}</details>"""


def _comparison(comparison: Comparison) -> str:
    table = pairs_table(comparison)
    numbers = "".join(
        f"<div><strong>{escape(value)}</strong><span>{escape(name)}</span></div>"
        for name, value in key_numbers(comparison).items()
    )
    also = "".join(f"<li>{escape(caveat)}</li>" for caveat in caveats(comparison))
    if also:
        also = f'<p class="muted note">These differ, too:</p><ul class="muted">{also}</ul>'
    return f"""<h2>{escape(table.title)}</h2>
<p class="verdict">{escape(comparison.verdict())}</p>
<div class="numbers">{numbers}</div>
{html_table(table, kind="pairs")}{PAIRS}{also}"""


def _sources(sources: Sequence[Source]) -> str:
    items = "".join(
        f'<li id="source{number}"><a href="{escape(source.url)}">{escape(source.title)}</a></li>'
        for number, source in enumerate(sources, 1)
    )
    return f'<h2>Sources of the published figures</h2><ol class="sources">{items}</ol>'
