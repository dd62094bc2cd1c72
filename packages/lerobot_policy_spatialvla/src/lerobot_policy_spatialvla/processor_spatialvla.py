"""The pipelines around the policy: LeRobot's own steps, which rename, batch and move, and normalize nothing."""

from __future__ import annotations

from typing import Any

import torch
from lerobot.processor import PolicyAction, PolicyProcessorPipeline, make_default_pre_post_processors

from lerobot_policy_spatialvla.configuration_spatialvla import SpatialVLAConfig


def make_spatialvla_pre_post_processors(
    config: SpatialVLAConfig, dataset_stats: dict[str, dict[str, torch.Tensor]] | None = None
) -> tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]],
    PolicyProcessorPipeline[PolicyAction, PolicyAction],
]:
    """The policy holds its own processor, as every checkpoint does; it sees images and numbers as they are."""
    pipelines = make_default_pre_post_processors(config, dataset_stats, normalizer_device=config.device)
    return pipelines  # type: ignore[no-any-return]  # LeRobot's are not typed where it is not installed
