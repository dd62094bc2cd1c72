"""The options that say which datasets to train on; the verbs that train, and `data grid`, share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import OmitArgPrefixes, arg

from spatialvla.errors import InputError
from spatialvla.training.config import DatasetConfig

if TYPE_CHECKING:
    from spatialvla.data.sources import DatasetKind

_NONE = "none"
"""In the place of a dataset that takes no such option."""


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """Which datasets to train on."""

    dataset: tuple[str, ...] = ()
    """Folders, URLs or Hub ids of RLDS, LeRobot or RH20T datasets, of which several may mix."""

    weights: tuple[float, ...] = ()
    """How often each sample of each dataset is drawn an epoch; 1 unless given."""

    mapping: tuple[str, ...] = ()
    """YAML files that say what LeRobot datasets' features mean: one for all of them, or one (or none) for each."""

    camera: tuple[str, ...] = ()
    """RGB features of LeRobot datasets, not the mapping's: one for all or one (or none) for each; a+b shows by both."""

    spec: tuple[str, ...] = ()
    """Specs of RLDS datasets, by name or YAML file: one for all of them, or one (or none) for each dataset."""

    copy: Literal["auto", "original", "repaired"] = "auto"
    """Whether RLDS files have the published ones' known faults (colors, failures); auto finds out, where they tell."""

    mixture: str | None = None
    """A published mixture of Open X-Embodiment, such as oxe_spatial_vla_plus, in place of --dataset or with it."""

    root: str | None = None
    """Folder or URL that holds the mixture's datasets: a folder each, under any of the dataset's names."""

    def configurations(self) -> tuple[DatasetConfig, ...]:
        """The mixture's datasets, then those that are named.

        Raises InputError where the numbers of options do not match, or nothing is named.
        """
        named = self._named()
        found = [*self._of_mixture(), *named]
        if not found:
            raise InputError("There is nothing to train on; give --dataset, or --mixture and --root.")
        return tuple(replace(dataset, copy=self.copy) for dataset in found)

    def _of_mixture(self) -> list[DatasetConfig]:
        if self.mixture is None:
            if self.root is not None:
                raise InputError("--root is of a --mixture; name one, or leave it out.")
            return []
        if self.root is None:
            raise InputError("A --mixture takes its datasets from --root; name their folder.")
        return _mixture(self.mixture, self.root)

    def _named(self) -> list[DatasetConfig]:
        own = {"weights": self.weights, "mapping": self.mapping, "camera": self.camera, "spec": self.spec}
        if not self.dataset:
            if given := [f"--{name}" for name, values in own.items() if values]:
                raise InputError(f"{', '.join(given)} is for --dataset; name one, or leave it out.")
            return []
        count = len(self.dataset)
        if len(self.weights) not in (0, count):
            raise InputError(f"{count} datasets need as many --weights, or none; got {len(self.weights)}.")
        weights = self.weights or (1.0,) * count
        mappings, cameras = self._each("mapping", "LeRobot"), self._each("camera", "LeRobot")
        rows = zip(self.dataset, weights, mappings, cameras, self._each("spec", "RLDS"), strict=True)
        return [
            DatasetConfig(path, weight, None if mapping is None else Path(mapping), camera, spec)
            for path, weight, mapping, camera, spec in rows
        ]

    def _each(self, option: Literal["mapping", "camera", "spec"], kind: DatasetKind) -> list[str | None]:
        """The option of each dataset. kind: which it is for."""
        given: Sequence[str] = getattr(self, option)
        count = len(self.dataset)
        if not given:
            return [None] * count
        if len(given) == count:
            return [None if value.lower() == _NONE else value for value in given]
        if len(given) > 1:
            raise InputError(
                f"{count} datasets need one --{option} for all {kind} datasets, or one for each dataset, with 'none' "
                f"for those that take none; got {len(given)}."
            )
        from spatialvla.data.sources import dataset_kind

        fitting = [dataset_kind(path) == kind for path in self.dataset]
        if not any(fitting):
            raise InputError(f"--{option} is for {kind} datasets, and there is none; leave it out.")
        return [given[0] if fits else None for fits in fitting]


FlatDatasetOptions = Annotated[DatasetOptions, OmitArgPrefixes, arg(name="dataset")]
"""The options without a prefix: --mapping, not --dataset.mapping."""


def _mixture(name: str, root: str) -> list[DatasetConfig]:
    from spatialvla.data.oxe.folders import mixture_folders
    from spatialvla.data.oxe.mixtures import mixture

    weights = mixture(name)
    folders = zip(mixture_folders(tuple(weights), root), weights.items(), strict=True)
    return [DatasetConfig(folder, weight, spec=dataset) for folder, (dataset, weight) in folders]
