"""The options that say which datasets to train on; the verbs that train, and `data grid`, share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, arg

from spatialvla.errors import InputError
from spatialvla.training.config import DatasetConfig


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """Which datasets to train on."""

    dataset: tuple[str, ...] = ()
    """Folders, URLs or Hub ids of RLDS, LeRobot or RH20T datasets."""

    weights: tuple[float, ...] = ()
    """How often each sample of each dataset is drawn an epoch; 1 unless given."""

    mapping: tuple[Path, ...] = ()
    """YAML files that say what the features of LeRobot datasets mean: one, or one for each."""

    camera: str | None = None
    """RGB feature of LeRobot datasets to look through, instead of the mapping's; None: the only one."""

    copy: Literal["auto", "original", "repaired"] = "auto"
    """Whether RLDS files have the published ones' known faults (colors, failures); auto finds out, where they tell."""

    mixture: str | None = None
    """A published mixture of Open X-Embodiment, such as oxe_spatial_vla_plus, instead of --dataset."""

    root: str | None = None
    """Folder or URL that holds the mixture's datasets: a folder each, under any of the dataset's names."""

    def configurations(self) -> tuple[DatasetConfig, ...]:
        """Raises InputError where the numbers of options do not match, or nothing is named."""
        return tuple(replace(dataset, copy=self.copy) for dataset in self._named())

    def _named(self) -> tuple[DatasetConfig, ...]:
        if self.mixture is not None:
            if self.root is None:
                raise InputError("A --mixture takes its datasets from --root; name their folder.")
            if self.dataset or self.weights or self.mapping or self.camera:
                raise InputError(
                    "A --mixture has datasets, weights and cameras of its own; leave --dataset, --weights, "
                    "--mapping and --camera out."
                )
            return _mixture(self.mixture, self.root)
        if self.root is not None:
            raise InputError("--root is of a --mixture; name one, or leave it out.")
        if not self.dataset:
            raise InputError("There is nothing to train on; give --dataset, or --mixture and --root.")
        count = len(self.dataset)
        weights = self.weights or (1.0,) * count
        mappings: Sequence[Path | None] = self.mapping * count if len(self.mapping) == 1 else self.mapping
        mappings = mappings or [None] * count
        if len(weights) != count or len(mappings) != count:
            raise InputError(f"{count} datasets need as many --weights and --mapping, or none.")
        return tuple(
            DatasetConfig(path, weight, file, self.camera)
            for path, weight, file in zip(self.dataset, weights, mappings, strict=True)
        )


FlatDatasetOptions = Annotated[DatasetOptions, OmitArgPrefixes, arg(name="dataset")]
"""The options without a prefix: --mapping, not --dataset.mapping."""


def _mixture(name: str, root: str) -> tuple[DatasetConfig, ...]:
    from spatialvla.data.oxe.folders import mixture_folders
    from spatialvla.data.oxe.mixtures import mixture

    weights = mixture(name)
    folders = zip(mixture_folders(tuple(weights), root), weights.items(), strict=True)
    return tuple(DatasetConfig(folder, weight, spec=dataset) for folder, (dataset, weight) in folders)
