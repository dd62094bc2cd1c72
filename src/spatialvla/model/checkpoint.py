"""Published checkpoint folders, read and written: safetensors only, every tensor accounted for."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from spatialvla.errors import CheckpointError
from spatialvla.files import replacing
from spatialvla.model.config import SpatialVLAConfig, read_json

if TYPE_CHECKING:
    from spatialvla.model.spatialvla import SpatialVLA

SHIPPED = Path(__file__).parent.parent / "assets"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

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


def load_model(
    kind: type[SpatialVLA],
    path_or_id: str | Path,
    dtype: torch.dtype,
    device: torch.device | str,
    revision: str | None,
) -> SpatialVLA:
    """See `SpatialVLA.from_pretrained`."""
    folder = resolve_folder(path_or_id, revision)
    config = SpatialVLAConfig.from_folder(folder)
    with _WithoutRandomWeights():
        model = kind.from_config(config, dtype=dtype)
    targets = {published_name(name): tensor for name, tensor in model.state_dict().items()}
    missing = set(targets)
    for file, key, tensor in _tensors(folder):
        if key not in targets:
            raise CheckpointError(f"{file} holds a tensor this model does not have: {key}.")
        if tensor.shape != targets[key].shape:
            raise CheckpointError(
                f"{key} in {file} has shape {tuple(tensor.shape)}, but config.json asks for "
                f"{tuple(targets[key].shape)}."
            )
        targets[key].copy_(tensor)
        missing.discard(key)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"{folder} lacks the tensor {min(missing)}{more}; download it again.")
    with torch.no_grad():
        actions = model.spatial_embed_tokens.weight
        model.language_model.model.embed_tokens.weight[-len(actions) :] = actions
    return model.to(device).eval()


def save_model(model: SpatialVLA, folder: Path) -> None:
    """See `SpatialVLA.save_pretrained`."""
    tensors = {published_name(k): v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    needed = sum(tensor.nbytes for tensor in tensors.values())
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(
            f"Saving to {folder} takes {needed / 1e9:.2f} GB and only {free / 1e9:.2f} GB are free; "
            "make room or choose another disk."
        )
    with replacing(folder / WEIGHTS) as partial:
        save_file(tensors, partial, metadata={"format": "pt"})
        partial.chmod(0o644)  # safetensors lets nobody else read it
    write_json(folder / "config.json", model.config.to_json())


def write_json(path: Path, content: object) -> None:
    """Writes JSON to a temporary file first, so that a reader never sees half of it."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class _WithoutRandomWeights(TorchDispatchMode):
    """New weights are zeros: loading overwrites each, and drawing 4 B random numbers takes a minute.

    Zeros rather than whatever the memory holds, because truncated draws are repeated until they are in range.
    """

    _DRAWS = (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return args[0].zero_() if func in self._DRAWS else func(*args, **(kwargs or {}))


def _tensors(folder: Path) -> Iterator[tuple[Path, str, torch.Tensor]]:
    for file in _weight_files(folder):
        try:
            with safe_open(file, "pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118  (not a mapping)
                    yield file, key, tensors.get_tensor(key)
        except SafetensorError as error:
            raise CheckpointError(
                f"{file} is not a complete safetensors file ({error}); download it again."
            ) from None


def _weight_files(folder: Path) -> list[Path]:
    if (folder / INDEX).exists():
        names = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
        files = [folder / name for name in names]
    else:
        files = [folder / WEIGHTS]
    for file in files:
        if not file.exists():
            raise CheckpointError(f"{file} does not exist; only safetensors weights are loaded.")
    return files
