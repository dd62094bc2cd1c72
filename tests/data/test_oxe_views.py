"""The cameras beside the first of each Open X-Embodiment dataset, and the arm's state."""

import io
import pickle
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rlds_writer import COLOR, tensor, write_dataset, write_steps

from spatialvla.data.mapping_lines import Extrinsics
from spatialvla.data.oxe.mixtures import MIXTURES
from spatialvla.data.oxe.source import OXESource
from spatialvla.data.oxe.spec import RLDSCamera
from spatialvla.data.oxe.specs import SPECS
from spatialvla.data.oxe.states import RLDSState
from spatialvla.data.rlds import features
from spatialvla.data.rlds.tfrecord import BadRecord
from spatialvla.errors import InputError
from spatialvla.geometry.extrinsics import project
from spatialvla.geometry.known_cameras import BRIDGE, BRIDGE_POSE, LIBERO_WRIST

GOLDENS = np.load(Path(__file__).parents[1] / "goldens" / "oxe" / "transforms.npz")
SAMPLE = Path(__file__).parent / "rlds" / "bridge_orig"
MIXTURE = MIXTURES["oxe_spatial_vla_plus"]
EXTERNAL = "_dataset_converted_externally_to_rlds"
T = 5

# `image_obs_keys` of the published configurations, which are the same in Octo's and OpenVLA's; Bridge's wrist camera
# is none there.
SECONDARY = {
    "bridge_orig": "image_1",
    "berkeley_cable_routing": "top_image",
    f"nyu_franka_play{EXTERNAL}": "image_additional_view",
    "fmb_dataset": "image_side_2",
    "droid": "exterior_image_2_left",
}
WRIST = {
    "bridge_orig": "image_3",
    "taco_play": "rgb_gripper",
    "jaco_play": "image_wrist",
    "berkeley_cable_routing": "wrist45_image",
    "viola": "eye_in_hand_rgb",
    "berkeley_autolab_ur5": "hand_image",
    f"stanford_hydra{EXTERNAL}": "wrist_image",
    f"austin_buds{EXTERNAL}": "wrist_image",
    f"furniture_bench{EXTERNAL}": "wrist_image",
    f"austin_sailor{EXTERNAL}": "wrist_image",
    f"austin_sirius{EXTERNAL}": "wrist_image",
    "iamlab_cmu_pickup_insert_converted_externally_to_rlds": "wrist_image",
    "utaustin_mutex": "wrist_image",
    "berkeley_fanuc_manipulation": "wrist_image",
    "fmb_dataset": "image_wrist_1",
    "droid": "wrist_image_left",
}

