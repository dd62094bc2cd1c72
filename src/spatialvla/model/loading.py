"""From a checkpoint's folder to a network: whole checkpoints, and adapters onto their base."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch

from spatialvla.actions.grids import ActionGrid
from spatialvla.common.json_files import read_json
from spatialvla.errors import CheckpointError, InputError
from spatialvla.model.base_digest import check_digest, weights_digest
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.folders import ADAPTER, base_name, is_adapter, resolve_base, resolve_folder
from spatialvla.model.growth import give_inputs
from spatialvla.model.lora import INPUTS, REGRIDDED, is_regridded, merge_lora, restore_lora, stored_lora
from spatialvla.model.published import N, empty_network, mirror_action_embeddings, published_tensors
from spatialvla.model.quantization.network import check_scales, empty_quantized
from spatialvla.model.regrid import regrid, regridded_config
from spatialvla.model.weights import Filling, read_shapes, read_tensors

PROCESSOR = "processor_config.json"

log = logging.getLogger(__name__)


def load(
    kind: type[N],
    path_or_id: str | Path,
    dtype: torch.dtype,
    revision: str | None = None,
    base: str | Path | None = None,
    token: str | bool | None = None,
) -> N:
    """The network in a folder or Hub id, on the CPU and in eval mode; an adapter is merged into its base.

    base: an adapter's, in place of the one that its adapter_config.json names.
    Raises CheckpointError if a file is missing or truncated, or a tensor is missing, extra, misshapen or not
    finite, InputError if a base is given for a whole checkpoint.
    """
    folder = resolve_folder(path_or_id, revision, token)
    log.debug("%s of %s is in %s", "an adapter" if is_adapter(folder) else "a network", path_or_id, folder)
    if is_adapter(folder):
        network = load_unmerged(kind, folder, dtype, base=base)
        merge_lora(network)
        network.regridded = network.grown = False
    elif base is not None:
        raise InputError(f"{folder} is a whole checkpoint, which has no base; leave the base out.")
    else:
        network = _load_whole(kind, folder, dtype)
    return network.eval()


def load_unmerged(
    kind: type[N],
    folder: Path,
    dtype: torch.dtype,
    trained: Mapping[str, torch.Tensor] | None = None,
    base: str | Path | None = None,
) -> N:
    """An adapter's base, with the adapter apart from it and trainable.

    An adapter that is marked as trained on a regridded base gets it so, and one with more cameras, a state or another
    frame gets a base that has them; others get the base as it is, which is how the published code means them.
    trained: tensors of a network with adapters by its own names, to take instead of those in the folder.
    base: in place of the one that the folder's adapter_config.json names.
    Raises CheckpointError where the base is not to be found, does not fit, or holds other weights than the adapter
    was trained on, InputError without peft.
    """
    config = stored_lora(folder)
    config.base_model_name_or_path = base_name(folder, base)
    base_folder = resolve_base(folder, base)
    digest = weights_digest(base_folder)
    network = load(kind, base_folder, dtype)
    network.base_digest = digest
    check_text_head(network.config, base_folder)
    check_digest(folder, config.base_model_name_or_path, digest)
    if is_regridded(folder):
        old, new = (ActionGrid.from_json(read_json(part / PROCESSOR)) for part in (base_folder, folder))
        regrid(network, old, new)
    else:
        _check_unmarked(folder, network.config)
    give_inputs(network, _with_own_inputs(network.config, folder))
    restore_lora(network, config, folder, trained)
    network.config = _with_own_chunk(network.config, folder)
    return network


def check_text_head(config: SpatialVLAConfig, folder: str | Path) -> None:
    """Raises CheckpointError where a network cannot learn to end a chunk, having forgotten the token that does."""
    if config.quantization is not None and not config.quantization.text_head:
        raise CheckpointError(
            f"{folder} has its weights in 4 bits and has forgotten its head's rows of text, without which no adapter "
            "is trained or added; export it again with --text-head."
        )


def stored_config(path_or_id: str | Path, base: str | Path | None = None) -> SpatialVLAConfig:
    """The configuration of the network that `load` makes of the same arguments, without its weights."""
    folder = resolve_folder(path_or_id)
    if not is_adapter(folder):
        return SpatialVLAConfig.from_folder(folder)
    config = stored_config(resolve_base(folder, base))
    if is_regridded(folder):
        config = regridded_config(config, ActionGrid.from_json(read_json(folder / PROCESSOR)))
    return _with_own_chunk(_with_own_inputs(config, folder), folder)


def _with_own_inputs(base: SpatialVLAConfig, folder: Path) -> SpatialVLAConfig:
    """A base's configuration with the cameras, the state, the frame and the workspace that its adapter was given.

    Raises CheckpointError where adapter_config.json tells none that the base can have.
    """
    stored = read_json(folder / ADAPTER).get(INPUTS)
    if stored is None:
        return base
    try:
        config = base.with_inputs(stored)
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"{folder / ADAPTER}: {INPUTS} cannot be used ({str(error).rstrip('.')}); copy the folder again."
        ) from None
    if config.cameras[: len(base.cameras)] != base.cameras or base.state_size not in (0, config.state_size):
        raise CheckpointError(
            f"The adapter in {folder} belongs to another base: it has the cameras {', '.join(config.cameras)} and "
            f"{config.state_size} numbers of state, the base {', '.join(base.cameras)} and {base.state_size}."
        )
    return config


def _with_own_chunk(config: SpatialVLAConfig, folder: Path) -> SpatialVLAConfig:
    """A base's configuration with the length of chunk that the processor beside its adapter has."""
    stored = read_json(folder / PROCESSOR) if (folder / PROCESSOR).exists() else {}
    chunk = stored.get("action_chunk_size", config.action_chunk_size)
    if not isinstance(chunk, int) or chunk < 1:
        raise CheckpointError(f"{folder / PROCESSOR} has an action_chunk_size of {chunk!r}; correct it.")
    return config.replace(action_chunk_size=chunk)


