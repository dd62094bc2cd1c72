"""Published checkpoint folders, read and written: whole models, and adapters onto their base."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch.utils._python_dispatch import TorchDispatchMode

from spatialvla.common.json_files import read_json, write_json
from spatialvla.errors import CheckpointError
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.weights import MAX_SHARD_SIZE, Filling, read_tensors, write_tensors

if TYPE_CHECKING:
    from spatialvla.model.spatialvla import SpatialVLA

SHIPPED = Path(__file__).parent.parent / "assets"
ADAPTER = "adapter_config.json"
"""The file that tells an adapter's folder from a whole checkpoint's."""

# Recent transformers renamed parts of BEiT and SigLIP. Each rule turns a newer name back into the published one;
# published names pass through unchanged, so this works with either.
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
    """The key in a published checkpoint of one of our model's tensors."""
    for pattern, replacement in _PUBLISHED_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def resolve_folder(path_or_id: str | Path, revision: str | None = None) -> Path:
    """The local folder of a checkpoint: a path, the name of a shipped one ("nano"), or a Hub id.

    Raises CheckpointError if there is no such folder and the Hub does not have it or cannot be reached.
    """
    folder = Path(path_or_id).expanduser()
    if folder.is_dir():
        return folder
    shipped = SHIPPED / str(path_or_id)
    if re.fullmatch(r"[\w-]+", str(path_or_id)) and shipped.is_dir():
        return shipped
    try:
        return Path(
            snapshot_download(str(path_or_id), revision=revision, allow_patterns=["*.json", "*.safetensors"])
        )
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        names = ", ".join(sorted(p.parent.name for p in SHIPPED.glob("*/config.json"))) or "none"
        raise CheckpointError(
            f"{path_or_id!s} is not a checkpoint folder, a shipped model ({names}) or a Hub id that can be reached "
            f"({type(error).__name__})."
        ) from None


def stored_dtype(path_or_id: str | Path) -> torch.dtype | None:
    """What config.json says the weights are stored in; None where it says nothing."""
    path = resolve_folder(path_or_id) / "config.json"
    config = read_json(path) if path.exists() else {}
    dtype = getattr(torch, str(config.get("dtype", config.get("torch_dtype"))), None)
    return dtype if isinstance(dtype, torch.dtype) else None


def load_model(
    kind: type[SpatialVLA],
    path_or_id: str | Path,
    dtype: torch.dtype,
    device: torch.device | str,
    revision: str | None,
) -> SpatialVLA:
    """See `SpatialVLA.from_pretrained`."""
    folder = resolve_folder(path_or_id, revision)
    if (folder / ADAPTER).exists():
        from spatialvla.model.lora import load_adapted  # peft is needed here only

        return load_adapted(kind, folder, dtype).to(device).eval()
    model = empty_model(kind, SpatialVLAConfig.from_folder(folder), dtype)
    filling = Filling(published_tensors(model))
    for file, key, tensor in read_tensors(folder):
        filling.take(file, key, tensor)
    filling.finish(folder)
    mirror_action_embeddings(model)
    return model.to(device).eval()


def save_model(model: SpatialVLA, folder: Path, max_shard_size: int | str = MAX_SHARD_SIZE) -> None:
    """See `SpatialVLA.save_pretrained`."""
    tensors = {key: tensor.detach().cpu() for key, tensor in published_tensors(model).items()}
    write_tensors(tensors, folder, max_shard_size)
    write_json(folder / "config.json", model.config.to_json())


def published_tensors(model: SpatialVLA) -> dict[str, torch.Tensor]:
    """The model's own tensors by their keys in a published checkpoint."""
    return {published_name(name): tensor for name, tensor in model.state_dict().items()}


def empty_model(kind: type[SpatialVLA], config: SpatialVLAConfig, dtype: torch.dtype) -> SpatialVLA:
    """A model to be filled: its random weights are zeros."""
    with _WithoutRandomWeights():
        return kind.from_config(config, dtype=dtype)


@torch.no_grad()
def mirror_action_embeddings(model: SpatialVLA) -> None:
    """Writes the spatial embeddings over the action rows of `embed_tokens` as published; ours does not read them."""
    actions = model.spatial_embed_tokens.weight
    model.language_model.model.embed_tokens.weight[-len(actions) :] = actions


class _WithoutRandomWeights(TorchDispatchMode):
    """New weights are zeros: loading overwrites each, and drawing 4 B random numbers takes a minute.

    Zeros rather than whatever the memory holds, because truncated draws are repeated until they are in range.
    """

    _DRAWS = (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0].zero_() if func in self._DRAWS else func(*args, **(kwargs or {}))
