"""LeRobot's options for adapters -> spatialvla's, whose LoRA writes what every verb and peft itself can load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast, get_args

from spatialvla.errors import InputError
from spatialvla.model.lora_options import LoraOptions, LoraTarget


def lora_options(given: Mapping[str, Any], new_grid: bool) -> LoraOptions:
    """given: LeRobot's `PeftConfig` as a dictionary. new_grid: whether the policy was carried over to a new grid,
    whose action embeddings are then trained whole, as published.

    Raises InputError for what spatialvla's LoRA does not have.
    """
    method, target = given.get("method_type") or "LORA", given.get("target_modules") or "linear"
    if str(method).upper() != "LORA":
        raise InputError(
            f"SpatialVLA has adapters by LoRA alone, not by {method}; leave out --peft.method_type."
        )
    if target not in get_args(LoraTarget):
        raise InputError(
            f"--peft.target_modules is one of {', '.join(get_args(LoraTarget))}, as in the published scripts, not "
            f"{target!r}."
        )
    if given.get("init_type") not in (None, "gaussian"):
        raise InputError("SpatialVLA's adapters begin as published (gaussian); leave out --peft.init_type.")
    rank = int(given.get("r") or LoraOptions().rank)
    whole = dict.fromkeys(given.get("full_training_modules") or ())
    if new_grid and target == "linear":
        whole["spatial_embed_tokens"] = None
    alpha = float(given.get("lora_alpha") or rank)
    return LoraOptions(rank, alpha, target=cast(LoraTarget, target), modules_to_save=tuple(whole))
