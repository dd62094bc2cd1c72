"""Which parameters a run trains: all, adapters, or what a new robot's grid needs; and how the others are kept."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from spatialvla.model.lora import adapter_parameters, base_names
from spatialvla.model.spatialvla import SpatialVLA

Mode = Literal["full", "lora", "adapt"]

TEXT_EMBEDDINGS = "language_model.model.embed_tokens.weight"
DEPTH_ESTIMATOR = "vision_zoe_model."
ADAPTED = ("spatial_embed_tokens.", "position_embedding_3d.", "state_projector.")


def select_trainable(
    model: SpatialVLA, mode: Mode, *, text_embeddings: bool = False, vision_tower: bool = True
) -> None:
    """Freezes every parameter that the mode does not train; ZoeDepth is frozen in all of them.

    full: everything but the text embeddings, which `text_embeddings` trains too (for models from scratch).
    lora: the adapters that `add_lora` added, what it trains whole of the state, and of others where its options say so.
    adapt: the spatial embeddings, Ego3D's MLP and what reads the state. The head is not trained: a gradient for its
    action rows alone is one for all of its 265k rows, with optimizer state to match, and would let fine-tuning for a
    new robot no longer fit a small GPU.
    vision_tower: whether SigLIP, or its adapters, are trained in the modes full and lora.
    Modules without a trainable parameter are put, and by `SpatialVLA.train` kept, in eval mode.
    Raises InputError for "lora" without adapters.
    """
    match mode:
        case "full":
            frozen = () if text_embeddings else (TEXT_EMBEDDINGS,)
            chosen = {name for name, _ in model.named_parameters() if name not in frozen}
        case "lora":
            adapters = {id(parameter) for parameter in adapter_parameters(model).values()}
            chosen = {name for name, parameter in model.named_parameters() if id(parameter) in adapters}
        case "adapt":
            chosen = {name for name, _ in model.named_parameters() if name.startswith(ADAPTED)}
    frozen_parts = (DEPTH_ESTIMATOR,) if vision_tower else (DEPTH_ESTIMATOR, "vision_tower.")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen and not name.startswith(frozen_parts))
    model.train(model.training)


def left_to_base(model: SpatialVLA, mode: Mode, other_depth: bool) -> frozenset[str]:
    """The names of the tensors that stay as they follow from the policy that a run starts from; none of mode full.

    other_depth: whether the depth estimator is not that policy's.
    """
    match mode:
        case "full":
            return frozenset()
        case "lora":
            return base_names(model)
        case "adapt":
            own = (*ADAPTED, DEPTH_ESTIMATOR) if other_depth else ADAPTED
            return frozenset(name for name in model.state_dict() if not name.startswith(own))


def narrow_frozen(model: SpatialVLA) -> None:
    """Keeps the frozen matrices in bfloat16, in place: half their memory.

    Where products are computed in bfloat16 that changes no number of a step: each matrix was rounded for its
    product anyway. ZoeDepth stays as it is, as frames may also be estimated in float32.
    """
    words = model.language_model.model.embed_tokens
    for name, module in model.named_modules():
        kept = name.startswith(DEPTH_ESTIMATOR) or "lora_" in name
        if (isinstance(module, nn.Linear) or module is words) and not kept:
            for parameter in module.parameters(recurse=False):
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(torch.bfloat16)
