"""A policy's outermost rotation cells, fitted to datasets."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from spatialvla.actions.rotation_reach import Turn, with_rotation_reach
from spatialvla.data.pooled_statistics import check_same_motions
from spatialvla.data.survey import survey
from spatialvla.errors import InputError
from spatialvla.processor import Processor
from spatialvla.training.config import DatasetConfig
from spatialvla.training.feed.datasets import open_dataset


def fit_rotations(
    processor: Processor, datasets: Sequence[DatasetConfig], turns: Collection[Turn], cache: Path
) -> Processor:
    """The processor of a policy that says the same tokens, of which fast rotations are decoded to their mean.

    See `with_rotation_reach`. datasets: in the units of those that the policy knows. turns: the dimensions to fit.
    cache: for the datasets' surveys.
    Raises InputError or CheckpointError for a dataset that cannot be used, or a policy whose cells cannot be fitted.
    """
    sources = [open_dataset(dataset, cache, "raise", pictures=False) for dataset in datasets]
    key = next(iter(processor.statistics))
    units = processor.action_units(key)
    for source in sources:
        if differences := units.differences(source.units):
            raise InputError(
                f"{source.key}'s actions are not the motions of {key}, which the policy knows "
                f"({'; '.join(differences)}); fit it to data of that robot."
            )
    check_same_motions(sources)
    samples = [survey(source, cache=cache / "surveys").sketch.sample for source in sources]
    rotations = np.concatenate([sample[:, 3:6] for sample in samples])
    grid, statistics = with_rotation_reach(processor.grid, processor.statistics, rotations, turns)
    return replace(processor, grid=grid, statistics=statistics)
