"""The processor of a model to pre-train: PaliGemma's tokenizer with action tokens, and a grid for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from spatialvla.actions.grids import ActionGrid
from spatialvla.actions.statistics import ActionStatistics
from spatialvla.common.json_files import read_json
from spatialvla.geometry.camera import Camera
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.folders import resolve_folder
from spatialvla.processor import Processor
from spatialvla.processor_folder import PASSED_ON
from spatialvla.tokenizer import (
    hugging_face_files,
    read_tokenizer,
    settings_with_action_tokens,
    with_action_tokens,
)


def initial_processor(
    paligemma: str | Path,
    config: SpatialVLAConfig,
    grid: ActionGrid,
    statistics: Mapping[str, ActionStatistics],
    cameras: Mapping[str, Camera],
) -> Processor:
    """The processor of an initial model: PaliGemma's tokenizer with `grid`'s action tokens.

    statistics, cameras: by dataset key; cameras needs "default".
    """
    folder = resolve_folder(paligemma)
    tokenizer = with_action_tokens(read_tokenizer(folder), grid.size)
    files = {name: read_json(folder / name) for name in PASSED_ON if (folder / name).exists()}
    # PaliGemma's own preprocessor normalizes; here the model does, as each of its two encoders needs it.
    ours = hugging_face_files(config.image_size, config.image_token_num)
    files["preprocessor_config.json"] = dict(ours["preprocessor_config.json"])
    return Processor(
        tokenizer=tokenizer,
        grid=grid,
        statistics=statistics,
        cameras=cameras,
        image_size=config.image_size,
        image_token_num=config.image_token_num,
        action_chunk_size=config.action_chunk_size,
        files=settings_with_action_tokens(files, config.action_token_begin_idx, grid.size),
    )
