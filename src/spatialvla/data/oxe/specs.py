"""What is known of each Open X-Embodiment dataset; a new one is one entry here, and at most one function.

Keys, conventions and control frequencies: the datasets' own features.json and the overview of Open
X-Embodiment (arXiv 2310.08864), read as Octo, OpenVLA and SpatialVLA did for training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from spatialvla.actions.units import STANDARD_GRIPPER, ActionUnits
from spatialvla.data.oxe import actions
from spatialvla.geometry.camera import Camera
from spatialvla.geometry.known_cameras import BRIDGE

_WORLD = ("action/world_vector", "action/rotation_delta")
_WORLD_AND_CLOSING = (*_WORLD, "action/gripper_closedness_action")
_NATURAL = "observation/natural_language_instruction"
_EXTERNAL = "_dataset_converted_externally_to_rlds"


@dataclass(frozen=True)
class RLDSSpec:
    """How to read one dataset. Keys are those of a step, or else of the episode.

    name: of the dataset. control_hz: steps a second. action: makes (T, 7), see `spatialvla.data.oxe.actions`,
    of the arrays under `inputs`, which it is given in order. image: the third-person camera. instruction: the
    text of a step, or of a code point array; an episode where it is empty has none. version: of the TFDS
    folder. skip: steps to leave out at an episode's start. drop_no_ops: leave out the samples that start
    without motion. drop_still_chunks: leave out those whose chunk has no motion at all.
    other_image: a second third-person camera, that episodes of odd number are seen from.
    camera: intrinsics of `image` where they are published. units: of what `action` makes; those published of
    the dataset unless given.
    channels: of `image` as it is published. size: its height and width there, by which a copy that was written anew
    is told; None where files are what the spec says. keep_if: a feature that is true of the episodes to keep.
    For what a user's file describes (see `spatialvla.data.oxe.spec_file`), too: first_action: steps after those of
    `skip` that `action` makes none of. depth: the sensor's image, in which 1 is `depth_meters`. intrinsics: key of
    K (3, 3) in pixels of `image`. fixed_instruction: of all steps, in place of a key.
    """

    name: str
    control_hz: float
    action: Callable[..., np.ndarray]
    inputs: tuple[str, ...] = ("action",)
    image: str = "observation/image"
    instruction: str = "language_instruction"
    version: str = "0.1.0"
    skip: int = 0
    drop_no_ops: bool = False
    drop_still_chunks: bool = False
    other_image: str | None = None
    camera: Camera | None = None
    units: ActionUnits | None = None
    channels: Literal["rgb", "bgr"] = "rgb"
    size: tuple[int, int] | None = None
    keep_if: str | None = None
    first_action: int = 0
    depth: str | None = None
    depth_meters: float = 1.0
    intrinsics: str | None = None
    fixed_instruction: str | None = None

    @property
    def key(self) -> str:
        """The name of the dataset's statistics in published checkpoints."""
        return f"{self.name}/{self.version}"

    @property
    def images(self) -> tuple[str, ...]:
        """The cameras: `image`, and `other_image` where there is one."""
        return (self.image,) if self.other_image is None else (self.image, self.other_image)


