"""What a policy in LeRobot is made of: a model, its processor and its mapping, begun on a dataset or gone on with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lerobot_policy_spatialvla.configuration_spatialvla import SpatialVLAConfig
from lerobot_policy_spatialvla.mapping import MAPPING, KeptMapping, check_motion
from spatialvla.actions.fitting import check_gripper
from spatialvla.common.cpu import tune_cpu
from spatialvla.data.sources import open_source
from spatialvla.errors import InputError
from spatialvla.model.folders import is_adapter
from spatialvla.model.loading import load_unmerged
from spatialvla.model.lora import has_lora
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.processor import Processor
from spatialvla.training.config import DatasetConfig
from spatialvla.training.feed.datasets import mixture_of
from spatialvla.training.options import NetworkOptions, StartOptions
from spatialvla.training.parallel.world import ALONE
from spatialvla.training.run.progress import Progress
from spatialvla.training.start.build import build, network_config
from spatialvla.training.start.trainable import select_trainable

if TYPE_CHECKING:
    from lerobot.datasets import LeRobotDatasetMetadata


@dataclass(frozen=True)
class Start:
    """dataset: whose statistics scale the actions; None leaves that to the checkpoint. base: the checkpoint that
    adapters would be added to; None where there is none."""

    model: SpatialVLA
    processor: Processor
    mapping: KeptMapping
    dataset: str | None
    base: str | None = None


def start(config: SpatialVLAConfig, data: LeRobotDatasetMetadata | None, folder: Path | None = None) -> Start:
    """data: what to train on; None to act alone. folder: of a checkpoint, instead of what the configuration names.

    A checkpoint that was trained on a dataset of the same name last is gone on with as it is. What was asked of a new
    network, or of a checkpoint to start from, is taken out of the configuration once it is done.
    Raises InputError where something does not fit, CheckpointError for a folder that cannot be used.
    """
    if config.device == "cpu":
        tune_cpu()
    mapping = _mapping(config, folder)
    if data is None:
        return _to_act(config, mapping, folder)
    key = mapping.mapping.key or data.repo_id
    if folder is not None and Processor.from_pretrained(folder).default_dataset == key:
        started = Start(_to_train(folder), Processor.from_pretrained(folder), mapping, key, str(folder))
    else:
        started = _begun(config, data, mapping, key, folder)
    model = started.model
    config.dataset = key
    _mark_done(config, model)
    run = config.run()
    select_trainable(
        model,
        "lora" if has_lora(model) else config.adaptation.mode,
        text_embeddings=not run.freeze_text_embeddings,
        vision_tower=not run.freeze_vision_tower,
    )
    model.checkpoint_activations(run.activation_checkpointing)
    return started


def _mapping(config: SpatialVLAConfig, folder: Path | None) -> KeptMapping:
    """The one that is named, or else the one that the checkpoint keeps."""
    if config.mapping is not None:
        return KeptMapping.load(Path(config.mapping))
    kept = None if folder is None else folder.parent / MAPPING
    return KeptMapping.load(kept) if kept is not None and kept.exists() else KeptMapping()


def _to_act(config: SpatialVLAConfig, mapping: KeptMapping, folder: Path | None) -> Start:
    source = config.start.policy if folder is None else folder
    if source is None:
        raise InputError(
            "There is neither a dataset to train on nor a checkpoint to act with; give --policy.path, or "
            "--policy.start.policy."
        )
    base = config.start.base if folder is None else None
    model = SpatialVLA.from_pretrained(source, dtype=config.dtype, base=base)
    return Start(model, Processor.from_pretrained(source), mapping, config.dataset)


def _to_train(folder: Path) -> SpatialVLA:
    if is_adapter(folder):
        return load_unmerged(SpatialVLA, folder, torch.float32)
    return SpatialVLA.from_pretrained(folder)


def _begun(
    config: SpatialVLAConfig,
    data: LeRobotDatasetMetadata,
    mapping: KeptMapping,
    key: str,
    folder: Path | None,
) -> Start:
    """As spatialvla's own training begins: the grid, statistics and cameras come from the dataset."""
    check_motion(mapping.mapping)
    run = replace(config.run(), datasets=(DatasetConfig(str(data.root), key=key),))
    if folder is not None:
        run = replace(run, policy=str(folder), base=None)
    network = network_config(run)
    source = open_source(
        data.root,
        mapping=replace(mapping.mapping, key=key),
        cameras=network.cameras[1:],
        state=run.state or network.state_size > 0,
    )
    mixture = mixture_of([source], run, network, ALONE, Progress(run, None))
    model, processor = build(run, mixture)
    processor = replace(processor, default_dataset=key)
    try:
        check_gripper(processor.dataset_statistics(key))
    except InputError as error:
        raise InputError(
            f"{error} Or say by --policy.mapping, a YAML file, what its numbers mean: 'gripper: {{min: -1, max: 1, "
            "open: 0}}'."
        ) from None
    return Start(model, processor, mapping, key, run.policy)


def _mark_done(config: SpatialVLAConfig, model: SpatialVLA) -> None:
    begun, chunk = config.start, model.config.action_chunk_size
    config.mapping = None
    config.start = StartOptions(
        policy=begun.policy,
        base=begun.base,
        chunk_size=chunk,
        freeze_text_embeddings=begun.freeze_text_embeddings,
        freeze_vision_tower=begun.freeze_vision_tower,
    )
    config.network = NetworkOptions(preset=config.network.preset)
