"""The spatial exam's scores as a table: by skill and pair, each beside what chance would have scored."""

from __future__ import annotations

from collections.abc import Iterator

from spatialvla.evaluation.report.tables import Cell, Column, Row, Table
from spatialvla.evaluation.results.document import Results
from spatialvla.evaluation.results.exam_scores import CHANCE, PairScore, exam_scores

_NOTE = (
    "Right bowl: of the episodes in which a bowl was taken. Success: the right bowl is on the plate. Both halves: of "
    "the pairs of episodes. By chance: what the same hands would score if a coin chose the bowl, which is half of the "
    "episodes that end with a bowl on the plate, and a quarter of the pairs in which both do. Where no place is said, "
    "a policy can do no better than chance."
)


def exam_table(results: Results) -> Table:
    """A policy's scores in the exam: a row for each skill, and below it one for each pair if there are several."""
    titles = ("Right bowl", "By chance", "Success", "By chance", "Both halves", "By chance")
    return Table(
        title=f"{results.policy} in the spatial exam",
        label="Skill",
        columns=tuple(map(Column, titles)),
        rows=tuple(_rows(results)),
        note=_NOTE,
    )


def _rows(results: Results) -> Iterator[Row]:
    for skill in exam_scores(results):
        yield Row(skill.skill, _cells(skill.total), ours=True)
        if len(skill.pairs) > 1:
            for name, score in skill.pairs:
                yield Row(name, _cells(score))


def _cells(score: PairScore) -> tuple[Cell, ...]:
    return (
        score.chose if score.chose.trials else None,
        _percent(CHANCE),
        score.success,
        _percent(score.success_by_chance),
        score.both,
        _percent(score.both_by_chance),
    )


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"
