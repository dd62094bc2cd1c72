"""Which action a policy's probabilities stand for: the likeliest cells' middles, or the mean over all cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from spatialvla.processor import Processor
from spatialvla.types import ActionChunk


@dataclass(frozen=True)
class CellMiddles:
    """What each translation cell and each rotation cell decodes to, in a dataset's units."""

    translation: Float[np.ndarray, "cells 3"]
    rotation: Float[np.ndarray, "turns 3"]

    @classmethod
    def of(cls, processor: Processor, dataset: str | None) -> CellMiddles:
        """Of a processor's grid. Raises InputError for a dataset that it does not know."""
        (move, moves_end), (turn, turns_end), (gripper, _) = processor.grid.ranges
        moves = np.array([[token, turn, gripper] for token in range(move, moves_end)])
        turns = np.array([[move, token, gripper] for token in range(turn, turns_end)])
        return cls(
            processor.actions(moves[None], dataset)[0, :, :3],
            processor.actions(turns[None], dataset)[0, :, 3:6],
        )


def mean_actions(
    likeliest: Float[np.ndarray, "B T 7"],
    probabilities: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    middles: CellMiddles,
) -> Float[np.ndarray, "B T 7"]:
    """Each step's translation and rotation as the mean over all cells, weighted by their probabilities.

    Where a policy wavers between two sides of a goal, the likeliest cell is a step at full speed to one of them; the
    mean is a small step. The gripper stays as the likeliest token has it: half open is no command.
    probabilities: (B, T, cells) of the translation's, rotation's and gripper's cells, each step's given the likeliest
    tokens before it. The result is in the units of `likeliest` and `middles`.
    """
    actions = likeliest.copy()
    moves, turns = (_weights(each) for each in probabilities[:2])
    actions[..., :3] = moves @ middles.translation
    actions[..., 3:6] = turns @ middles.rotation
    return actions


def in_units_of(dataset: str, chunk: ActionChunk, own: str, processor: Processor) -> Float[np.ndarray, "T 7"]:
    """A chunk's actions as another dataset scales them. own: the dataset that scaled the chunk's.

    Of what does not move in `own`, the chunk's actions no longer tell what was read; there the likeliest tokens do.
    """
    scaled, wanted = processor.dataset_statistics(own), processor.dataset_statistics(dataset)
    actions = wanted.denormalize(scaled.normalize(chunk.actions))
    return np.where(scaled.mask & ~scaled.moves, processor.actions(chunk.tokens[None], dataset)[0], actions)


def _weights(probabilities: torch.Tensor) -> Float[np.ndarray, "B T cells"]:
    """Of float32 that add up to 1 nearly, float64 that do."""
    found = probabilities.float().cpu().numpy().astype(np.float64)
    weights: np.ndarray = found / found.sum(axis=-1, keepdims=True)
    return weights
