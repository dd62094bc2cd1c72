"""What is likely wrong with the actions that a run is to learn: said before hours are spent on them."""

from __future__ import annotations

from spatialvla.data.action_doubts import far_motions, idle_gripper, wide_gripper
from spatialvla.data.training_mixture import TrainingMixture


def doubts(mixture: TrainingMixture) -> list[str]:
    """A sentence for each dataset whose gripper is not from 0 to 1, and one where its steps are no arm's.

    Far steps are told where somebody says what 1 in the actions is; normalized actions look like them.
    """
    found = []
    for source, surveyed in zip(mixture.sources, mixture.surveys, strict=True):
        statistics = surveyed.sketch.statistics()
        sentences = [idle_gripper(statistics) or wide_gripper(statistics)]
        if source.units.meters is not None and source.units.radians is not None:
            sentences += far_motions(statistics, source.units)
        found += [f"{source.key}: {sentence}." for sentence in sentences if sentence is not None]
    return found
