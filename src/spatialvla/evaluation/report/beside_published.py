"""Our success rates as rows of the tables that others published theirs in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from spatialvla.evaluation.report.facts import small_print
from spatialvla.evaluation.report.tables import Column, PublishedRate, Row, Table
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.outcomes import Tally
from spatialvla.evaluation.results.published_rates import (
    PublishedColumn,
    PublishedRow,
    PublishedTable,
    Source,
)


def beside_published(
    published: PublishedTable, evaluations: Iterable[Results], sources: Sequence[Source]
) -> Table:
    """The published table with a row for each policy above. sources: those of the page, in order."""
    groups = _policies(evaluations, set(published.suites))
    rows = [_own_row(group, groups, published.columns) for group in groups]
    rows += [_published_row(row, sources.index(row.source) + 1) for row in published.rows]
    titles = [*(column.title for column in published.columns), "Average"]
    if all(row.cells[-1] is None for row in rows):
        titles, rows = titles[:-1], [replace(row, cells=row.cells[:-1]) for row in rows]
    return Table(published.name, "Policy", tuple(map(Column, titles)), tuple(rows), note=published.note)


def unpublished(evaluations: Iterable[Results]) -> Table:
    """Evaluations of suites that no published table is about."""
    rows = (
        Row(f"{results.policy} on {results.suite}", (_known(results.total),), small_print(results), ours=True)
        for results in evaluations
    )
    return Table("Suites without published figures here", "Policy", (Column("Success"),), tuple(rows))


def _policies(evaluations: Iterable[Results], suites: set[str]) -> list[list[Results]]:
    """Evaluations of these suites, those of the same policy used in the same way together."""
    groups: list[list[Results]] = []
    for results in evaluations:
        if results.suite not in suites:
            continue
        for group in groups:
            # The same suite twice, such as two runs, is two rows.
            if all(_same_use(other, results) and other.suite != results.suite for other in group):
                group.append(results)
                break
        else:
            groups.append([results])
    return groups


def _same_use(one: Results, other: Results) -> bool:
    """Whether a policy was used in the same way: with the same statistics, or with each suite's own."""
    statistics = [each.settings and each.settings.dataset for each in (one, other)]
    fits = statistics[0] == statistics[1] or statistics == [one.suite, other.suite]
    return fits and _use(one) == _use(other)


def _use(results: Results) -> tuple[object, ...]:
    settings = results.settings and replace(results.settings.compared, dataset=None)
    return *_weights(results), results.depth, settings, results.inputs


def _weights(results: Results) -> tuple[object, ...]:
    return results.policy, results.checkpoint, results.harness


def _own_row(
    group: Sequence[Results], groups: Sequence[Sequence[Results]], columns: Sequence[PublishedColumn]
) -> Row:
    """groups: those of all rows; what the policy was given is said where it was given other things in others."""
    by_suite = {results.suite: results for results in group}
    tallies = [_tally(by_suite.get(column.suite), column) for column in columns]
    wins = [tally for tally, column in zip(tallies, columns, strict=True) if column.measure == "success"]
    given = {other.inputs for other, *_ in groups if _weights(other) == _weights(group[0])}
    detail = [small_print(*group), *([group[0].inputs] if len(given) > 1 else [])]
    cells = (*map(_known, tallies), _average(wins))
    return Row(group[0].policy, cells, " · ".join(filter(None, detail)), ours=True)


def _tally(results: Results | None, column: PublishedColumn) -> Tally:
    if results is None:
        return Tally(0, 0)
    tasks = {task for task, text in results.tasks.items() if (column.task or "") in text}
    episodes = [episode for episode in results.episodes if episode.task in tasks]
    if column.measure == "success":
        return Tally.of(episode.success for episode in episodes)
    return Tally.of(episode.partial for episode in episodes if episode.partial is not None)


def _known(tally: Tally) -> Tally | None:
    return tally if tally.trials else None


def _average(tallies: Sequence[Tally]) -> Tally | None:
    """The mean over all columns, where each has as many episodes: that is the rate of all together."""
    if len({tally.trials for tally in tallies}) != 1:
        return None
    return _known(Tally(sum(tally.successes for tally in tallies), sum(tally.trials for tally in tallies)))


def _published_row(row: PublishedRow, source: int) -> Row:
    spreads = row.spread or (None,) * len(row.percent)
    cells = [
        None if value is None else PublishedRate(value, spread)
        for value, spread in zip(row.percent, spreads, strict=True)
    ]
    average = None if row.average is None else PublishedRate(row.average)
    episodes = f"{row.episodes} episodes" if row.episodes else ""
    detail = "; ".join(part for part in (episodes, row.note) if part)
    return Row(row.method, (*cells, average), detail, source)
