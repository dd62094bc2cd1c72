"""Which cameras' images and which states the samples of a batch have, and the same batch without one of these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from spatialvla.batch import Batch
from spatialvla.data.loaded_batch import LoadedBatch
from spatialvla.model.config import SpatialVLAConfig

STATE = "state"
"""What the state is called beside the cameras' names."""


def further_parts(network: SpatialVLAConfig) -> tuple[str, ...]:
    """What a network sees beside its first camera's image: the other cameras' names, and STATE."""
    return (*network.cameras[1:], *([STATE] if network.state_size else []))


def slots(loaded: LoadedBatch, network: SpatialVLAConfig) -> Mapping[str, slice]:
    """Where in the rows of a training batch each part stands: those that some sample has."""
    size = network.image_token_num
    found = {name: slice(size * number, size * (number + 1)) for number, name in enumerate(loaded.cameras)}
    if loaded.batch.state is not None:
        end = size * len(loaded.cameras)
        found[STATE] = slice(end, end + 1)
    return found


def present(loaded: LoadedBatch, network: SpatialVLAConfig) -> Mapping[str, torch.Tensor]:
    """(B,) bool which samples have each part; those that none has are not among them."""
    return {
        name: loaded.batch.attention_mask[:, where.start] for name, where in slots(loaded, network).items()
    }


def without(batch: Batch, where: slice) -> Batch:
    """The batch as if no sample had what stands in these slots."""
    mask = batch.attention_mask.clone()
    mask[:, where] = False
    return replace(batch, attention_mask=mask)
