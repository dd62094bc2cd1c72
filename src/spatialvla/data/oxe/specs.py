"""What there is to know of each Open X-Embodiment dataset. A new dataset is one entry here, and at most one function.

Keys, conventions and control frequencies: the datasets' own features.json and the overview of Open X-Embodiment
(arXiv 2310.08864), read as Octo, OpenVLA and SpatialVLA did for training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from spatialvla.data.oxe import actions
from spatialvla.errors import InputError
from spatialvla.geometry.camera import Camera

_WORLD = ("action/world_vector", "action/rotation_delta")
_EXTERNAL = "_dataset_converted_externally_to_rlds"


@dataclass(frozen=True)
class RLDSSpec:
    """How to read one dataset. Keys are those of a step.

    name, version: of the TFDS folder. image: the third-person camera. control_hz: steps a second.
    inputs: what `action` is given, in order. action: to (T, 7), see `spatialvla.data.oxe.actions`.
    instruction: the text of a step, or of a code point array; an episode where it is empty has none.
    skip: steps to leave out at an episode's start. drop_no_ops: leave out the samples that start without motion.
    camera: intrinsics of `image` where they are published.
    """

    name: str
    version: str
    image: str
    control_hz: float
    inputs: tuple[str, ...]
    action: Callable[..., np.ndarray]
    instruction: str = "observation/natural_language_instruction"
    skip: int = 0
    drop_no_ops: bool = False
    camera: Camera | None = None

    @property
    def key(self) -> str:
        """The name of the dataset's statistics in published checkpoints."""
        return f"{self.name}/{self.version}"


BRIDGE_CAMERA = Camera(
    np.array([[623.588, 0, 319.501], [0, 623.588, 239.545], [0, 0, 1]]), height=480, width=640
)
"""Of bridge_orig, as published with SpatialVLA, whose `default` it is."""

