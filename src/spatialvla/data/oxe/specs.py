"""What is known of each Open X-Embodiment dataset; a new one is one entry here, and at most one function.

Keys, conventions and control frequencies: the datasets' own features.json and the overview of Open
X-Embodiment (arXiv 2310.08864), read as Octo, OpenVLA and SpatialVLA did for training.

Cameras are called as in their configurations (`image_obs_keys` of OpenVLA's oxe/configs.py and Octo's
oxe_dataset_configs.py), and states are those of `state_obs_keys` there and in the transforms beside, in the
encodings' eight numbers. What differs: Bridge's wrist camera, `image_3`, is one; taco_play's gripper is its width,
number 6 of robot_obs, where theirs is number 7, a joint; and DROID's, dobbe's and RH20T's states are padded to eight
as all others are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spatialvla.actions.units import STANDARD_GRIPPER, ActionUnits
from spatialvla.data.mapping_lines import Extrinsics
from spatialvla.data.oxe import actions
from spatialvla.data.oxe.spec import Channels, RLDSCamera, RLDSSpec
from spatialvla.data.oxe.states import EULER, JOINTS, PAD, QUATERNION, RLDSState
from spatialvla.geometry.known_cameras import BRIDGE, BRIDGE_POSE, LIBERO_WRIST

_WORLD = ("action/world_vector", "action/rotation_delta")
_WORLD_AND_CLOSING = (*_WORLD, "action/gripper_closedness_action")
_NATURAL = "observation/natural_language_instruction"
_EXTERNAL = "_dataset_converted_externally_to_rlds"

_UNNAMED = tuple(f"state_{number}" for number in range(1, 8))
_PADDED_EULER = (0, 1, 2, 3, 4, 5, PAD, 6)


def _wrist(
    key: str = "wrist_image", channels: Channels = "rgb", size: tuple[int, int] | None = None
) -> dict[str, RLDSCamera]:
    return {"wrist": RLDSCamera(f"observation/{key}", channels=channels, size=size)}


def _secondary(key: str) -> dict[str, RLDSCamera]:
    return {"secondary": RLDSCamera(f"observation/{key}")}


def _state(names: Sequence[str], *keys: str, at: Sequence[int] = ()) -> RLDSState:
    """The numbers `at` these places of an observation's keys, joined; all of them unless given."""
    return RLDSState(tuple(f"observation/{key}" for key in keys), tuple(at), tuple(names))


def _gripper(names: Sequence[str], called: str) -> tuple[str, ...]:
    """An encoding whose gripper is to be called more precisely."""
    return (*names[:-1], called)


_DROID_STATE = _state(
    _gripper(EULER, "gripper_closed"), "cartesian_position", "gripper_position", at=_PADDED_EULER
)

