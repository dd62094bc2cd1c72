"""Spatial embedding adaptation: a checkpoint and its processor, carried over to a new robot (§III-D)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from spatialvla.actions.grids import ActionGrid
from spatialvla.actions.statistics import ActionStatistics
from spatialvla.errors import CheckpointError
from spatialvla.geometry.camera import Camera
from spatialvla.model.regrid import regrid
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.processor import Processor
from spatialvla.tokenizer import settings_with_action_tokens, with_action_tokens


def adapt(
    model: SpatialVLA,
    processor: Processor,
    grid: ActionGrid,
    statistics: Mapping[str, ActionStatistics],
    cameras: Mapping[str, Camera] | None = None,
) -> Processor:
    """Carries the model over to `grid` in place (see `regrid`); returns the processor that belongs to it.

    grid: usually `ActionGrid.fit` of the new robot's normalized actions, or `ActionGrid.from_gaussians`; it
    may have other bin counts than the old one. statistics, cameras: by dataset key, added to the old ones.
    Give the optimizer the parameters after this, not before.
    Raises CheckpointError where model and processor do not belong together.
    """
    if processor.action_token_begin_idx != model.config.action_token_begin_idx:
        raise CheckpointError(
            f"The processor's action tokens begin at {processor.action_token_begin_idx}, the model's at "
            f"{model.config.action_token_begin_idx}; they do not belong together."
        )
    regrid(model, processor.grid, grid)
    return adapted_processor(
        processor, grid, {**processor.statistics, **statistics}, {**processor.cameras, **(cameras or {})}
    )


def adapted_processor(
    processor: Processor,
    grid: ActionGrid,
    statistics: Mapping[str, ActionStatistics],
    cameras: Mapping[str, Camera],
) -> Processor:
    """A processor with another grid, its tokenizer with as many action tokens."""
    tokenizer, files = processor.tokenizer, processor.files
    if grid.size != processor.grid.size:
        tokenizer = with_action_tokens(tokenizer, grid.size)
        files = settings_with_action_tokens(files, processor.action_token_begin_idx, grid.size)
    return replace(
        processor, tokenizer=tokenizer, grid=grid, statistics=statistics, cameras=cameras, files=files
    )
