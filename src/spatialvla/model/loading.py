"""From a checkpoint's folder to a network: whole checkpoints, and adapters onto their base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from spatialvla.actions.grids import ActionGrid
from spatialvla.common.json_files import read_json
from spatialvla.errors import CheckpointError
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.folders import ADAPTER, resolve_folder
from spatialvla.model.lora import merge_lora, restore_lora, stored_lora
from spatialvla.model.published import N, empty_network, mirror_action_embeddings, published_tensors
from spatialvla.model.regrid import regrid
from spatialvla.model.weights import Filling, read_tensors

PROCESSOR = "processor_config.json"


def load(kind: type[N], path_or_id: str | Path, dtype: torch.dtype, revision: str | None = None) -> N:
    """The network in a folder or Hub id, on the CPU and in eval mode; an adapter is merged into its base.

    Raises CheckpointError if a file is missing or truncated, or a tensor is missing, extra, misshapen or not
    finite.
    """
    folder = resolve_folder(path_or_id, revision)
    if (folder / ADAPTER).exists():
        network = load_unmerged(kind, folder, dtype)
        merge_lora(network)
    else:
        network = _load_whole(kind, folder, dtype)
    return network.eval()


def load_unmerged(
    kind: type[N], folder: Path, dtype: torch.dtype, trained: Mapping[str, torch.Tensor] | None = None
) -> N:
    """The base that an adapter's folder names, with the adapter apart from it and trainable.

    Where the processor beside the adapter has another grid than the base's, the base is first carried over to
    it.
    trained: tensors of a network with adapters by its own names, to take instead of those in the folder.
    Raises CheckpointError where the base is not to be found or does not fit, InputError without peft.
    """
    config = stored_lora(folder)
    base = resolve_folder(config.base_model_name_or_path)
    if base.resolve() == folder.resolve():
        raise CheckpointError(f"{folder / ADAPTER} names its own folder as the base.")
    network = load(kind, base, dtype)
    if (folder / PROCESSOR).exists():
        old, new = (ActionGrid.from_json(read_json(part / PROCESSOR)) for part in (base, folder))
        if old != new:
            regrid(network, old, new)
    restore_lora(network, config, folder, trained)
    return network


def _load_whole(kind: type[N], folder: Path, dtype: torch.dtype) -> N:
    network = empty_network(kind, SpatialVLAConfig.from_folder(folder), dtype)
    filling = Filling(published_tensors(network))
    for file, key, tensor in read_tensors(folder):
        filling.take(file, key, tensor)
    filling.finish(folder)
    mirror_action_embeddings(network)
    return network
