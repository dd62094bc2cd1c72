"""The options that say which dataset to read and how; the verbs of `spatialvla data` share them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import OmitArgPrefixes, arg

if TYPE_CHECKING:
    from spatialvla.data.episodes import EpisodeSource


@dataclass(frozen=True)
class SourceOptions:
    """One dataset of any kind."""

    dataset: str
    """An RLDS folder or URL, a LeRobot folder, name or Hub id, or an RH20T folder."""

    mapping: Path | None = None
    """YAML file that says what a LeRobot dataset's features are."""

    camera: str | None = None
    """The RGB feature of a LeRobot dataset to look through; None takes the only one."""

    spec: str | None = None
    """Spec of an RLDS dataset, by name or YAML file; None finds it by the dataset's name."""

    copy: Literal["auto", "original", "repaired"] = "auto"
    """Whether RLDS files have the published ones' known faults; auto finds out, where they tell."""

    cameras: tuple[str, ...] | None = None
    """Further cameras to read, by name; None reads all."""

    state: bool = True
    """Read how the arm stands, where the dataset says so."""

    on_bad: Literal["raise", "skip"] = "skip"
    """Whether damaged RLDS shards end the reading, or what can be read of them is read."""

    def open(self) -> EpisodeSource:
        """The dataset's episodes. Raises InputError where it cannot be read so, or lacks a camera that is named."""
        from spatialvla.data.mapping_lines import FIRST_CAMERA
        from spatialvla.data.needed_parts import check_parts
        from spatialvla.data.sources import open_source

        source = open_source(
            self.dataset,
            mapping=self.mapping,
            spec=self.spec,
            on_bad=self.on_bad,
            copy=self.copy,
            cameras=self.cameras,
            state=self.state,
            through=() if self.camera is None else (self.camera,),
        )
        if self.cameras:
            check_parts([source], (FIRST_CAMERA, *self.cameras))
        return source


FlatSourceOptions = Annotated[SourceOptions, OmitArgPrefixes, arg(name="dataset")]
"""The options without a prefix: --dataset, not --source.dataset."""
