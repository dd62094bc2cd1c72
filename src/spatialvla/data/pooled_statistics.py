"""One set of statistics for several datasets of one robot, so that a token is the same motion in all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

from spatialvla.actions.statistics_file import DatasetStatistics
from spatialvla.data.episodes import EpisodeSource, OnBad
from spatialvla.data.sketches import ActionSketch, StateSketch
from spatialvla.data.survey import survey
from spatialvla.errors import InputError


def pooled_statistics(
    sources: Sequence[EpisodeSource],
    workers: int = 1,
    cache: Path | None = None,
    on_bad: OnBad = "raise",
    progress: Callable[[int], None] = lambda episodes: None,
) -> DatasetStatistics:
    """Of all actions and states of the datasets, each step counted once.

    workers, cache, on_bad, progress: as of `survey`.
    Raises InputError where actions are in different units or states are different numbers, and as `survey` does.
    """
    check_same_motions(sources)
    _check_states(sources)
    actions = ActionSketch()
    states: StateSketch | None = None
    for source in sources:
        found = survey(source, workers, cache, on_bad, progress)
        actions.merge(found.sketch)
        if found.states is not None:
            states = states or StateSketch(found.states.size)
            states.merge(found.states)
    return DatasetStatistics(actions.statistics(), states.statistics() if states and states.count else None)


def check_same_motions(sources: Sequence[EpisodeSource]) -> None:
    """Raises InputError where the actions of two datasets are in different units, as far as both say them."""
    # Each with each: one that does not say its units would hide that two others contradict each other.
    for first, second in combinations(sources, 2):
        if differences := first.units.differences(second.units):
            raise InputError(
                f"The actions of {first.key} and {second.key} are not the same motions ({'; '.join(differences)}); "
                "make statistics of each."
            )


def _check_states(sources: Sequence[EpisodeSource]) -> None:
    layouts = {source.state_names: source.key for source in sources if source.state_names}
    if len(layouts) > 1:
        (names, key), (others, other), *_ = layouts.items()
        raise InputError(
            f"The states of {key} ({', '.join(names)}) and {other} ({', '.join(others)}) are not the same numbers; "
            "make statistics of each."
        )
