"""What a dataset is called by its mixture, its folder and its own files, and the spec that belongs to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from spatialvla.common.dataset_keys import unversioned
from spatialvla.data.oxe.spec import RLDSSpec
from spatialvla.data.oxe.specs import SPECS
from spatialvla.errors import InputError

OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "bridge_orig": ("bridge_dataset",),
    "droid": ("r2d2_faceblur", "droid_101", "droid_100"),
    "libero_spatial_no_noops": ("libero_spatial",),
    "libero_object_no_noops": ("libero_object",),
    "libero_goal_no_noops": ("libero_goal",),
    "libero_10_no_noops": ("liber_o10", "libero_10"),
    "libero_90_no_noops": ("liber_o90", "libero_90"),
}
"""By the name of a spec: what the published files call themselves in dataset_info.json, or their folders."""

_SPEC_OF = {other: name for name, others in OTHER_NAMES.items() for other in others}


def known_spec(name: str) -> RLDSSpec | None:
    """The spec of a dataset by its name, one of its other names, or its key; None for an unknown one."""
    own = unversioned(name)
    return SPECS.get(_SPEC_OF.get(own, own))


def rlds_spec(name: str) -> RLDSSpec:
    """The spec of a dataset by its name, one of its other names, or its key.

    Raises InputError, naming the closest, for an unknown one.
    """
    found = known_spec(name)
    if found is None:
        close = get_close_matches(name, SPECS, n=3, cutoff=0.3) or sorted(SPECS)
        raise InputError(f"There is no spec for the dataset {name!r}; the closest are {', '.join(close)}.")
    return found


def spec_by_names(names: Sequence[str]) -> RLDSSpec:
    """The spec of the first known one of a dataset's names. Raises InputError, as `rlds_spec`, for none."""
    return next((spec for name in names if (spec := known_spec(name))), None) or rlds_spec(names[0])
