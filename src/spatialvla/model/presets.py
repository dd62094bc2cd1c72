"""Configurations by name: the published 4b and our own nano."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from spatialvla.actions.bins import NANO_BINS, Bins
from spatialvla.common.names import did_you_mean
from spatialvla.errors import InputError
from spatialvla.model.config import Gemma2Config, SpatialVLAConfig


def spatialvla_4b() -> SpatialVLAConfig:
    """The published size: PaliGemma 2 3B at 224 px with ZoeDepth NYU+KITTI, 4.03 B parameters."""
    return SpatialVLAConfig(
        text=Gemma2Config(vocab_size=257_153 + 8_194),
        vision={
            "hidden_size": 1152,
            "image_size": 224,
            "intermediate_size": 4304,
            "num_attention_heads": 16,
            "num_hidden_layers": 27,
            "patch_size": 14,
            "vision_use_head": False,
        },
        depth={
            "backbone_config": _beit(
                hidden_size=1024,
                image_size=384,
                intermediate_size=4096,
                layers=24,
                heads=16,
                out_indices=(6, 12, 18, 24),
            ),
            "neck_hidden_sizes": [256, 512, 1024, 1024],
            "bin_configurations": [
                {"name": "nyu", "n_bins": 64, "min_depth": 1e-3, "max_depth": 10.0},
                {"name": "kitti", "n_bins": 64, "min_depth": 1e-3, "max_depth": 80.0},
            ],
            "num_patch_transformer_layers": 4,
            "patch_transformer_hidden_size": 128,
            "patch_transformer_intermediate_size": 1024,
            "patch_transformer_num_attention_heads": 4,
        },
        # 256,000 entries of Gemma, 1,024 of <loc>, 128 of <seg>, then <image>.
        image_token_index=257_152,
        action_token_begin_idx=257_153,
    )


def nano() -> SpatialVLAConfig:
    """The small model a laptop trains and runs: 128 px, 64 image tokens."""
    text_vocabulary = 512
    translation = NANO_BINS.theta * NANO_BINS.phi * NANO_BINS.r
    rotation = NANO_BINS.roll * NANO_BINS.pitch * NANO_BINS.yaw
    return SpatialVLAConfig(
        text=Gemma2Config(
            vocab_size=text_vocabulary + translation + rotation + 2,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=48,
            query_pre_attn_scalar=48,
        ),
        vision={
            "hidden_size": 192,
            "image_size": 128,
            "intermediate_size": 512,
            "num_attention_heads": 4,
            "num_hidden_layers": 4,
            "patch_size": 16,
            "vision_use_head": False,
        },
        depth={
            "backbone_config": _beit(
                hidden_size=96,
                image_size=128,
                intermediate_size=256,
                layers=4,
                heads=4,
                out_indices=(1, 2, 3, 4),
            ),
            # Half the usual resolution: patches need 2 x 2 points each, and it trains three times as fast.
            "reassemble_factors": [2, 1, 0.5, 0.25],
            "neck_hidden_sizes": [32, 48, 64, 64],
            "fusion_hidden_size": 32,
            "bottleneck_features": 32,
            "num_relative_features": 16,
            "bin_embedding_dim": 32,
            "bin_configurations": [{"name": "nyu", "n_bins": 32, "min_depth": 1e-3, "max_depth": 10.0}],
        },
        image_token_index=4,
        action_token_begin_idx=text_vocabulary,
        translation_token_num=translation,
        rotation_token_num=rotation,
        n_freqs=8,
        depth_padding=0,
    )


def _beit(
    hidden_size: int,
    image_size: int,
    intermediate_size: int,
    layers: int,
    heads: int,
    out_indices: tuple[int, ...],
) -> Mapping[str, Any]:
    return {
        "model_type": "beit",
        "hidden_size": hidden_size,
        "image_size": image_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "patch_size": 16,
        "use_relative_position_bias": True,
        "reshape_hidden_states": False,
        "out_indices": list(out_indices),
        "out_features": [f"stage{index}" for index in out_indices],
    }


PRESETS: Mapping[str, Callable[[], SpatialVLAConfig]] = {"4b": spatialvla_4b, "nano": nano}


def preset(name: str, bins: Bins | None = None) -> SpatialVLAConfig:
    """A configuration by name, with an action token for each cell of such a grid; its own bins unless given.

    Raises InputError where there is none of that name.
    """
    if name not in PRESETS:
        raise InputError(f"There is no preset {name!r}; {did_you_mean(name, PRESETS)}")
    config = PRESETS[name]()
    if bins is None:
        return config
    translation, rotation = bins.theta * bins.phi * bins.r, bins.roll * bins.pitch * bins.yaw
    vocabulary = config.action_token_begin_idx + translation + rotation + 2
    return replace(
        config,
        text=replace(config.text, vocab_size=vocabulary),
        translation_token_num=translation,
        rotation_token_num=rotation,
    )