_SPECS = (
    RLDSSpec("fractal20220817_data", 3, actions.closing_commands, _WORLD_AND_CLOSING, instruction=_NATURAL),
    RLDSSpec(
        "kuka", 10, actions.closing_commands, _WORLD_AND_CLOSING, instruction=_NATURAL, keep_if="success"
    ),
    RLDSSpec(
        "bridge_orig",
        5,
        actions.bridge,
        ("action", "observation/state"),
        image="observation/image_0",
        version="1.0.0",
        skip=1,  # its action is all zeros
        camera=BRIDGE,
    ),
    RLDSSpec(
        "taco_play",
        15,
        actions.seven_open_clipped,
        ("action/rel_actions_world",),
        image="observation/rgb_static",
        instruction=_NATURAL,
    ),
    RLDSSpec(
        "jaco_play",
        10,
        actions.jaco_play,
        ("action/world_vector", "action/gripper_closedness_action"),
        instruction=_NATURAL,
    ),
    RLDSSpec("berkeley_cable_routing", 10, actions.berkeley_cable_routing, _WORLD, instruction=_NATURAL),
    RLDSSpec(
        "roboturk",
        10,
        actions.closed_fraction,
        _WORLD_AND_CLOSING,
        image="observation/front_rgb",
        instruction=_NATURAL,
    ),
    RLDSSpec(
        "viola",
        20,
        actions.closed_fraction,
        _WORLD_AND_CLOSING,
        image="observation/agentview_rgb",
        instruction=_NATURAL,
    ),
    RLDSSpec("berkeley_autolab_ur5", 5, actions.closing_commands, _WORLD_AND_CLOSING, instruction=_NATURAL),
    RLDSSpec("toto", 30, actions.open_flag, (*_WORLD, "action/open_gripper"), instruction=_NATURAL),
    RLDSSpec(
        "language_table",
        10,
        actions.language_table,
        image="observation/rgb",
        instruction="observation/instruction",
    ),
    RLDSSpec(f"stanford_hydra{_EXTERNAL}", 10, actions.seven_closed, channels="bgr", size=(240, 320)),
    RLDSSpec(f"austin_buds{_EXTERNAL}", 20, actions.seven_closed_clipped),
    RLDSSpec(f"nyu_franka_play{_EXTERNAL}", 3, actions.nyu_franka_play),
    RLDSSpec(f"furniture_bench{_EXTERNAL}", 10, actions.furniture_bench),
    RLDSSpec(f"ucsd_kitchen{_EXTERNAL}", 2, actions.seven),
    RLDSSpec(f"austin_sailor{_EXTERNAL}", 20, actions.seven_closed_clipped),
    RLDSSpec(f"austin_sirius{_EXTERNAL}", 20, actions.seven_closed_clipped),
    RLDSSpec("dlr_edan_shared_control_converted_externally_to_rlds", 5, actions.seven_closed),
    RLDSSpec("iamlab_cmu_pickup_insert_converted_externally_to_rlds", 20, actions.iamlab_cmu_pickup_insert),
    RLDSSpec("utaustin_mutex", 20, actions.seven_closed_clipped, channels="bgr", size=(128, 128)),
    RLDSSpec(
        "berkeley_fanuc_manipulation",
        10,
        actions.berkeley_fanuc,
        ("action", "observation/state"),
        channels="bgr",
        size=(224, 224),
    ),
    RLDSSpec("cmu_stretch", 10, actions.seven),
    RLDSSpec(
        "bc_z",  # later versions than 0.1.0 are broken
        10,
        actions.bc_z,
        ("action/future/xyz_residual", "action/future/axis_angle_residual", "action/future/target_close"),
        instruction=_NATURAL,
    ),
    RLDSSpec("fmb_dataset", 10, actions.seven, image="observation/image_side_1", version="1.0.0"),
    RLDSSpec(
        "dobbe",
        3.75,
        actions.seven,
        image="observation/wrist_image",  # its only camera is on the stick that was carried around
        version="0.0.1",
    ),
    RLDSSpec(
        "droid",
        15,
        actions.droid,
        ("action_dict/cartesian_velocity", "action_dict/gripper_position"),
        image="observation/exterior_image_1_left",
        version="1.0.0",
        drop_still_chunks=True,
        other_image="observation/exterior_image_2_left",
    ),
    RLDSSpec(
        "rh20t_rlds",
        10,
        actions.rh20t,
        ("observation/tcp_base", "action/tcp_base", "action/gripper"),
        version="1.0.0",
        units=ActionUnits(1.0, 1.0, "euler", "base", STANDARD_GRIPPER),
    ),
    RLDSSpec(f"maniskill{_EXTERNAL}", 20, actions.seven_open_clipped),
    RLDSSpec("kaist_nonprehensile_converted_externally_to_rlds", 10, actions.without_gripper),
    RLDSSpec(
        "droid_wipe",
        15,
        actions.droid,
        ("action_dict/cartesian_velocity", "action_dict/gripper_position"),
        image="observation/exterior_image_2_left",
    ),
    *(
        RLDSSpec(f"tdroid_{task}", 5, actions.seven_settled, image="observation/static_image")
        for task in (
            "carrot_in_bowl",
            "pour_corn_in_pot",
            "flip_pot_upright",
            "move_object_onto_plate",
            "knock_object_over",
            "cover_object_with_towel",
        )
    ),
    *(
        RLDSSpec(f"libero_{suite}_no_noops", 20, actions.seven_closed_clipped, version="1.0.0")
        for suite in ("spatial", "object", "goal", "10", "90")
    ),
)

SPECS: Mapping[str, RLDSSpec] = {spec.name: spec for spec in _SPECS}
"""By the dataset's name."""