# Of what an observation holds: the sizes of the published features, and what the published transforms and
# `state_obs_keys` make of them, None a 0.
FEATURES = {
    "fractal20220817_data": {"base_pose_tool_reached": 7, "gripper_closed": 1},
    "kuka": {"clip_function_input/base_pose_tool_reached": 7, "gripper_closed": 1},
    "bridge_orig": {"state": 7},
    "taco_play": {"robot_obs": 15},
    "jaco_play": {"end_effector_cartesian_pos": 7},
    "berkeley_cable_routing": {"robot_state": 7},
    "viola": {"joint_states": 7, "gripper_states": 1},
    "berkeley_autolab_ur5": {"robot_state": 15},
    "toto": {"state": 7},
    "language_table": {"effector_translation": 2},
    f"stanford_hydra{EXTERNAL}": {"state": 27},
    f"austin_buds{EXTERNAL}": {"state": 24},
    f"nyu_franka_play{EXTERNAL}": {"state": 13},
    f"furniture_bench{EXTERNAL}": {"state": 35},
    f"ucsd_kitchen{EXTERNAL}": {"state": 21},
    f"austin_sailor{EXTERNAL}": {"state": 8},
    f"austin_sirius{EXTERNAL}": {"state": 8},
    "dlr_edan_shared_control_converted_externally_to_rlds": {"state": 7},
    "iamlab_cmu_pickup_insert_converted_externally_to_rlds": {"state": 20},
    "utaustin_mutex": {"state": 24},
    "berkeley_fanuc_manipulation": {"state": 13},
    "cmu_stretch": {"state": 4},
    "bc_z": {"present/xyz": 3, "present/axis_angle": 3, "present/sensed_close": 1},
    "fmb_dataset": {"eef_pose": 7, "state_gripper_pose": None},
    "dobbe": {"state": 7},
    "droid": {"cartesian_position": 6, "gripper_position": 1},
    "rh20t_rlds": {"tcp_base": 6, "gripper_width": None},
}
TRANSFORMED = {
    "bridge_orig": lambda s: [s[:, :6], None, s[:, -1:]],
    "taco_play": lambda s: [s[:, :6], None, s[:, 6:7]],
    "jaco_play": lambda s: [s[:, :6], None, s[:, -1:]],
    "berkeley_cable_routing": lambda s: [s, None],
    "berkeley_autolab_ur5": lambda s: [s[:, 6:14]],
    "toto": lambda s: [s, None],
    "language_table": lambda s: [s, *[None] * 6],
    f"stanford_hydra{EXTERNAL}": lambda s: [s[:, :3], s[:, 7:10], None, s[:, -3:-2]],
    f"austin_buds{EXTERNAL}": lambda s: [s[:, :8]],
    f"nyu_franka_play{EXTERNAL}": lambda s: [s[:, -6:], None, None],
    f"furniture_bench{EXTERNAL}": lambda s: [s[:, :7], s[:, -1:]],
    f"ucsd_kitchen{EXTERNAL}": lambda s: [s[:, :7], None],
    "dlr_edan_shared_control_converted_externally_to_rlds": lambda s: [s, None],
    "iamlab_cmu_pickup_insert_converted_externally_to_rlds": lambda s: [s[:, :7], s[:, 7:8]],
    "utaustin_mutex": lambda s: [s[:, :8]],
    "berkeley_fanuc_manipulation": lambda s: [s[:, :6], None, s[:, 6:7]],
    "cmu_stretch": lambda s: [s[:, :3], *[None] * 4, s[:, -1:]],
    "bc_z": lambda xyz, turned, closed: [xyz, turned, None, closed],
    "dobbe": lambda s: [s[:, :6], None, s[:, 6:]],
    "droid": lambda pose, gripper: [pose, None, gripper],
    "rh20t_rlds": lambda pose, width: [pose, None, width],
}


def observed(name):
    """What each state is made of, as a step holds it."""
    rng = np.random.default_rng(len(name))
    sizes = FEATURES.get(name, {})
    shapes = {key: (T,) if size is None else (T, size) for key, size in sizes.items()}
    return {f"observation/{key}": rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}


def actions(spec):
    """Any that the spec can read, and words."""
    name = spec.name
    steps = {key: GOLDENS[f"{name}/{key}"][:T] for key in spec.inputs}
    return steps | {spec.instruction: GOLDENS[f"{name}/{spec.instruction}"][:T]}


def opened(tmp_path, spec, steps=None, **written):
    steps = actions(spec) | observed(spec.name) if steps is None else steps
    size = next((camera.size for camera in spec.cameras.values()), None)
    root = write_steps(tmp_path / spec.name, spec, steps, size=size, **written)
    return OXESource(root, spec, cache=tmp_path / "cache")


@pytest.mark.parametrize("name", MIXTURE)
def test_cameras_and_state_are_the_published_ones(tmp_path, name):
    spec = SPECS[name]
    source = opened(tmp_path, spec)
    assert source.doubts == ()
    episode = source.episode(0)
    named = {"secondary": SECONDARY, "wrist": WRIST}
    keys = {called: f"observation/{keys[name]}" for called, keys in named.items() if name in keys}
    assert {called: camera.image for called, camera in spec.cameras.items()} == keys
    assert list(episode.other_views) == list(keys)
    for called, view in episode.other_views.items():
        number = spec.images.index(keys[called])
        # All of write_steps' pictures are in the order that is right for the first camera.
        color = np.array([COLOR[0] + 50 * number, *COLOR[1:]])
        expected = color if spec.cameras[called].channels == "rgb" else color[::-1]
        np.testing.assert_array_equal(view.images([0, 3])[1, 2, 2], expected)
        assert view.depth([0]) is None
        assert view.camera is None
        assert view.extrinsics is None

    if name == "roboturk":
        assert (episode.state, source.state_names) == (None, ())
        return
    steps = [values.reshape(T, -1) for values in observed(name).values()]
    parts = TRANSFORMED.get(name, lambda *all: all)(*steps)
    zeros = np.zeros((T, 1))
    expected = np.concatenate([zeros if part is None else part for part in parts], axis=1)
    assert episode.state.dtype == np.float64
    np.testing.assert_array_equal(episode.state, expected[spec.skip :][: len(episode)])
    assert expected.shape == (T, 8)
    assert len(source.state_names) == 8
    padded = [part is None for part in parts for _ in range(1 if part is None else part.shape[1])]
    assert [called == "pad" for called in source.state_names] == padded
    again = pickle.loads(pickle.dumps(source))
    assert (again.fingerprint, again.state_names) == (source.fingerprint, source.state_names)