_SPECS = (
    RLDSSpec(
        "fractal20220817_data",
        "0.1.0",
        "observation/image",
        3,
        (*_WORLD, "action/gripper_closedness_action"),
        actions.closing_commands,
    ),
    RLDSSpec(
        "kuka",
        "0.1.0",
        "observation/image",
        10,
        (*_WORLD, "action/gripper_closedness_action"),
        actions.closing_commands,
    ),
    RLDSSpec(
        "bridge_orig",
        "1.0.0",
        "observation/image_0",
        5,
        ("action", "observation/state"),
        actions.bridge,
        instruction="language_instruction",
        skip=1,  # its action is all zeros
        camera=BRIDGE_CAMERA,
    ),
    RLDSSpec(
        "taco_play",
        "0.1.0",
        "observation/rgb_static",
        15,
        ("action/rel_actions_world",),
        actions.seven_open_clipped,
    ),
    RLDSSpec(
        "jaco_play",
        "0.1.0",
        "observation/image",
        10,
        ("action/world_vector", "action/gripper_closedness_action"),
        actions.jaco_play,
    ),
    RLDSSpec(
        "berkeley_cable_routing",
        "0.1.0",
        "observation/image",
        10,
        _WORLD,
        actions.berkeley_cable_routing,
    ),
    RLDSSpec(
        "roboturk",
        "0.1.0",
        "observation/front_rgb",
        10,
        (*_WORLD, "action/gripper_closedness_action"),
        actions.closed_fraction,
    ),
    RLDSSpec(
        "viola",
        "0.1.0",
        "observation/agentview_rgb",
        20,
        (*_WORLD, "action/gripper_closedness_action"),
        actions.closed_fraction,
    ),
    RLDSSpec(
        "berkeley_autolab_ur5",
        "0.1.0",
        "observation/image",
        5,
        (*_WORLD, "action/gripper_closedness_action"),
        actions.closing_commands,
    ),
    RLDSSpec(
        "toto",
        "0.1.0",
        "observation/image",
        30,
        (*_WORLD, "action/open_gripper"),
        actions.open_flag,
    ),
    RLDSSpec(
        "language_table",
        "0.1.0",
        "observation/rgb",
        10,
        ("action",),
        actions.language_table,
        instruction="observation/instruction",
    ),
    RLDSSpec(
        f"stanford_hydra{_EXTERNAL}",
        "0.1.0",
        "observation/image",
        10,
        ("action",),
        actions.seven_closed,
        instruction="language_instruction",
    ),
    RLDSSpec(
        f"austin_buds{_EXTERNAL}",
        "0.1.0",
        "observation/image",
        20,
        ("action",),
        actions.seven_closed_clipped,
        instruction="language_instruction",
    ),
    RLDSSpec(
        f"nyu_franka_play{_EXTERNAL}",
        "0.1.0",
        "observation/image",
        3,
        ("action",),
        actions.nyu_franka_play,
        instruction="language_instruction",
    ),
    RLDSSpec(
        f"furniture_bench{_EXTERNAL}",
        "0.1.0",
        "observation/image",
        10,
        ("action",),
        actions.furniture_bench,
        instruction="language_instruction",
    ),
    RLDSSpec(
        f"ucsd_kitchen{_EXTERNAL}",
        "0.1.0",
        "observation/image",
        2,
        ("action",),
        actions.seven,
        instruction="language_instruction",
    ),
    RLDSSpec(
        f"austin_sailor{_EXTERNAL}",
        "0.1.0",
        "observation/image",
        20,
        ("action",),
        actions.seven_closed_clipped,
        instruction="language_instruction",
    ),
    RLDSSpec(
        f"austin_sirius{_EXTERNAL}",
        "0.1.0",
        "observation/image",
        20,
        ("action",),
        actions.seven_closed_clipped,
        instruction="language_instruction",
    ),
    RLDSSpec(
        "dlr_edan_shared_control_converted_externally_to_rlds",
        "0.1.0",
        "observation/image",
        5,
        ("action",),
        actions.seven_closed,
        instruction="language_instruction",
    ),
    RLDSSpec(
        "iamlab_cmu_pickup_insert_converted_externally_to_rlds",
        "0.1.0",
        "observation/image",
        20,
        ("action",),
        actions.iamlab_cmu_pickup_insert,
        instruction="language_instruction",
    ),
    RLDSSpec(
        "utaustin_mutex",
        "0.1.0",
        "observation/image",
        20,
        ("action",),
        actions.seven_closed_clipped,
        instruction="language_instruction",
    ),
    RLDSSpec(
        "berkeley_fanuc_manipulation",
        "0.1.0",
        "observation/image",
        10,
        ("action", "observation/state"),
        actions.berkeley_fanuc,
        instruction="language_instruction",
    ),
    RLDSSpec(
        "cmu_stretch",
        "0.1.0",
        "observation/image",
        10,
        ("action",),
        actions.seven,
        instruction="language_instruction",
    ),
    RLDSSpec(
        "bc_z",
        "0.1.0",  # later versions are broken
        "observation/image",
        10,
        ("action/future/xyz_residual", "action/future/axis_angle_residual", "action/future/target_close"),
        actions.bc_z,
    ),
    RLDSSpec(
        "fmb_dataset",
        "1.0.0",
        "observation/image_side_1",
        10,
        ("action",),
        actions.seven,
        instruction="language_instruction",
    ),
    RLDSSpec(
        "dobbe",
        "0.0.1",
        "observation/wrist_image",  # its only camera is on the stick that was carried around
        3.75,
        ("action",),
        actions.seven,
        instruction="language_instruction",
    ),
    RLDSSpec(
        "droid",
        "1.0.0",
        "observation/exterior_image_1_left",
        15,
        ("action_dict/cartesian_velocity", "action_dict/gripper_position"),
        actions.droid,
        instruction="language_instruction",
        drop_no_ops=True,
    ),
    RLDSSpec(
        "rh20t_rlds",
        "1.0.0",
        "observation/image",
        10,
        ("action/tcp_base", "action/gripper"),
        actions.rh20t,
        instruction="language_instruction",
    ),
    *(
        RLDSSpec(
            f"libero_{suite}_no_noops",
            "1.0.0",
            "observation/image",
            20,
            ("action",),
            actions.seven_closed_clipped,
            instruction="language_instruction",
        )
        for suite in ("spatial", "object", "goal", "10", "90")
    ),
)

SPECS: Mapping[str, RLDSSpec] = {spec.name: spec for spec in _SPECS}
"""By the dataset's name."""


def rlds_spec(name: str) -> RLDSSpec:
    """The spec of a dataset, by its name or its key. Raises InputError, naming the closest, for an unknown one."""
    from difflib import get_close_matches

    found = SPECS.get(name.split("/")[0])
    if found is None:
        close = get_close_matches(name, SPECS, n=3, cutoff=0.3) or sorted(SPECS)
        raise InputError(f"there is no spec for the dataset {name!r}; the closest are {', '.join(close)}")
    return found
