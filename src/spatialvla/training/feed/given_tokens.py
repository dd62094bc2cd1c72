"""The action tokens that training goes on from: the chunk's own, another's, or a few committed steps'."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from spatialvla.actions.bins import BLOCKS
from spatialvla.actions.grids import ActionGrid
from spatialvla.batch import GIVEN, IGNORED, Batch
from spatialvla.errors import InputError
from spatialvla.processor import Processor
from spatialvla.training.config import TrainConfig
from spatialvla.training.parallel.world import ALONE, World


def with_given_tokens(
    batch: Batch, config: TrainConfig, processor: Processor, rng: np.random.Generator, world: World = ALONE
) -> Batch:
    """A training batch with the tokens that the model goes on from changed as the configuration says.

    batch: this rank's share of the step's. rng: in the same state on all ranks. Each row changes as it would in one
    process, as all draw for the rows of all. Collective.
    """
    batch = with_foreign_tokens(batch, config.guidance.foreign_tokens, rng, world)
    return with_committed_steps(batch, config, processor, rng, world)


def with_foreign_tokens(batch: Batch, share: float, rng: np.random.Generator, world: World = ALONE) -> Batch:
    """A share of the action tokens to go on from comes from another sample of the step; the labels stay.

    Under teacher forcing the tokens before tell nearly all about the next one, and a network with little data
    learns to read them instead of the image. rng, world: as in `with_given_tokens`.
    """
    if batch.labels is None or share == 0:
        return batch
    is_action = batch.labels != IGNORED
    tokens, ours = _of_all(batch.input_ids[is_action].view(len(batch), -1), world)
    others = tokens[torch.from_numpy(rng.permutation(len(tokens)))]
    mixed = torch.where(torch.from_numpy(rng.random(tuple(tokens.shape)) < share), others, tokens)[ours]
    return replace(batch, input_ids=batch.input_ids.masked_scatter(is_action, mixed))


def check_committed_steps(count: int, chunk_size: int) -> None:
    """Raises InputError where nothing of a chunk would be left to learn."""
    if count >= chunk_size:
        raise InputError(f"committed_steps must be less than the {chunk_size} steps of a chunk, not {count}.")


def with_committed_steps(
    batch: Batch, config: TrainConfig, processor: Processor, rng: np.random.Generator, world: World = ALONE
) -> Batch:
    """The batch with the first steps of some samples given, as `TrainConfig` says.

    A robot that goes on while the next chunk is inferred asks for one that begins with the steps under way.
    The model sees them as tokens it has said, and learns what comes after them; the jitter stands for steps
    that the model itself had chosen a little differently (arXiv 2512.05964 trains on such prefixes, too).
    rng, world: as in `with_given_tokens`. Raises InputError where nothing of a chunk would be left to learn.
    """
    if config.committed_steps == 0 or batch.labels is None:
        return batch
    check_committed_steps(config.committed_steps, processor.action_chunk_size)
    first = processor.action_token_begin_idx
    is_action = batch.is_action(first)
    labels, seen = (ids[is_action].view(len(batch), -1, 3) for ids in (batch.labels, batch.input_ids))
    true, ours = _of_all(torch.where(labels == GIVEN, seen, labels), world)
    count = rng.integers(1, config.committed_steps + 1, len(true))
    count[rng.random(len(true)) >= config.committed_share] = 0
    numbers = jittered(true.numpy() - first, processor.grid, config.committed_jitter, rng)
    near = torch.from_numpy(numbers + first)[ours]
    given = torch.from_numpy(np.arange(true.shape[1]) < count[ours, None])[..., None].expand_as(near)
    return replace(
        batch,
        input_ids=batch.input_ids.masked_scatter(is_action, torch.where(given, near, seen)),
        labels=batch.labels.masked_scatter(is_action, labels.masked_fill(given, GIVEN)),
    )


def _of_all(tokens: torch.Tensor, world: World) -> tuple[torch.Tensor, slice]:
    """The tokens (B, …) of all ranks' rows, in the order of the step's batch, and where this rank's stand."""
    return torch.cat(world.gather(tokens)), slice(world.rank * len(tokens), (world.rank + 1) * len(tokens))


def jittered(
    numbers: np.ndarray, grid: ActionGrid, probability: float, rng: np.random.Generator
) -> np.ndarray:
    """Token numbers (..., 3), with this probability each moved to a neighboring cell; the gripper stays."""
    bins = grid.bin_indices(numbers)
    moved = numbers.copy()
    for kind, (names, shape) in enumerate(zip(BLOCKS.values(), grid.shapes, strict=True)):
        cells = []
        for name, size in zip(names, shape, strict=True):
            step = rng.choice([-1, 1], numbers.shape[:-1]) * (rng.random(numbers.shape[:-1]) < probability)
            # The azimuth's last cell lies beside its first.
            cells.append(
                (bins[name] + step) % size if name == "phi" else np.clip(bins[name] + step, 0, size - 1)
            )
        moved[..., kind] = np.ravel_multi_index(tuple(cells), shape) + grid.ranges[kind][0]
    return moved