def test_the_state_that_is_stored_packed(tmp_path):
    """kuka's tensors are zlib streams, one for each step."""
    spec, steps = SPECS["kuka"], actions(SPECS["kuka"]) | observed("kuka")
    root = write_steps(tmp_path / "plain", spec, steps)
    expected = OXESource(root, cache=tmp_path / "cache").episode(0).state
    nodes, stored = {}, {}
    for key, values in steps.items():
        if values.dtype.kind == "U":
            nodes[key], stored[f"steps/{key}"] = {"text": {}}, [text.encode() for text in values]
        else:
            nodes[key] = tensor("float32", values.shape[1:], "zlib")
            stored[f"steps/{key}"] = [zlib.compress(value.tobytes()) for value in values]
    picture = io.BytesIO()
    Image.new("RGB", (8, 6)).save(picture, "png")
    shape = {"dimensions": ["6", "8", "3"]}
    nodes[spec.image] = {"image": {"dtype": "uint8", "shape": shape, "encodingFormat": "png"}}
    stored[f"steps/{spec.image}"] = [picture.getvalue()] * T
    packed = write_dataset(
        tmp_path / "packed",
        nodes,
        {"success": tensor("bool")},
        [stored | {"success": np.array(True)}],
        "kuka",
    )
    np.testing.assert_array_equal(OXESource(packed, cache=tmp_path / "cache").episode(0).state, expected)


def test_only_pictures_that_are_asked_for_are_decoded(tmp_path, monkeypatch):
    seen, decode = [], features.decode_image
    monkeypatch.setattr(
        features, "decode_image", lambda spec, data: seen.append(spec.key) or decode(spec, data)
    )
    episode = opened(tmp_path, SPECS["fmb_dataset"]).episode(0)
    views = episode.other_views
    assert (list(views), episode.state.shape, seen) == (["secondary", "wrist"], (T, 8), [])
    views["wrist"].images([1, 2])
    assert seen == ["steps/observation/image_wrist_1"] * 2
    episode.images([0])
    assert seen[2:] == ["steps/observation/image_side_1"]


