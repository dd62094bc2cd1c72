"""What a page of results shows: evaluations beside published figures, each in full, and a comparison of two."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from spatialvla.evaluation.report.html_results import (
    ComparisonView,
    EvaluationView,
    Figure,
    MethodRow,
    MethodTable,
    PairLine,
    ResultsPage,
    TaskLine,
)
from spatialvla.evaluation.report.rates import Rate
from spatialvla.evaluation.results.comparison import Comparison, p_text, points, short_hash
from spatialvla.evaluation.results.intervals import Pairs
from spatialvla.evaluation.results.outcomes import Results, Tally
from spatialvla.evaluation.results.published import Column, PublishedTable, Row, Source, published_tables


def summarize(evaluations: Sequence[Results], comparison: Comparison | None = None) -> ResultsPage:
    """The page of these evaluations, with the published tables that any of their suites is in."""
    suites = {results.suite for results in evaluations}
    published = [table for table in published_tables() if suites & set(table.suites)]
    sources = list(dict.fromkeys(row.source for table in published for row in table.rows))
    listed = {suite for table in published for suite in table.suites}
    tables = [_beside_published(table, evaluations, sources) for table in published]
    if others := [results for results in evaluations if results.suite not in listed]:
        tables.append(_unpublished(others))
    names = list(dict.fromkeys(results.policy for results in evaluations))
    return ResultsPage(
        title=" and ".join(names) if len(names) < 3 else f"{len(names)} policies",
        subtitle="Success rates with 95 % Wilson intervals and the number of episodes. "
        "Published figures are their sources', measured in their own set-ups.",
        tables=tuple(tables),
        evaluations=tuple(_evaluation(results) for results in evaluations),
        comparison=_comparison(comparison) if comparison else None,
        sources=tuple((source.title, source.url) for source in sources),
    )


def _beside_published(
    table: PublishedTable, evaluations: Iterable[Results], sources: Sequence[Source]
) -> MethodTable:
    rows = [_own_row(group, table.columns) for group in _policies(evaluations, set(table.suites))]
    rows += [_published_row(row, sources.index(row.source) + 1) for row in table.rows]
    titles = (*(column.title for column in table.columns), "Average")
    if all(row.cells[-1] is None for row in rows):
        titles, rows = titles[:-1], [replace(row, cells=row.cells[:-1]) for row in rows]
    return MethodTable(table.name, titles, tuple(rows), table.note)


def _policies(evaluations: Iterable[Results], suites: set[str]) -> list[list[Results]]:
    """Evaluations of these suites, those of the same policy used in the same way together."""
    groups: list[list[Results]] = []
    for results in evaluations:
        if results.suite not in suites:
            continue
        for group in groups:
            # The same suite twice, such as two runs, is two rows.
            if _use(group[0]) == _use(results) and results.suite not in {other.suite for other in group}:
                group.append(results)
                break
        else:
            groups.append([results])
    return groups


def _use(results: Results) -> tuple[object, ...]:
    return results.policy, results.checkpoint, results.depth, results.settings, results.harness


def _own_row(group: Sequence[Results], columns: Sequence[Column]) -> MethodRow:
    by_suite = {results.suite: results for results in group}
    tallies = [_tally(by_suite.get(column.suite), column) for column in columns]
    cells = [_rate(tally) if tally and tally.trials else None for tally in tallies]
    wins = [tally for tally, column in zip(tallies, columns, strict=True) if column.measure == "success"]
    return MethodRow(group[0].policy, _detail(*group), (*cells, _average(wins)))


def _tally(results: Results | None, column: Column) -> Tally | None:
    if results is None:
        return None
    tasks = {task for task, text in results.tasks.items() if (column.task or "") in text}
    episodes = [episode for episode in results.episodes if episode.task in tasks]
    if column.measure == "success":
        return Tally.of(episodes)
    known = [episode.partial for episode in episodes if episode.partial is not None]
    return Tally(sum(known), len(known))


def _average(tallies: Sequence[Tally | None]) -> Rate | None:
    """The mean over all columns, where each has as many episodes: that is the rate of all of them together."""
    known = [tally for tally in tallies if tally is not None]
    if (
        len(known) < len(tallies)
        or not known
        or len({tally.trials for tally in known}) > 1
        or not known[0].trials
    ):
        return None
    return _rate(Tally(sum(tally.successes for tally in known), sum(tally.trials for tally in known)))


def _published_row(row: Row, source: int) -> MethodRow:
    spreads = row.spread or (None,) * len(row.percent)
    cells = [
        None if value is None else Figure(value, spread)
        for value, spread in zip(row.percent, spreads, strict=True)
    ]
    detail = "; ".join(
        part for part in (f"{row.episodes} episodes" if row.episodes else "", row.note) if part
    )
    average = None if row.average is None else Figure(row.average)
    return MethodRow(row.method, detail, (*cells, average), source)


def _unpublished(evaluations: Iterable[Results]) -> MethodTable:
    rows = (
        MethodRow(f"{results.policy} on {results.suite}", _detail(results), (_rate(results.total),))
        for results in evaluations
    )
    return MethodTable("Suites without published figures here", ("Success",), tuple(rows))


def _evaluation(results: Results) -> EvaluationView:
    lines = (
        TaskLine(text, _rate(results.tally(task)), results.mean_steps(task), results.partial(task))
        for task, text in results.planned_tasks.items()
    )
    return EvaluationView(
        title=f"{results.policy} on {results.suite}",
        detail=_detail(results),
        total=_rate(results.total),
        tasks=tuple(lines),
        facts=tuple(facts(results).items()),
    )


def facts(results: Results) -> dict[str, str]:
    """How an evaluation was measured, as names and values to read; what is not known is left out."""
    unknown = ("", ()) if results.harness == "spatialvla" else ("", (), 0)
    rules = {
        name.replace("_", " "): str(value)
        for name, value in vars(results.conventions).items()
        if value not in unknown
    }
    played = f"{len(results.episodes)} of {len(results.planned)} episodes"
    return {
        "started": results.started,
        "duration": f"{results.seconds / 60:.1f} min",
        "played": played + (f", shard {results.shard}" if results.shard else ""),
        "harness": results.harness,
        "checkpoint": f"SHA-256 {results.checkpoint}" if results.checkpoint else "–",
        "depth": results.depth,
        "execution": str(results.settings or "not recorded"),
        **rules,
        "versions": ", ".join(f"{name} {version}" for name, version in results.versions.items()),
    }


def _detail(results: Results, *others: Results) -> str:
    """What tells one use of a policy from another, in small print; others: evaluations of the same use."""
    parts = [short_hash(results)]
    if results.depth != "estimate":
        parts.append(f"{results.depth}'s depth")
    if results.settings is None and results.harness == "spatialvla":
        parts.append("settings not recorded")
    elif results.settings is not None and str(results.settings) != "whole chunks":
        parts.append(str(results.settings))
    if results.harness != "spatialvla":
        parts.append(results.harness)
    if missing := sum(len(each.missing) for each in (results, *others)):
        planned = sum(len(each.planned) for each in (results, *others))
        parts.append(f"{missing} of {planned} episodes missing")
    return " · ".join(part for part in parts if part)


def _comparison(comparison: Comparison) -> ComparisonView:
    total, (first, second) = comparison.total, comparison.tallies
    low, high = total.interval
    numbers = (
        (comparison.names[0], f"{first.rate:.0%}"),
        (comparison.names[1], f"{second.rate:.0%}"),
        (f"points of difference, 95 % interval {points(low)} to {points(high)}", points(total.difference)),
        ("p, exact McNemar test", p_text(total.p_value)),
        ("episodes on the same start states", str(total.trials)),
    )
    tasks = comparison.first.tasks
    lines = [_pair_line(tasks[task], pairs) for task, pairs in comparison.tasks.items()]
    caveats = list(comparison.rules)
    if comparison.unpaired:
        caveats.append(f"{comparison.unpaired} episodes were played by only one of the two and do not count")
    return ComparisonView(
        title=f"{comparison.names[0]} and {comparison.names[1]} on {comparison.first.suite}",
        names=comparison.names,
        verdict=comparison.verdict(),
        numbers=numbers,
        lines=(*lines, _pair_line("all", total)),
        caveats=tuple(caveats),
    )


def _pair_line(title: str, pairs: Pairs) -> PairLine:
    first, second = (
        Tally(pairs.both + pairs.first, pairs.trials),
        Tally(pairs.both + pairs.second, pairs.trials),
    )
    counts = (pairs.both, pairs.first, pairs.second, pairs.neither)
    return PairLine(title, counts, _rate(first), _rate(second), points(pairs.difference))


def _rate(tally: Tally) -> Rate:
    return Rate(tally.successes, tally.trials, *tally.interval)