def _check_unmarked(folder: Path, config: SpatialVLAConfig) -> None:
    """An adapter whose base stays as it is has as many action tokens as the base."""
    if not (folder / PROCESSOR).exists():
        return
    grid = ActionGrid.from_json(read_json(folder / PROCESSOR))
    if (grid.n_translation, grid.n_rotation) != (config.translation_token_num, config.rotation_token_num):
        raise CheckpointError(
            f"The grid beside the adapter in {folder} has {grid.size} tokens, its base "
            f"{config.spatial_token_num}; "
            f'if this package trained it on a regridded base, add "{REGRIDDED}": true to adapter_config.json.'
        )


def _load_whole(kind: type[N], folder: Path, dtype: torch.dtype) -> N:
    config = SpatialVLAConfig.from_folder(folder)
    _check_shapes(kind, config, folder)
    network = _empty(kind, config, dtype)
    filling = Filling(published_tensors(network))
    for file, key, tensor in read_tensors(folder):
        filling.take(file, key, tensor)
    filling.finish(folder)
    mirror_action_embeddings(network)
    if config.quantization is not None:
        check_scales(network, folder)
    return network


def _empty(kind: type[N], config: SpatialVLAConfig, dtype: torch.dtype) -> N:
    return (empty_network if config.quantization is None else empty_quantized)(kind, config, dtype)


def _check_shapes(kind: type[N], config: SpatialVLAConfig, folder: Path) -> None:
    """Raises CheckpointError where the files hold other tensors than config.json asks for; it allocates nothing."""
    try:
        with torch.device("meta"):
            wanted = Filling(published_tensors(_empty(kind, config, torch.float32)))
    except Exception as error:  # whatever torch and transformers make of sizes that do not fit together
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{folder}/config.json describes no network that can be built ({reason})."
        ) from None
    for file, key, shape in read_shapes(folder):
        wanted.check(file, key, shape)
    wanted.finish(folder)