_SPECS = (
    RLDSSpec(
        "fractal20220817_data",
        3,
        actions.closing_commands,
        _WORLD_AND_CLOSING,
        instruction=_NATURAL,
        state=_state(_gripper(QUATERNION, "gripper_closed"), "base_pose_tool_reached", "gripper_closed"),
    ),
    RLDSSpec(
        "kuka",
        10,
        actions.closing_commands,
        _WORLD_AND_CLOSING,
        instruction=_NATURAL,
        keep_if="success",
        state=_state(
            _gripper(QUATERNION, "gripper_closed"),
            "clip_function_input/base_pose_tool_reached",
            "gripper_closed",
        ),
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
        extrinsics=Extrinsics(matrix=tuple(map(tuple, BRIDGE_POSE.tolist()))),
        cameras={
            name: RLDSCamera(f"observation/{key}", present=f"episode_metadata/has_{key}")
            for name, key in (("secondary", "image_1"), ("wrist", "image_3"))
        },
        state=_state(EULER, "state", at=_PADDED_EULER),
    ),
    RLDSSpec(
        "taco_play",
        15,
        actions.seven_open_clipped,
        ("action/rel_actions_world",),
        image="observation/rgb_static",
        instruction=_NATURAL,
        cameras=_wrist("rgb_gripper"),
        state=_state(_gripper(EULER, "gripper_width"), "robot_obs", at=_PADDED_EULER),
    ),
    RLDSSpec(
        "jaco_play",
        10,
        actions.jaco_play,
        ("action/world_vector", "action/gripper_closedness_action"),
        instruction=_NATURAL,
        cameras=_wrist("image_wrist"),
        state=_state(
            ("x", "y", "z", *_UNNAMED[3:6], "pad", _UNNAMED[6]),
            "end_effector_cartesian_pos",
            at=_PADDED_EULER,
        ),
    ),
    RLDSSpec(
        "berkeley_cable_routing",
        10,
        actions.berkeley_cable_routing,
        _WORLD,
        instruction=_NATURAL,
        cameras=_secondary("top_image") | _wrist("wrist45_image"),
        state=_state((*_UNNAMED, "pad"), "robot_state", at=(*range(7), PAD)),
    ),
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
        cameras=_wrist("eye_in_hand_rgb"),
        state=_state(JOINTS, "joint_states", "gripper_states"),
    ),
    RLDSSpec(
        "berkeley_autolab_ur5",
        5,
        actions.closing_commands,
        _WORLD_AND_CLOSING,
        instruction=_NATURAL,
        cameras=_wrist("hand_image", "bgr", (480, 640)),
        state=_state(_gripper(QUATERNION, "gripper_closed"), "robot_state", at=range(6, 14)),
    ),
    RLDSSpec(
        "toto",
        30,
        actions.open_flag,
        (*_WORLD, "action/open_gripper"),
        instruction=_NATURAL,
        state=_state(_gripper(JOINTS, "pad"), "state", at=(*range(7), PAD)),
    ),
    RLDSSpec(
        "language_table",
        10,
        actions.language_table,
        image="observation/rgb",
        instruction="observation/instruction",
        state=_state(("x", "y", *["pad"] * 6), "effector_translation", at=(0, 1, *[PAD] * 6)),
    ),
    RLDSSpec(
        f"stanford_hydra{_EXTERNAL}",
        10,
        actions.seven_closed,
        channels="bgr",
        size=(240, 320),
        cameras=_wrist(channels="bgr", size=(240, 320)),
        state=_state(EULER, "state", at=(0, 1, 2, 7, 8, 9, PAD, 24)),
    ),
    RLDSSpec(
        f"austin_buds{_EXTERNAL}",
        20,
        actions.seven_closed_clipped,
        cameras=_wrist(),
        state=_state(JOINTS, "state", at=range(8)),
    ),
    RLDSSpec(
        f"nyu_franka_play{_EXTERNAL}",
        3,
        actions.nyu_franka_play,
        cameras=_secondary("image_additional_view"),
        state=_state(_gripper(EULER, "pad"), "state", at=(*range(7, 13), PAD, PAD)),
    ),
    RLDSSpec(
        f"furniture_bench{_EXTERNAL}",
        10,
        actions.furniture_bench,
        cameras=_wrist(),
        state=_state(_gripper(QUATERNION, "gripper_width"), "state", at=(*range(7), 34)),
    ),
    RLDSSpec(
        f"ucsd_kitchen{_EXTERNAL}",
        2,
        actions.seven,
        state=_state(_gripper(JOINTS, "pad"), "state", at=(*range(7), PAD)),
    ),
    *(
        RLDSSpec(
            f"austin_{name}{_EXTERNAL}",
            20,
            actions.seven_closed_clipped,
            cameras=_wrist(),
            state=_state(QUATERNION, "state"),
        )
        for name in ("sailor", "sirius")
    ),
    RLDSSpec(
        "dlr_edan_shared_control_converted_externally_to_rlds",
        5,
        actions.seven_closed,
        state=_state(("x", "y", "z", *_UNNAMED[3:], "pad"), "state", at=(*range(7), PAD)),
    ),
    RLDSSpec(
        "iamlab_cmu_pickup_insert_converted_externally_to_rlds",
        20,
        actions.iamlab_cmu_pickup_insert,
        cameras=_wrist(),
        state=_state(JOINTS, "state", at=range(8)),
    ),
    RLDSSpec(
        "utaustin_mutex",
        20,
        actions.seven_closed_clipped,
        channels="bgr",
        size=(128, 128),
        cameras=_wrist(channels="bgr", size=(128, 128)),
        state=_state(JOINTS, "state", at=range(8)),
    ),
    RLDSSpec(
        "berkeley_fanuc_manipulation",
        10,
        actions.berkeley_fanuc,
        ("action", "observation/state"),
        channels="bgr",
        size=(224, 224),
        cameras=_wrist(channels="bgr", size=(224, 224)),
        state=_state((*JOINTS[:6], "pad", "gripper"), "state", at=_PADDED_EULER),
    ),
    RLDSSpec(
        "cmu_stretch",
        10,
        actions.seven,
        state=_state(("x", "y", "z", *["pad"] * 4, "gripper"), "state", at=(0, 1, 2, PAD, PAD, PAD, PAD, 3)),
    ),
    RLDSSpec(
        "bc_z",  # later versions than 0.1.0 are broken
        10,
        actions.bc_z,
        ("action/future/xyz_residual", "action/future/axis_angle_residual", "action/future/target_close"),
        instruction=_NATURAL,
        state=_state(
            ("x", "y", "z", "rx", "ry", "rz", "pad", "gripper_closed"),
            *("present/xyz", "present/axis_angle", "present/sensed_close"),
            at=_PADDED_EULER,
        ),
    ),
    RLDSSpec(
        "fmb_dataset",
        10,
        actions.seven,
        image="observation/image_side_1",
        version="1.0.0",
        cameras=_secondary("image_side_2") | _wrist("image_wrist_1"),
        state=_state(QUATERNION, "eef_pose", "state_gripper_pose"),
    ),
    RLDSSpec(
        "dobbe",
        3.75,
        actions.seven,
        image="observation/wrist_image",  # its only camera is on the stick that was carried around
        version="0.0.1",
        state=_state(EULER, "state", at=_PADDED_EULER),
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
        cameras=_secondary("exterior_image_2_left") | _wrist("wrist_image_left"),
        state=_DROID_STATE,
    ),
    RLDSSpec(
        "rh20t_rlds",
        10,
        actions.rh20t,
        ("observation/tcp_base", "action/tcp_base", "action/gripper"),
        version="1.0.0",
        units=ActionUnits(1.0, 1.0, "euler", "base", STANDARD_GRIPPER),
        state=_state(_gripper(EULER, "gripper_width"), "tcp_base", "gripper_width", at=_PADDED_EULER),
    ),
    RLDSSpec(
        f"maniskill{_EXTERNAL}",
        20,
        actions.seven_open_clipped,
        cameras=_wrist(),
        state=_state(
            ("x", "y", "z", "qw", "qx", "qy", "qz", "gripper"), "tcp_pose", "state", at=(*range(7), 14)
        ),
    ),
    RLDSSpec(
        "kaist_nonprehensile_converted_externally_to_rlds",
        10,
        actions.without_gripper,
        state=_state(_gripper(QUATERNION, "pad"), "state", at=(*range(14, 21), PAD)),
    ),
    RLDSSpec(
        "droid_wipe",
        15,
        actions.droid,
        ("action_dict/cartesian_velocity", "action_dict/gripper_position"),
        image="observation/exterior_image_2_left",
        cameras=_wrist("wrist_image_left"),
        state=_DROID_STATE,
    ),
    *(
        RLDSSpec(
            f"tdroid_{task}",
            5,
            actions.seven_settled,
            image="observation/static_image",
            state=_state(EULER, "cartesian_position", "gripper_position", at=_PADDED_EULER),
        )
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
        RLDSSpec(
            f"libero_{suite}_no_noops",
            20,
            actions.seven_closed_clipped,
            version="1.0.0",
            cameras={"wrist": RLDSCamera("observation/wrist_image", LIBERO_WRIST.camera)},
            state=_state(("x", "y", "z", "rx", "ry", "rz", "gripper_1", "gripper_2"), "state"),
        )
        for suite in ("spatial", "object", "goal", "10", "90")
    ),
)

SPECS: Mapping[str, RLDSSpec] = {spec.name: spec for spec in _SPECS}
"""By the dataset's name."""
