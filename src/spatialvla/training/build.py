"""The model and the processor a run starts from."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from spatialvla.data.samples import EpisodeSamples
from spatialvla.errors import CheckpointError, InputError
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.processor import Processor
from spatialvla.tokenizer import hugging_face_files, train_tokenizer
from spatialvla.training.config import TrainConfig
from spatialvla.vision.camera import Camera


def build_model(config: TrainConfig) -> SpatialVLA:
    """The initial checkpoint, or the preset with random weights, with the trained depth estimator in it.

    Raises InputError where depth is to be estimated by an estimator that nobody trained.
    """
    if config.initial is not None:
        model = SpatialVLA.from_pretrained(config.initial)
    else:
        model = SpatialVLA(SpatialVLAConfig.preset(config.preset))
        calm_residuals(model)
    if config.depth_weights is not None:
        load_depth(model, config)
    elif config.initial is None and (config.depth == "estimate" or config.depth_mix > 0):
        raise InputError(
            "The depth estimator of a new model is untrained; give depth_weights= (from `train_depth`), or "
            "train with depth='sensor'."
        )
    return model


@torch.no_grad()
def calm_residuals(model: SpatialVLA) -> None:
    """Scales what SigLIP's layers add by (2 * layers)^-1/2, as GPT-2 does.

    Its published initialisation is for large batches. From scratch with small ones the residual stream was seen to
    grow until all images looked alike behind the last norm.
    """
    factor = (2 * model.config.siglip.num_hidden_layers) ** -0.5
    for name, parameter in model.vision_tower.named_parameters():
        if name.endswith(("self_attn.out_proj.weight", "mlp.fc2.weight")):
            parameter.mul_(factor)


def load_depth(model: SpatialVLA, config: TrainConfig) -> None:
    """Copies the weights that `train_depth` wrote into the model."""
    assert config.depth_weights is not None
    path = config.depth_weights / "model.safetensors"
    try:
        model.vision_zoe_model.load_state_dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} holds no depth weights ({error}); train them first.") from error
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} does not fit the depth estimator of {config.preset}: {error}"
        ) from error


def build_processor(config: TrainConfig, model: SpatialVLA, samples: EpisodeSamples) -> Processor:
    """A processor that knows the dataset's statistics and camera.

    A new model gets a tokenizer made from the instructions and a grid fitted to the actions.
    Raises InputError where the grid's size is not the model's.
    """
    statistics = {config.key: samples.statistics()}
    cameras = {} if samples.intrinsics is None else {config.key: _typical_camera(samples)}
    if config.initial is not None:
        old = Processor.from_pretrained(config.initial)
        return replace(old, statistics={**old.statistics, **statistics}, cameras={**old.cameras, **cameras})
    if not cameras:
        raise InputError(
            f"{config.dataset} has no observation.intrinsics; a new model needs to know its camera."
        )
    network = model.config
    grid = samples.fit_grid(config.bins, config.min_sigma)
    wanted = (network.translation_token_num, network.rotation_token_num)
    if (grid.n_translation, grid.n_rotation) != wanted:
        raise InputError(
            f"bins give {grid.n_translation} translation and {grid.n_rotation} rotation tokens, but the "
            f"preset {config.preset} has {wanted[0]} and {wanted[1]}; choose bins with those products."
        )
    texts = list(samples.instructions)
    if config.instructions is not None:
        texts += json.loads(config.instructions.read_text())
    return Processor(
        tokenizer=train_tokenizer(
            [text.lower() for text in texts], network.action_token_begin_idx, network.spatial_token_num
        ),
        grid=grid,
        statistics=statistics,
        cameras={"default": cameras[config.key], **cameras},
        image_size=network.image_size,
        image_token_num=network.image_token_num,
        action_chunk_size=network.action_chunk_size,
        files=hugging_face_files(network.image_size, network.image_token_num),
    )


def _typical_camera(samples: EpisodeSamples) -> Camera:
    assert samples.intrinsics is not None
    height, width = samples.images.shape[1:3]
    return Camera(np.median(samples.intrinsics, axis=0), height, width)
