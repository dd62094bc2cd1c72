"""Files as they were published, faults and all, or a copy that somebody has put right.

The published checkpoints were trained on copies that `prepare_open_x.sh` (github.com/kpertsch/rlds_dataset_mod, for
Octo and OpenVLA) had made: smaller pictures, written anew as JPEG, red and blue put right, kuka's failures left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from spatialvla.data.oxe.spec import RLDSCamera, RLDSSpec
from spatialvla.data.rlds.features import FeatureSpec
from spatialvla.errors import InputError

Copy = Literal["auto", "original", "repaired"]
"""Whether files have the faults that a spec tells of; "auto" finds out, where the files tell for certain."""


def swaps_red_and_blue(
    dataset: str, camera: RLDSCamera, features: Mapping[str, FeatureSpec], copy: Copy, root: str
) -> bool:
    """Whether red and blue have to change places in a camera's pictures as they are stored. dataset: its name.

    Pictures of the published size without loss are the published ones: what repairs them writes JPEG.
    Raises InputError, saying what to pass, where the files do not tell.
    """
    if camera.channels == "rgb" or copy == "repaired":
        return False
    if copy == "original" or camera.size is None:
        return True
    stored = features[f"steps/{camera.image}"]
    kind, size = stored.encoding or "png", stored.shape[:2]
    if kind == "png" and size == camera.size:
        return True
    height, width = size
    raise InputError(
        f"{root} holds {kind.upper()} pictures of {width}x{height}, but {dataset} was published as PNG of "
        f"{camera.size[1]}x{camera.size[0]} with red and blue swapped; say whether this copy is put right "
        "(copy='repaired', --copy repaired) or still swapped (copy='original', --copy original)."
    )


def kept_episodes(spec: RLDSSpec, features: Mapping[str, FeatureSpec], copy: Copy, root: str) -> str | None:
    """The feature that is true of the episodes to keep; None keeps all.

    Raises InputError where the files lack it and are not said to be repaired.
    """
    if spec.keep_if is None or spec.keep_if in features:
        return spec.keep_if
    if copy == "repaired":
        return None
    raise InputError(
        f"{root} has no '{spec.keep_if}', which tells the episodes of {spec.name} to keep; say copy='repaired' "
        "(--copy repaired) where the others are gone."
    )
