"""Which datasets are trained on together, and how often each is drawn."""

from __future__ import annotations

from collections.abc import Mapping

from spatialvla.data.oxe.names import rlds_spec
from spatialvla.errors import InputError

_EXTERNAL = "_dataset_converted_externally_to_rlds"

# Shares of an epoch relative to the dataset's size: 1 draws every sample once, as often as 2 draws it twice.
_PLUS = {
    "fractal20220817_data": 0.54087122203,
    "kuka": 0.4,
    "bridge_orig": 1.0,
    "taco_play": 2.0,
    "jaco_play": 1.0,
    "berkeley_cable_routing": 1.0,
    "roboturk": 2.0,
    "viola": 2.0,
    "berkeley_autolab_ur5": 2.0,
    "toto": 0.5,
    "language_table": 0.1,
    f"stanford_hydra{_EXTERNAL}": 2.0,
    f"austin_buds{_EXTERNAL}": 1.0,
    f"nyu_franka_play{_EXTERNAL}": 3.0,
    f"furniture_bench{_EXTERNAL}": 0.1,
    f"ucsd_kitchen{_EXTERNAL}": 2.0,
    f"austin_sailor{_EXTERNAL}": 1.0,
    f"austin_sirius{_EXTERNAL}": 1.0,
    "dlr_edan_shared_control_converted_externally_to_rlds": 1.0,
    "iamlab_cmu_pickup_insert_converted_externally_to_rlds": 1.0,
    "utaustin_mutex": 1.0,
    "berkeley_fanuc_manipulation": 0.5,
    "cmu_stretch": 1.0,
    "bc_z": 0.2,
    "fmb_dataset": 0.2,
    "dobbe": 0.2,
    "droid": 0.06,
    "rh20t_rlds": 0.015,
}

MIXTURES: Mapping[str, Mapping[str, float]] = {
    "oxe_spatial_vla_plus": _PLUS,
    "oxe_spatial_vla_plus_stage2": {name: weight for name, weight in _PLUS.items() if name != "droid"},
}
"""As published with SpatialVLA: name of the dataset -> weight."""

GRID_EXCLUDED = frozenset({"language_table", "berkeley_fanuc_manipulation", "cmu_stretch", "jaco_play"})
"""Datasets that the published action grid was not fitted to: some of their actions' axes are constant."""


def mixture(name: str) -> Mapping[str, float]:
    """Weights by dataset: of a mixture, or of one dataset alone. Raises InputError for an unknown name."""
    if name in MIXTURES:
        return MIXTURES[name]
    try:
        return {rlds_spec(name).name: 1.0}
    except InputError as error:
        raise InputError(f"{error} Mixtures are {', '.join(MIXTURES)}.") from None
