"""What tells the weights that something was trained on from others of the same names and shapes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from spatialvla.common.json_files import read_json, write_json
from spatialvla.errors import CheckpointError
from spatialvla.model.folders import is_adapter, resolve_base, resolve_folder
from spatialvla.model.weights import read_samples, weight_files

BASE_DIGEST = "base_digest.json"
"""The file that holds it, in the folder of what was trained. peft would warn of an entry in adapter_config.json."""

_ENTRY = "weights"


def weights_digest(folder: Path, base: str | Path | None = None) -> str:
    """Of a checkpoint's tensors, however they are split over files; of an adapter's and its base's.

    Large tensors are read in parts, so that it takes a second or two of 8 GB. base: as of `resolve_base`.
    Raises CheckpointError where a file is missing or truncated.
    """
    adapter = is_adapter(folder)
    files = sorted(folder.glob("*.safetensors")) if adapter else weight_files(folder)
    digest = hashlib.sha256()
    for key, sample in sorted(
        (key, hashlib.sha256(sample).hexdigest()) for file in files for key, sample in read_samples(file)
    ):
        digest.update(f"{key} {sample}\n".encode())
    if adapter:
        digest.update(weights_digest(resolve_base(folder, base)).encode())
    return digest.hexdigest()[:24]


def known_digest(path_or_id: str | Path, base: str | Path | None = None) -> str | None:
    """Of a checkpoint by its name, without a request to the Hub; None where its files are not here."""
    try:
        return weights_digest(resolve_folder(path_or_id, fetch=False), base)
    except CheckpointError:
        return None


def write_digest(folder: Path, digest: str | None) -> None:
    """Writes the digest of the weights that the adapter or run in a folder belongs to; none where it is unknown."""
    if digest is None:
        (folder / BASE_DIGEST).unlink(missing_ok=True)
    else:
        write_json(folder / BASE_DIGEST, {_ENTRY: digest})


def check_digest(folder: Path, name: str, digest: str) -> None:
    """Raises CheckpointError where the adapter or run in a folder belongs to weights of another digest.

    name: of the checkpoint that has these. What older versions and others wrote does not tell, and passes.
    """
    file = folder / BASE_DIGEST
    if file.exists() and read_json(file).get(_ENTRY) != digest:
        raise CheckpointError(
            f"{name} holds other weights than those that {folder} was trained on; name the right checkpoint with "
            f"base=, on the command line --base, or, if these are meant, delete {file}."
        )
