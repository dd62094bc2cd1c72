"""The names by which a run keeps what it is made of: such that hold from any working directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from spatialvla.data.oxe.spec_file import is_spec_file
from spatialvla.model.folders import SHIPPED, lasting_name
from spatialvla.training.config import DatasetConfig, TrainConfig

CHECKPOINTS = ("policy", "base", "paligemma", "zoedepth", "depth_weights")
"""The settings that name a checkpoint: its folder, what is shipped, or a Hub id."""

SHIPPED_INSTRUCTIONS = Path("libero")
"""What `instructions` may say in place of a file."""

LIBERO_INSTRUCTIONS = SHIPPED / "libero_instructions.json"
"""What LIBERO's tasks ask for (MIT)."""

_FILES = ("statistics", "cache", "gaussians", "instructions")


def with_lasting_names(config: TrainConfig) -> TrainConfig:
    """The configuration with absolute paths of local files and folders; other names stay as they are.

    `out` stays, too, as --resume is always told it. Raises CheckpointError for a run that has no model yet.
    """
    changes: dict[str, Any] = {}
    for name in (*CHECKPOINTS, *_FILES):
        value = getattr(config, name)
        if value is None or value == SHIPPED_INSTRUCTIONS:
            continue
        changes[name] = type(value)(lasting_name(value)) if name in CHECKPOINTS else _absolute(value)
    return replace(config, datasets=tuple(map(_lasting, config.datasets)), **changes)


def instructions_file(instructions: Path) -> Path:
    """The file of texts that the setting `instructions` names, or stands for."""
    return LIBERO_INSTRUCTIONS if instructions == SHIPPED_INSTRUCTIONS else instructions


def _lasting(dataset: DatasetConfig) -> DatasetConfig:
    path, mapping, spec = dataset.path, dataset.mapping, dataset.spec
    return replace(
        dataset,
        path=str(_absolute(path)) if Path(path).expanduser().exists() else path,
        mapping=None if mapping is None else _absolute(mapping),
        spec=str(_absolute(spec)) if spec is not None and is_spec_file(spec) else spec,
    )


def _absolute(path: str | Path) -> Path:
    """Links are kept as they are, since they may lead elsewhere when the run goes on."""
    return Path(path).expanduser().absolute()
