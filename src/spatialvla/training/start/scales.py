"""Whether the statistics that scale a run's actions and states fit its datasets, and are those of its policy."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spatialvla.actions.state_statistics import StateStatistics
from spatialvla.actions.statistics import MIN_SPAN, ActionStatistics
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.model.loading import PROCESSOR
from spatialvla.processor import Processor
from spatialvla.types import ACTION_AXES

log = logging.getLogger(__name__)

_MANY = 0.2
"""Of a number's values beyond q01 to q99. A dataset's own leave out 0.02; common ones of several datasets, more."""

_NEAR = 0.01
"""Of what lies between q01 and q99: statistics of a few more episodes, or of a sample, are as near."""


def misfits(mixture: TrainingMixture) -> list[str]:
    """A sentence for each dataset whose actions or states are often clipped by the statistics given for it.

    Also where these are of another number of states, so that the dataset's own are taken.
    """
    sentences: list[str] = []
    actions, states = mixture.statistics(), mixture.state_statistics()
    for source, found in zip(mixture.sources, mixture.surveys, strict=True):
        key = source.key
        if key not in mixture.given_statistics:
            continue
        beyond = np.where(actions[key].mask, _beyond(found.sketch.sample, actions[key]), 0)
        sentences += _told(key, "actions", beyond, ACTION_AXES)
        if found.states is not None and key in states:
            sentences += _told(key, "states", _beyond(found.states.sample, states[key]), source.state_names)
            given = mixture.given_statistics[key].states
            if given is not None and given.size != found.states.size:
                sentences.append(
                    f"The statistics given for {key} are of {given.size} numbers of a state, and it has "
                    f"{found.states.size}; its own are taken."
                )
    return sentences


def are_one(mixture: TrainingMixture, with_states: bool) -> bool:
    """Whether an action is the same motion, and a state the same numbers, by whichever dataset they are scaled."""
    units = list(mixture.units().values())
    actions = {(*_ends(one).flat, *one.mask) for one in mixture.statistics().values()}
    states = {(*_ends(one).flat,) for one in mixture.state_statistics().values()} if with_states else set()
    return len(actions) == 1 and len(states) <= 1 and all(one == units[0] for one in units)


def meant_for(mixture: TrainingMixture, with_states: bool) -> str | None:
    """The dataset by whose statistics a policy acts where none is named: one with a state, where it sees that.

    None where the user has to say which.
    """
    if not are_one(mixture, with_states):
        return None
    return next(iter(mixture.state_statistics() if with_states else ()), mixture.keys[0])


def warn_of_other_scales(folder: Path, before: Processor, mixture: TrainingMixture) -> None:
    """Where a policy learned one of the datasets by other statistics. folder: of the policy."""
    file = str(folder / PROCESSOR)
    if not before.statistics.keys() >= set(mixture.keys):  # statistics are given of all datasets or of none
        file = f"a file that has those of {file}"
    _warn("actions", file, before.statistics, mixture.statistics())
    _warn("states", file, before.state_statistics, mixture.state_statistics())


def _warn(
    what: str,
    file: str,
    before: Mapping[str, ActionStatistics] | Mapping[str, StateStatistics],
    now: Mapping[str, ActionStatistics] | Mapping[str, StateStatistics],
) -> None:
    if keys := sorted(key for key in before.keys() & now.keys() if _differ(before[key], now[key])):
        log.warning(
            "The policy learned the %s of %s by other statistics, so the same numbers will mean something else to it; "
            "to go on by those that it knows give --statistics %s.",
            *(what, ", ".join(keys), file),
        )


def _differ(before: ActionStatistics | StateStatistics, now: ActionStatistics | StateStatistics) -> bool:
    ends, others = _ends(before), _ends(now)
    if ends.shape != others.shape:
        return True
    near = np.maximum(MIN_SPAN, _NEAR * (ends[1] - ends[0]))
    return bool((np.abs(ends - others) > near).any())


def _ends(statistics: ActionStatistics | StateStatistics) -> np.ndarray:
    """(2, numbers) q01 and q99, 0 of what is not scaled."""
    ends = np.stack([statistics.q01, statistics.q99])
    return np.where(statistics.mask, ends, 0) if isinstance(statistics, ActionStatistics) else ends


def _beyond(values: np.ndarray, statistics: ActionStatistics | StateStatistics) -> np.ndarray:
    """Of each of a dataset's numbers, the share of its values (N, numbers) that is clipped."""
    slack = np.maximum(MIN_SPAN, 1e-3 * (statistics.q99 - statistics.q01))
    clipped = (values < statistics.q01 - slack) | (values > statistics.q99 + slack)
    return np.asarray(clipped.mean(0))


def _told(key: str, what: str, beyond: np.ndarray, names: Sequence[str]) -> list[str]:
    worst = int(beyond.argmax())
    if beyond[worst] < _MANY:
        return []
    name = names[worst] if len(names) == len(beyond) else f"number {worst + 1}"
    return [
        f"The statistics given for {key} clip {beyond[worst]:.0%} of its {what} in {name}; see that they are not "
        "another dataset's."
    ]
