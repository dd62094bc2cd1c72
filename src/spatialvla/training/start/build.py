"""The model and the processor a run starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from spatialvla.actions.bins import Bins, read_gaussians
from spatialvla.actions.grids import ActionGrid
from spatialvla.common.json_files import parse_value
from spatialvla.common.manifest import check_file
from spatialvla.common.schema import parse
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.errors import CheckpointError, InputError
from spatialvla.geometry.camera import Camera
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.folders import SHIPPED, is_adapter, resolve_folder
from spatialvla.model.growth import give_inputs
from spatialvla.model.loading import check_text_head, stored_config
from spatialvla.model.lora import add_lora, check_saved
from spatialvla.model.lora_options import LoraOptions
from spatialvla.model.paligemma import initial_config, initial_model
from spatialvla.model.presets import preset
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.model.weights import read_tensors
from spatialvla.processor import Processor
from spatialvla.tokenizer import hugging_face_files, train_tokenizer
from spatialvla.training.config import TrainConfig
from spatialvla.training.run.lasting_names import instructions_file
from spatialvla.training.start.adapt import adapt
from spatialvla.training.start.initial_processor import initial_processor
from spatialvla.training.start.inputs import asked_inputs, with_inputs
from spatialvla.training.start.scales import meant_for, warn_of_other_scales
from spatialvla.vision.depth import ZoeDepth


def network_config(config: TrainConfig) -> SpatialVLAConfig:
    """The configuration of the network that a run starts from.

    A state that a new network is to have as the datasets have it is not in there yet.
    Raises InputError where adapters would be added onto an adapter, or a policy has what it is to be given, and
    CheckpointError where a folder cannot be used.
    """
    network = asked_inputs(config, _own_network_config(config))
    return network.replace(action_chunk_size=config.chunk_size or network.action_chunk_size)


def check_start(config: TrainConfig, network: SpatialVLAConfig) -> None:
    """Raises InputError or CheckpointError for what `build` would refuse only once the datasets have been read.

    network: of `network_config`.
    """
    if config.gaussians is not None:
        read_gaussians(config.gaussians)
    if config.instructions is not None:
        _listed_texts(config.instructions)
    if config.depth_weights is not None:
        _check_depth(config.depth_weights, network)
    if config.mode == "lora" and config.lora.modules_to_save:
        with torch.device("meta"):
            check_saved(SpatialVLA(network), config.lora)


def build(config: TrainConfig, mixture: TrainingMixture) -> tuple[SpatialVLA, Processor]:
    """Model, on the CPU and in float32, and processor, as `TrainConfig` says.

    Raises InputError where depth is to be estimated by an estimator that nobody trained; CheckpointError where a
    folder cannot be used.
    """
    if config.policy is not None:
        model, processor = _from_checkpoint(config, mixture)
    elif config.paligemma is not None:
        model, processor = _from_parts(config, mixture)
    else:
        model, processor = _from_nothing(config, mixture)
    chunk = config.chunk_size or model.config.action_chunk_size
    model.config = model.config.replace(action_chunk_size=chunk)
    return model, replace(with_inputs(processor, model.config, mixture), action_chunk_size=chunk)


def _give_asked(model: SpatialVLA, config: TrainConfig, mixture: TrainingMixture) -> None:
    """Gives a network what the run asks for that its own does not have, before anything is added to it."""
    give_inputs(model, asked_inputs(config, model.config, len(mixture.state_names)))


def _check_depth(weights: Path, network: SpatialVLAConfig) -> None:
    resolve_folder(weights)
    if not network.use_vision_zoe:
        raise InputError(
            "The policy has no depth estimator that another could replace; leave --depth-weights out."
        )
    if network.quantization is not None and network.quantization.towers:
        raise InputError(
            "The policy has its depth estimator in 4 bits, which none of --depth-weights can replace; leave that out, "
            "or take the checkpoint that the policy was made of."
        )


def _own_network_config(config: TrainConfig) -> SpatialVLAConfig:
    if config.policy is not None:
        if config.mode == "lora" and is_adapter(resolve_folder(config.policy)):
            raise InputError(
                f"{config.policy} is an adapter, and LoRA starts from a whole checkpoint; make it one with "
                f"spatialvla export --policy {config.policy} --merge --out FOLDER."
            )
        network = stored_config(config.policy, config.base)
        if network.quantization is not None and config.mode != "lora":
            raise InputError(
                f"{config.policy} has its weights in 4 bits, on which adapters alone can be trained; take --mode "
                "lora, or the checkpoint that it was made of."
            )
        check_text_head(network, config.policy)
        return network
    if config.paligemma is not None:
        return initial_config(
            resolve_folder(config.paligemma), resolve_folder(_zoedepth(config)), config.bins
        )
    return preset(config.preset, config.bins)


def _from_checkpoint(config: TrainConfig, mixture: TrainingMixture) -> tuple[SpatialVLA, Processor]:
    assert config.policy is not None
    model = SpatialVLA.from_pretrained(config.policy, base=config.base)
    _give_asked(model, config, mixture)
    processor = Processor.from_pretrained(config.policy)
    if config.depth_weights is not None:
        load_depth(model.vision_zoe_model, config.depth_weights)
    warn_of_other_scales(resolve_folder(config.policy), processor, mixture)
    if config.new_grid or config.mode == "adapt":
        grid = _grid(config, mixture, processor.grid.bins)
        processor = adapt(model, processor, grid, mixture.statistics(), mixture.cameras())
    else:
        processor = replace(
            processor,
            statistics={**processor.statistics, **mixture.statistics()},
            cameras={**processor.cameras, **mixture.cameras()},
        )
    processor = replace(
        processor,
        units={**processor.units, **mixture.units()},
        # A policy of one robot is meant for that robot; of several, the user has to say which.
        default_dataset=meant_for(mixture, bool(model.config.state_size)),
    )
    if config.mode == "lora":
        add_lora(model, config.policy, _lora_options(config), other_depth=config.depth_weights is not None)
    return model, processor


def _lora_options(config: TrainConfig) -> LoraOptions:
    """As configured; the action embeddings are trained whole where they were adapted to a new grid, as published."""
    lora, name = config.lora, "spatial_embed_tokens"
    if not config.new_grid or lora.target != "linear" or name in lora.modules_to_save:
        return lora
    return replace(lora, modules_to_save=(*lora.modules_to_save, name))


def _from_parts(config: TrainConfig, mixture: TrainingMixture) -> tuple[SpatialVLA, Processor]:
    assert config.paligemma is not None
    model = initial_model(config.paligemma, _zoedepth(config), bins=config.bins)
    _give_asked(model, config, mixture)
    grid = _grid(config, mixture, config.bins)
    cameras = _with_default(mixture)
    processor = initial_processor(config.paligemma, model.config, grid, mixture.statistics(), cameras)
    return model, replace(processor, units=mixture.units())


def _from_nothing(config: TrainConfig, mixture: TrainingMixture) -> tuple[SpatialVLA, Processor]:
    model = SpatialVLA(preset(config.preset, config.bins))
    scale_residuals(model)
    _give_asked(model, config, mixture)
    shipped = SHIPPED / config.preset
    if config.depth_weights is not None:
        load_depth(model.vision_zoe_model, config.depth_weights)
    elif shipped.is_dir():
        load_depth(model.vision_zoe_model, shipped)
    elif config.depth == "estimate" or config.guidance.depth_mix > 0:
        raise InputError(
            "The depth estimator of a new model is untrained; give --depth-weights, a policy or a folder that "
            "`spatialvla train-depth` wrote, or train with --depth sensor."
        )
    return model, _new_processor(config, model.config, mixture)


def _grid(config: TrainConfig, mixture: TrainingMixture, bins: Bins) -> ActionGrid:
    if config.grid == "uniform":
        return ActionGrid.uniform(bins)
    if config.gaussians is not None:
        return ActionGrid.from_gaussians(read_gaussians(config.gaussians), config.min_sigma, bins)
    return mixture.fit_grid(bins, config.min_sigma)


def _zoedepth(config: TrainConfig) -> str:
    if config.zoedepth is None:
        raise InputError("PaliGemma 2 estimates no depth; name the folder of a ZoeDepth, too.")
    return config.zoedepth


@torch.no_grad()
def scale_residuals(model: SpatialVLA) -> None:
    """Scales what SigLIP's layers add by (2 * layers)^-1/2, as GPT-2 does.

    Its published initialization is for large batches. From scratch with small ones the residual stream was seen to
    grow until all images looked alike behind the last norm.
    """
    factor = (2 * model.config.siglip.num_hidden_layers) ** -0.5
    for name, parameter in model.vision_tower.named_parameters():
        if name.endswith(("self_attn.out_proj.weight", "mlp.fc2.weight")):
            parameter.mul_(factor)


def load_depth(estimator: ZoeDepth, source: Path) -> None:
    """Copies a depth estimator's weights. source: what `train_depth` wrote, or a policy.

    Raises CheckpointError where it holds none of the model's size.
    """
    folder = resolve_folder(source)
    if is_adapter(folder) or (folder / "config.json").exists():
        weights = SpatialVLA.from_pretrained(folder).vision_zoe_model.state_dict()
    else:
        check_file(folder / "model.safetensors")
        weights = {name: tensor for _, name, tensor in read_tensors(folder)}
    own = {name: tensor.shape for name, tensor in estimator.state_dict().items()}
    if {name: tensor.shape for name, tensor in weights.items()} != own:
        raise CheckpointError(
            f"{folder} holds no depth estimator of the size of the model's; give another policy, or the folder "
            "that `spatialvla train-depth` wrote."
        )
    estimator.load_state_dict(weights)


def _new_processor(config: TrainConfig, network: SpatialVLAConfig, mixture: TrainingMixture) -> Processor:
    """A tokenizer made from the instructions, and a grid fitted to the actions."""
    grid = _grid(config, mixture, config.bins)
    texts = mixture.instructions()
    if config.instructions is not None:
        texts += _listed_texts(config.instructions)
    return Processor(
        tokenizer=train_tokenizer(
            [Processor.prompt(text) for text in texts],
            network.action_token_begin_idx,
            network.spatial_token_num,
        ),
        grid=grid,
        statistics=mixture.statistics(),
        cameras=_with_default(mixture),
        image_size=network.image_size,
        image_token_num=network.image_token_num,
        action_chunk_size=network.action_chunk_size,
        units=mixture.units(),
        files=hugging_face_files(network.image_size, network.image_token_num),
    )


def _listed_texts(path: Path) -> list[str]:
    """Raises InputError where the file is no JSON list of texts."""
    path = instructions_file(path)
    try:
        return list(parse(tuple[str, ...], parse_value(path.read_bytes()), "the list"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no JSON list of instructions ({error}); correct it.") from None


def _with_default(mixture: TrainingMixture) -> Mapping[str, Camera]:
    """The datasets' cameras; bridge_orig's, or else the first, serves datasets without their own."""
    cameras = mixture.cameras()
    if not cameras:
        raise InputError(
            f"None of {', '.join(mixture.keys)} tells its camera; a new model needs the intrinsics of one at least."
        )
    default = next((camera for key, camera in cameras.items() if key.startswith("bridge_orig")), None)
    return {"default": default or next(iter(cameras.values())), **cameras}
