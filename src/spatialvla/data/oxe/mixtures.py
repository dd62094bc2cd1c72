"""Which datasets are trained on together, and how often each is drawn."""

from __future__ import annotations

from collections.abc import Mapping

from spatialvla.common.names import did_you_mean
from spatialvla.data.oxe.names import rlds_spec
from spatialvla.data.oxe.specs import SPECS
from spatialvla.errors import InputError

_EXTERNAL = "_dataset_converted_externally_to_rlds"

# Shares of an epoch relative to the dataset's size: 1 draws every sample once, as often as 2 draws it twice.
_RTX = {
    "fractal20220817_data": 0.54087122203,
    "kuka": 0.8341046294,
    "bridge_orig": 1.0,
    "taco_play": 2.0,
    "jaco_play": 2.0,
    "berkeley_cable_routing": 3.0,
    "roboturk": 1.0,
    "viola": 2.0,
    "berkeley_autolab_ur5": 1.0,
    "toto": 1.0,
}

_RTX_FRANKA = _RTX | {
    f"stanford_hydra{_EXTERNAL}": 1.0,
    f"austin_buds{_EXTERNAL}": 3.0,
    f"nyu_franka_play{_EXTERNAL}": 3.0,
    f"maniskill{_EXTERNAL}": 0.1,
    f"furniture_bench{_EXTERNAL}": 0.1,
    f"austin_sailor{_EXTERNAL}": 1.0,
    f"austin_sirius{_EXTERNAL}": 1.0,
    "kaist_nonprehensile_converted_externally_to_rlds": 3.0,
    "iamlab_cmu_pickup_insert_converted_externally_to_rlds": 1.0,
    "utaustin_mutex": 1.0,
}

_MAGIC_SOUP_PLUS = {
    "fractal20220817_data": 0.54087122203,
    "kuka": 0.8341046294,
    "bridge_orig": 1.0,
    "taco_play": 2.0,
    "jaco_play": 1.0,
    "berkeley_cable_routing": 1.0,
    "roboturk": 2.0,
    "viola": 2.0,
    "berkeley_autolab_ur5": 2.0,
    "toto": 1.0,
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
    "berkeley_fanuc_manipulation": 2.0,
    "cmu_stretch": 1.0,
    "bc_z": 0.2,
    "fmb_dataset": 1.0,
    "dobbe": 0.2,
    "droid": 0.06,
}

_SPATIAL_VLA_PLUS = _MAGIC_SOUP_PLUS | {
    "kuka": 0.4,
    "toto": 0.5,
    "berkeley_fanuc_manipulation": 0.5,
    "fmb_dataset": 0.2,
    "rh20t_rlds": 0.015,
}

MIXTURES: Mapping[str, Mapping[str, float]] = {
    "bridge": {"bridge_orig": 1.0},
    "fractal": {"fractal20220817_data": 1.0},
    "bridge_rt_1": {"bridge_orig": 1.0, "fractal20220817_data": 1.0},
    "rtx": _RTX,
    "rtx_franka": _RTX_FRANKA,
    "oxe_magic_soup_plus": _MAGIC_SOUP_PLUS,
    "oxe_spatial_vla_plus": _SPATIAL_VLA_PLUS,
    "oxe_spatial_vla_plus_stage2": {
        name: weight for name, weight in _SPATIAL_VLA_PLUS.items() if name != "droid"
    },
}
"""Name of the dataset -> weight, as `data/oxe/mixtures.py` of the published SpatialVLA code has them (whose
mixtures of one dataset under its own name need no entry here).

Of `rtx_franka` four datasets are left out, because their actions are not what a policy here learns:
berkeley_rpt's are of joints (the published code leaves it out, too), cmu_franka_exploration's are poses
without a state to tell the motion, cmu_play_fusion's were read with a quaternion's last numbers as angles, and
stanford_robocook's gripper is a velocity. Where it names a dataset twice, the first weight holds, as there.
"""

GRID_EXCLUDED = frozenset({"language_table", "berkeley_fanuc_manipulation", "cmu_stretch", "jaco_play"})
"""Datasets that the published action grid was not fitted to: some of their actions' axes are constant."""


def mixture(name: str) -> Mapping[str, float]:
    """Weights by dataset: of a mixture, or of one dataset alone. Raises InputError for an unknown name."""
    if name in MIXTURES:
        return MIXTURES[name]
    try:
        return {rlds_spec(name).name: 1.0}
    except InputError:
        known = [*MIXTURES, *SPECS]
        raise InputError(f"There is no mixture or dataset {name!r}; {did_you_mean(name, known)}") from None