def test_droid_s_exterior_cameras_change_places_by_episode(tmp_path):
    """Published: the two are swapped at random whenever an episode is read; here those of odd number are."""
    source = opened(tmp_path, SPECS["droid"], kept=(True,) * 4)

    def reds(index):
        episode = source.episode(index)
        views = (episode, episode.other_views["secondary"], episode.other_views["wrist"])
        return [(int(view.images([1])[0, 0, 0, 0]) - COLOR[0]) // 50 for view in views]

    assert [reds(index) for index in (0, 1, 2, 3, 1)] == [
        [0, 1, 2],
        [1, 0, 2],
        [0, 1, 2],
        [1, 0, 2],
        [1, 0, 2],
    ]


def test_bridge_s_cameras_are_missing_where_there_was_none(tmp_path):
    spec = SPECS["bridge_orig"]
    flags = {
        "episode_metadata/has_image_1": [True, False, True],
        "episode_metadata/has_image_3": [False, False, True],
    }
    source = opened(tmp_path, spec, kept=(True,) * 3, of_episodes=flags)
    views = [list(source.episode(index).other_views) for index in range(3)]
    assert views == [["secondary"], [], ["secondary", "wrist"]]
    sample = OXESource(SAMPLE, cache=tmp_path / "cache").episode(0)
    assert set(sample.other_views) <= {"secondary", "wrist"}
    assert sample.state.shape == (len(sample), 8)
    stored = np.asarray(sample.view.stored.numbers("steps/observation/state"), np.float64)
    np.testing.assert_array_equal(sample.state[:, [0, 1, 2, 3, 4, 5, 7]], stored[1 : 1 + len(sample)])


def test_bridge_s_first_camera_stands_where_simplerenv_has_it():
    episode = OXESource(SAMPLE).episode(0)
    assert episode.extrinsics.shape == (len(episode), 4, 4)
    np.testing.assert_array_equal(episode.extrinsics[3], BRIDGE_POSE)
    # Beside the arm, upright, and looking down in front of it: the middle of the picture is on the table.
    np.testing.assert_allclose(np.linalg.det(BRIDGE_POSE[:3, :3]), 1)
    right, down, forward = BRIDGE_POSE[:3, :3].T
    assert forward[0] > 0.5 > 0 > forward[2]
    assert abs(right[2]) < 0.1
    assert down[2] < -0.5
    table = BRIDGE_POSE[:3, 3] - forward * BRIDGE_POSE[2, 3] / forward[2]
    assert 0.15 < table[0] < 0.5
    assert abs(table[1]) < 0.2
    pixels, depth = project(np.array([[0.3, 0.0, 0.1]]), BRIDGE.intrinsics, BRIDGE_POSE)
    assert (pixels[0] > 0).all()
    assert (pixels[0] < [640, 480]).all()
    assert depth[0] > 0.2


@pytest.mark.parametrize("name", ["berkeley_autolab_ur5", f"stanford_hydra{EXTERNAL}"])
def test_red_and_blue_of_a_wrist_camera(tmp_path, name):
    """What repairs the published files writes JPEG, and puts these cameras right, too."""
    spec = SPECS[name]
    number = spec.images.index(spec.cameras["wrist"].image)
    color = [COLOR[0] + 50 * number, *COLOR[1:]]
    original = opened(tmp_path, spec)
    np.testing.assert_array_equal(original.episode(0).other_views["wrist"].images([0])[0, 0, 0], color[::-1])
    root = write_steps(tmp_path / "copy", spec, actions(spec) | observed(name), "jpeg", (16, 16))
    repaired = OXESource(root, spec, cache=tmp_path / "cache", copy="repaired")
    np.testing.assert_allclose(repaired.episode(0).other_views["wrist"].images([0])[0, 8, 8], color, atol=4)
    if name == "berkeley_autolab_ur5":
        # Its first camera is right in either, so that the dataset opens; the wrist camera is missing.
        unknown = OXESource(root, spec, cache=tmp_path / "cache")
        assert list(unknown.episode(0).other_views) == []
        assert "was published as PNG of 640x480 with red and blue swapped" in unknown.doubts[0]
        assert unknown.doubts[0].endswith("; the camera 'wrist' is missing.")


def test_libero_s_wrist_camera_is_known(tmp_path):
    spec = SPECS["libero_spatial_no_noops"]
    steps = actions(spec) | {"observation/state": GOLDENS[f"{spec.name}/observation/state"][:T]}
    source = opened(tmp_path, spec, steps)
    episode = source.episode(0)
    assert episode.other_views["wrist"].camera is LIBERO_WRIST.camera
    np.testing.assert_array_equal(episode.state, steps["observation/state"])
    assert source.state_names[3:] == ("rx", "ry", "rz", "gripper_1", "gripper_2")


def test_copies_that_lack_a_camera_or_the_state(tmp_path):
    """They opened before their specs named these, and still do."""
    spec = SPECS["viola"]
    root = write_steps(tmp_path / "viola", replace(spec, cameras={}), actions(spec))
    source = OXESource(root, cache=tmp_path / "cache")
    assert source.doubts == (
        f"{root} has no 'steps/observation/eye_in_hand_rgb', which the spec of viola/0.1.0 names as its camera "
        "'wrist'; the closest of the right kind: observation/agentview_rgb; the camera 'wrist' is missing.",
        f"{root} has no numbers 'observation/joint_states' at each step, which are to be the arm's state; the state "
        "is missing.",
    )
    episode = source.episode(0)
    assert (episode.other_views, episode.state, source.state_names) == ({}, None, ())
    assert source.contents == OXESource(root, replace(spec, cameras={}, state=None), cache=tmp_path).contents
    assert source.fingerprint != OXESource(root, replace(spec, state=None), cache=tmp_path).fingerprint
    for lines, why in (
        (("cameras",), r"viola has no 'steps/observation/eye_in_hand_rgb', which the spec .* camera 'wrist'"),
        (("state",), r"viola has no numbers 'observation/joint_states' at each step"),
    ):
        with pytest.raises(InputError, match=why):
            OXESource(root, replace(spec, lines=lines), cache=tmp_path / "cache")


def test_states_of_another_size(tmp_path):
    spec = replace(SPECS["viola"], lines=("state",))
    steps = actions(spec) | observed("viola")
    larger = steps | {"observation/joint_states": np.zeros((T, 8), np.float32)}
    with pytest.raises(
        InputError, match=r"has a state of 9 numbers under 'observation/joint_states', '.*', not of 8"
    ):
        opened(tmp_path / "a", spec, larger)
    few = replace(spec, state=RLDSState(("observation/joint_states",), (0, 7), ("a", "b")))
    with pytest.raises(
        InputError, match="state of 7 numbers under 'observation/joint_states', of which there is no number 7"
    ):
        opened(tmp_path / "b", few, steps)


def test_a_state_that_is_not_finite(tmp_path):
    steps = actions(SPECS["dobbe"]) | observed("dobbe")
    steps["observation/state"][3, 1] = np.nan
    source = opened(tmp_path, SPECS["dobbe"], steps)
    assert len(source.episode(0).images([0])) == 1, "what does not need the state is read all the same"
    with pytest.raises(BadRecord, match="offset 0: the state of step 3 is not finite; leave the episode out"):
        _ = source.episode(0).state


POSES = np.tile(
    np.array([[0, 0.6, -0.8, 1.2], [1, 0, 0, 0], [0, -0.8, -0.6, 0.9], [0, 0, 0, 1]], np.float32), (T, 1, 1)
)
K = np.tile(np.array([[9, 0, 4], [0, 9, 3], [0, 0, 1]], np.float32), (T, 1, 1))


def with_stored_calibration(tmp_path, poses=POSES, intrinsics=K):
    lines = RLDSCamera(
        "observation/hand", intrinsics="observation/K", extrinsics=Extrinsics("observation/pose")
    )
    spec = replace(SPECS["dobbe"], cameras={"wrist": lines}, lines=("cameras",))
    steps = actions(spec) | observed("dobbe") | {"observation/pose": poses, "observation/K": intrinsics}
    return opened(tmp_path, spec, steps)


def test_what_the_files_say_of_a_camera(tmp_path):
    moved = POSES.copy()
    moved[2:, 0, 3] += 0.1
    view = with_stored_calibration(tmp_path / "a", moved).episode(0).other_views["wrist"]
    np.testing.assert_allclose(view.extrinsics, moved, atol=1e-6)
    assert (view.camera.height, view.camera.width, view.camera.intrinsics[0, 0]) == (6, 8, 9)
    unknown = with_stored_calibration(tmp_path / "b", 0 * POSES, 0 * K).episode(0).other_views["wrist"]
    assert (unknown.extrinsics, unknown.camera) == (None, None)
    stretched = POSES.copy()
    stretched[1, 0, 1] = 2
    with pytest.raises(
        BadRecord, match=r"offset 0, 'steps/observation/pose': Extrinsics must have a rotation"
    ):
        _ = with_stored_calibration(tmp_path / "c", stretched).episode(0).other_views["wrist"].extrinsics
    nan = K.copy()
    nan[0, 0, 0] = np.nan
    with pytest.raises(BadRecord, match=r"'steps/observation/K': Intrinsics contain NaN"):
        _ = with_stored_calibration(tmp_path / "d", POSES, nan).episode(0).other_views["wrist"].camera
    lines = RLDSCamera("observation/hand", extrinsics=Extrinsics("observation/state"))
    spec = replace(SPECS["dobbe"], cameras={"wrist": lines}, lines=("cameras",))
    with pytest.raises(
        InputError, match=r"has 'steps/observation/state', which is of another kind, .* extrinsics"
    ):
        opened(tmp_path / "e", spec)
