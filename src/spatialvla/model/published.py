"""A network's tensors by the names they have in published checkpoints."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.network import Network

N = TypeVar("N", bound=Network)

# Recent transformers renamed parts of BEiT and SigLIP. Each rule turns a newer name back into the published
# one; published names pass through unchanged, so this works with either.
_PUBLISHED_NAMES = [
    (r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model."),
    (r"^(vision_zoe_model\.backbone\.)beit\.", r"\1"),
    (r"^(vision_zoe_model\.backbone\.)layers\.", r"\1encoder.layer."),
    (r"(backbone\.encoder\.layer\.\d+\.)attention\.([qkv])_proj\.", r"\1attention.attention.\2_proj."),
    (r"(backbone\..*)\.q_proj\.", r"\1.query."),
    (r"(backbone\..*)\.k_proj\.", r"\1.key."),
    (r"(backbone\..*)\.v_proj\.", r"\1.value."),
    (r"(backbone\.encoder\.layer\.\d+\.)attention\.o_proj\.", r"\1attention.output.dense."),
    (r"(backbone\.encoder\.layer\.\d+\.)mlp\.fc1\.", r"\1intermediate.dense."),
    (r"(backbone\.encoder\.layer\.\d+\.)mlp\.fc2\.", r"\1output.dense."),
    (
        r"(backbone\.encoder\.layer\.\d+\.)relative_position_bias\.",
        r"\1attention.attention.relative_position_bias.",
    ),
]


def published_name(name: str) -> str:
    """The key in a published checkpoint of one of our network's tensors."""
    for pattern, replacement in _PUBLISHED_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def published_tensors(network: Network) -> dict[str, torch.Tensor]:
    """The network's own tensors by their keys in a published checkpoint."""
    return {published_name(name): tensor for name, tensor in network.state_dict().items()}


def empty_network(kind: type[N], config: SpatialVLAConfig, dtype: torch.dtype) -> N:
    """A network to be filled: its random weights are zeros."""
    with _WithoutRandomWeights():  # type: ignore[no-untyped-call]  # torch's initializer has no types
        return kind.from_config(config, dtype=dtype)


@torch.no_grad()
def mirror_action_embeddings(network: Network) -> None:
    """Writes the spatial embeddings over `embed_tokens`'s action rows, which nothing reads, as published."""
    actions = network.spatial_embed_tokens.weight
    network.language_model.model.embed_tokens.weight[-len(actions) :] = actions


class _WithoutRandomWeights(TorchDispatchMode):
    """New weights are zeros: loading overwrites each, and drawing 4 B random numbers takes a minute.

    Zeros rather than whatever the memory holds, because truncated draws are repeated until they are in range.
    """

    _DRAWS = (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0].zero_() if func in self._DRAWS else func(*args, **(kwargs or {}))
