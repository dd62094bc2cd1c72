"""Where checkpoint folders are: local, shipped with the package, or on the Hub."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from spatialvla.common.json_files import read_json
from spatialvla.errors import CheckpointError

SHIPPED = Path(__file__).parents[1] / "assets"
"""The folder of the checkpoints that come with the package."""

ADAPTER = "adapter_config.json"
"""The file that tells an adapter's folder from a whole checkpoint's."""


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
            f"{path_or_id!s} is not a checkpoint folder, a shipped model ({names}) or a Hub id that can be "
            f"reached ({type(error).__name__})."
        ) from None


def stored_dtype(path_or_id: str | Path) -> torch.dtype | None:
    """What config.json says the weights are stored in; None where it says nothing."""
    path = resolve_folder(path_or_id) / "config.json"
    config = read_json(path) if path.exists() else {}
    dtype = getattr(torch, str(config.get("dtype", config.get("torch_dtype"))), None)
    return dtype if isinstance(dtype, torch.dtype) else None
