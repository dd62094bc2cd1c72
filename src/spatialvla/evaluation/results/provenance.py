"""What was evaluated, exactly: the checkpoint's hash, how the policy was used, and decisive versions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from spatialvla.evaluation.results.policy_settings import PolicySettings
from spatialvla.model.folders import is_adapter, resolve_base
from spatialvla.policy import Policy

_DECISIVE_PACKAGES = ("spatialvla", "torch", "transformers", "numpy")


def hash_checkpoint(folder: Path, base: str | Path | None = None) -> str:
    """SHA-256 over the weights and settings of a checkpoint folder, names and contents.

    Of an adapter over those of its base, too. base: in place of the one that adapter_config.json names.
    """
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    if is_adapter(folder):
        digest.update(hash_checkpoint(resolve_base(folder, base)).encode())
    return digest.hexdigest()


def settings_of(policy: Policy) -> PolicySettings:
    """What, beside its weights, decides what this policy does."""
    model = policy.model
    precision = model.optimization.precision if model.optimization else None
    dtype = str(model.dtype).removeprefix("torch.")
    return PolicySettings(
        execution=policy.execution,
        dataset=policy.dataset,
        speculate=policy.speculate,
        tolerance=policy.tolerance,
        depth_every=policy.depth_every,
        prompt=policy.prompt,
        temperature=policy.temperature,
        readout=policy.readout,
        dtype=f"{dtype}, {precision}" if precision else dtype,
    )


def installed_versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """Versions of what decides the outcome; packages that are not installed are left out.

    packages: beside those that every policy needs, such as the simulator's.
    """
    found = {}
    for name in (*_DECISIVE_PACKAGES, *packages):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
