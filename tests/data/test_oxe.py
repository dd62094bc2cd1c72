"""Every dataset of the mixture, in its own schema, becomes (Δxyz, Δrpy, gripper with 1 = open)."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rlds_writer import COLOR, write_steps

from spatialvla.data import hand_motions
from spatialvla.data.episodes import MovingChunks
from spatialvla.data.oxe import actions
from spatialvla.data.oxe.mixtures import GRID_EXCLUDED, MIXTURES, mixture
from spatialvla.data.oxe.names import rlds_spec
from spatialvla.data.oxe.source import OXESource
from spatialvla.data.oxe.specs import SPECS
from spatialvla.data.rlds.tfrecord import BadRecord
from spatialvla.errors import InputError

T = 6
MOTION = np.arange(6 * T, dtype=np.float32).reshape(T, 6) / 100
CLOSE_THEN_OPEN = np.array([0, 1, 0, 0, -1, 0], np.float32)
OPEN = np.array([1, 0, 0, 0, 1, 1], np.float32)  # what those commands come to
TEXT = "observation/natural_language_instruction"
EULER = np.array([0.1, -0.2, 0.3])


def quaternion(roll, pitch, yaw):
    """x y z w, composed from the three half turns."""

    def times(a, b):
        (x1, y1, z1, w1), (x2, y2, z2, w2) = a, b
        return (
            w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
            w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
            w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
            w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
        )

    about_x = (np.sin(roll / 2), 0, 0, np.cos(roll / 2))
    about_y = (0, np.sin(pitch / 2), 0, np.cos(pitch / 2))
    about_z = (0, 0, np.sin(yaw / 2), np.cos(yaw / 2))
    return np.array(times(times(about_z, about_y), about_x), np.float32)


def beside(*columns):
    return np.concatenate([np.asarray(c, np.float32).reshape(T, -1) for c in columns], axis=1)


def dictionary(motion, closing_key="gripper_closedness_action", values=CLOSE_THEN_OPEN, rotation=True):
    steps = {"action/world_vector": motion[:, :3], f"action/{closing_key}": values}
    return steps | ({"action/rotation_delta": motion[:, 3:]} if rotation else {})


def flat(*columns, **others):
    return {"action": beside(*columns), "language_instruction": "Pick  it up", **others}


ZEROS, ONES = np.zeros(T), np.ones(T)
CODES = np.zeros((T, 512), np.int64)
CODES[:, :4] = list(map(ord, "push"))
LANGUAGE = (TEXT, "language_instruction", "observation/instruction")


def cases(motion):
    """What a step of each dataset holds beside its image; and motion and gripper as they shall come out.

    Where nothing moves, nothing turns either: quaternions are the identity there.
    """
    turns = np.where((motion == 0).all(axis=1, keepdims=True), 0, EULER)
    quaternions = np.stack([quaternion(*turn) for turn in turns])
    with_euler = np.concatenate([motion[:, :3], turns], axis=1)
    return {
        "fractal20220817_data": (dictionary(motion, values=CLOSE_THEN_OPEN[:, None]), motion, OPEN),
        "kuka": (dictionary(motion, values=CLOSE_THEN_OPEN[:, None]), motion, OPEN),
        "berkeley_autolab_ur5": (dictionary(motion), motion, OPEN),
        "jaco_play": (
            dictionary(motion, values=CLOSE_THEN_OPEN[:, None], rotation=False),
            beside(motion[:, :3], np.zeros((T, 3))),
            OPEN,
        ),
        "berkeley_cable_routing": (dictionary(motion, "terminate_episode"), motion, ZEROS),
        "roboturk": (dictionary(motion, values=1 - OPEN[:, None]), motion, OPEN),
        "viola": (dictionary(motion, values=np.where(OPEN, -1, 1)), motion, OPEN),
        "toto": (dictionary(motion, "open_gripper", OPEN.astype(np.int64)), motion, OPEN),
        "taco_play": ({"action/rel_actions_world": beside(motion, 2 * OPEN - 1)}, motion, OPEN),
        "language_table": (
            {"action": motion[:, :2], "observation/instruction": CODES},
            beside(motion[:, :2], np.zeros((T, 4))),
            ONES,
        ),
        "stanford_hydra": (flat(motion, 1 - OPEN), motion, OPEN),
        "austin_buds": (flat(motion, 1 - 2 * OPEN), motion, OPEN),
        "nyu_franka_play": (flat(np.full((T, 7), 9), motion, OPEN, ZEROS), motion, OPEN),
        "furniture_bench": (flat(motion[:, :3], quaternions, 1 - 2 * OPEN), with_euler, OPEN),
        "ucsd_kitchen": (flat(motion, OPEN, ZEROS), motion, OPEN),
        "austin_sailor": (flat(motion, 1 - 2 * OPEN), motion, OPEN),
        "austin_sirius": (flat(motion, 1 - 2 * OPEN), motion, OPEN),
        "dlr_edan": (flat(motion, 1 - OPEN), motion, OPEN),
        "iamlab_cmu": (flat(motion[:, :3], quaternions, OPEN), with_euler, OPEN),
        "utaustin_mutex": (flat(motion, 1 - 2 * OPEN), motion, OPEN),
        "berkeley_fanuc": (
            flat(motion, **{"observation/state": beside(np.full((T, 6), 9), 1 - OPEN, np.full((T, 6), 9))}),
            motion,
            OPEN,
        ),
        "cmu_stretch": (flat(motion, OPEN, ZEROS), motion, OPEN),
        "bc_z": (
            {
                "action/future/xyz_residual": beside(motion[:, :3], np.full((T, 27), 9)),
                "action/future/axis_angle_residual": beside(motion[:, 3:], np.full((T, 27), 9)),
                "action/future/target_close": np.repeat(1 - OPEN[:, None], 10, 1).astype(np.int64),
            },
            motion,
            OPEN,
        ),
        "fmb": (flat(motion, OPEN), motion, OPEN),
        "dobbe": (flat(motion, OPEN), motion, OPEN),
        "droid": (
            {
                "action_dict/cartesian_velocity": motion,
                "action_dict/gripper_position": 1 - OPEN[:, None],
                "language_instruction": "Pick it up",
            },
            motion,
            OPEN,
        ),
        "rh20t": (
            {
                "observation/tcp_base": beside(np.full((T, 3), 0.4), np.zeros((T, 3))),
                "action/tcp_base": beside(motion[:, :3] + 0.4, motion[:, 3:]),
                "action/gripper": OPEN.astype(np.int64),
                "language_instruction": "Pick it up",
            },
            motion,
            OPEN,
        ),
        "libero_spatial": (flat(motion, 1 - 2 * OPEN), motion, OPEN),
        "maniskill": (flat(motion, 2 * OPEN - 1), motion, OPEN),
        "kaist": (flat(motion, np.full((T, 14), 9)), motion, ZEROS),
        # Measured on its way: 0.4 becomes what the gripper settles at.
        "tdroid": (flat(motion, np.where(OPEN, 0.97, [0, 0.4, 0.02, 0, 0, 0])), motion, OPEN),
    }


CASES = cases(MOTION)
LIBERO = next(key for key in CASES if key.startswith("libero"))


def case(spec, motion=MOTION):
    """The one of a spec; all LIBERO suites are alike."""
    name = LIBERO if spec.name.startswith("libero") else spec.name
    return cases(motion)[next(key for key in CASES if name.startswith(key))]


def written(tmp_path, spec, steps, text="Pick  it up"):
    """One episode of T steps, written in TFDS's form and read again."""
    if not any("instruction" in key for key in steps):
        steps = {**steps, TEXT: text}
    steps = {key: np.array([value] * T) if isinstance(value, str) else value for key, value in steps.items()}
    root = write_steps(tmp_path / spec.name, spec, steps)
    return OXESource(root, spec, cache=tmp_path / "cache").episode(0)


ALL_BUT_BRIDGE = [name for name in SPECS if name != "bridge_orig"]


@pytest.mark.parametrize("name", ALL_BUT_BRIDGE)
def test_each_dataset_in_its_own_schema(tmp_path, name):
    spec = SPECS[name]
    steps, motion, is_open = case(spec)
    episode = written(tmp_path, spec, steps)
    assert episode.instruction in ("Pick  it up", "Pick it up", "push", "pick it up")
    assert episode.actions.dtype == np.float64
    np.testing.assert_allclose(episode.actions[:, :6], motion, atol=1e-6)
    np.testing.assert_allclose(episode.actions[:, 6], is_open)
    color = COLOR if spec.channels == "rgb" else COLOR[::-1]
    np.testing.assert_array_equal(episode.images([0, T - 1]), np.full((2, *(spec.size or (6, 8)), 3), color))
    assert episode.depth([0]) is None
    # The first step of MOTION is not all zeros, so nothing is filtered but by request.
    assert len(episode.starts) == T


@pytest.mark.parametrize("name", ALL_BUT_BRIDGE)
def test_each_dataset_without_words_or_motion(tmp_path, name):
    """No-ops are found whatever the notation, and a missing instruction is empty."""
    spec = replace(SPECS[name], drop_no_ops=True)
    motion = MOTION.copy()
    motion[[1, 4]] = 0
    steps, expected, _ = case(spec, motion)
    for key in LANGUAGE:
        if key in steps:
            steps = {**steps, key: " " if isinstance(steps[key], str) else np.zeros_like(steps[key])}
    episode = written(tmp_path, spec, steps, text="")
    assert episode.instruction == ""
    np.testing.assert_allclose(episode.actions[:, :6], expected, atol=1e-6)
    assert episode.starts.tolist() == [0, 2, 3, 5]


def test_every_dataset_of_the_mixture_has_a_case():
    assert len(MIXTURES["oxe_spatial_vla_plus"]) == 28
    tested = {"bridge_orig"} | {next(key for key in SPECS if key.startswith(name)) for name in CASES}
    assert set(MIXTURES["oxe_spatial_vla_plus"]) <= tested
    left = set(MIXTURES["oxe_spatial_vla_plus"]) - set(MIXTURES["oxe_spatial_vla_plus_stage2"])
    assert left == {"droid"}
    assert set(SPECS) >= GRID_EXCLUDED


# Of data/oxe/mixtures.py in the published code: datasets, and the sum of their weights.
REGISTRY = {
    "bridge": (1, 1.0),
    "fractal": (1, 1.0),
    "bridge_rt_1": (2, 2.0),
    "rtx": (10, 14.37497585143),
    "rtx_franka": (20, 28.57497585143),
    "oxe_magic_soup_plus": (27, 31.03497585143),
    "oxe_spatial_vla_plus": (28, 27.81587122203),
    "oxe_spatial_vla_plus_stage2": (27, 27.75587122203),
}


def test_the_published_registry_is_complete():
    assert {
        name: (len(weights), pytest.approx(sum(weights.values()))) for name, weights in MIXTURES.items()
    } == REGISTRY
    assert {name for weights in MIXTURES.values() for name in weights} <= set(SPECS)
    # Its mixtures of one dataset under its own name.
    for name in ("toto", "kuka", "droid", "droid_wipe", "tdroid_pour_corn_in_pot"):
        assert mixture(name) == {name: 1.0}
    assert mixture("rtx")["berkeley_cable_routing"] == 3.0
    # The first weight holds where one is named twice.
    assert mixture("rtx_franka")["taco_play"] == 2.0
    changed = {
        name
        for name, weight in mixture("oxe_magic_soup_plus").items()
        if mixture("oxe_spatial_vla_plus")[name] != weight
    }
    assert changed == {"kuka", "toto", "berkeley_fanuc_manipulation", "fmb_dataset"}


def test_bridge_moves_as_its_states_do(tmp_path):
    spec = rlds_spec("bridge_orig/1.0.0")
    state = np.cumsum(beside(MOTION, OPEN), axis=0)
    opening = np.array([1, 1, 0.7, 0.2, 0.01, 0.5], np.float32)
    steps = {
        "action": beside(np.full((T, 6), 9), opening),
        "observation/state": state,
        "language_instruction": "",
    }
    episode = written(tmp_path, spec, steps)
    # Without the first step, and without the last, after which there is no state.
    np.testing.assert_allclose(episode.actions[:, :6], MOTION[2:], atol=1e-6)
    assert episode.actions[:, 6].tolist() == [1, 0, 0, 0]
    assert episode.instruction == ""
    assert episode.camera.width == 640


def test_the_real_bridge_is_read(tmp_path):
    source = OXESource(Path(__file__).parent / "rlds" / "bridge_orig", cache=tmp_path)
    for index, raw in enumerate(source.dataset):
        episode = source.episode(index)
        assert len(episode) == len(raw) - 2
        assert episode.instruction.startswith("put the red block")
        assert episode.images([0]).shape == (1, 256, 256, 3)
        state = raw.numbers("steps/observation/state")
        np.testing.assert_allclose(episode.actions[:, :6], np.diff(state[1:, :6], axis=0), atol=1e-6)


def test_a_source_knows_its_spec_and_crosses_to_other_processes(tmp_path):
    root = Path(__file__).parent / "rlds" / "bridge_orig"
    source = OXESource(root, cache=tmp_path)
    assert (source.key, source.control_hz, len(source), source.left_out) == ("bridge_orig/1.0.0", 5.0, 4, ())
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again.episode(2).actions, source.episode(2).actions)
    np.testing.assert_array_equal(again.episode(2).images([3]), source.episode(2).images([3]))
    assert again.fingerprint == source.fingerprint
    changed = replace(source.spec, skip=0)
    assert OXESource(root, changed, cache=tmp_path).fingerprint != source.fingerprint
    assert pickle.loads(pickle.dumps(OXESource(root, changed, cache=tmp_path))).spec.skip == 0
    with pytest.raises(
        InputError, match=r"has no 'steps/observation/image', which the spec of kuka/0\.1\.0 names"
    ):
        OXESource(root, "kuka", cache=tmp_path)


def test_a_source_of_which_a_shard_breaks_off(tmp_path):
    for path in (Path(__file__).parent / "rlds" / "bridge_orig").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    whole = OXESource(tmp_path, cache=tmp_path / "cache")
    fingerprint = whole.fingerprint
    (shard,) = tmp_path.glob("*00001-of-00002")
    shard.write_bytes(shard.read_bytes()[:-50])
    with pytest.raises(BadRecord, match="00001-of-00002"):
        OXESource(tmp_path, cache=tmp_path / "cache")
    rest = OXESource(tmp_path, on_bad="skip", cache=tmp_path / "cache")
    assert (len(rest), len(rest.left_out)) == (3, 1)
    assert rest.fingerprint != fingerprint


def droid(tmp_path, motion, episodes=1):
    steps = {
        "action_dict/cartesian_velocity": motion,
        "action_dict/gripper_position": np.zeros((len(motion), 1), np.float32),
        "language_instruction": np.array(["go"] * len(motion)),
    }
    root = write_steps(tmp_path / "droid", SPECS["droid"], steps, kept=(True,) * episodes)
    return OXESource(root, cache=tmp_path / "cache")


def test_droid_drops_the_samples_whose_whole_chunk_stands_still(tmp_path):
    """As the published `zero_action_filter`, which sees normalized chunks and compares them with a normalized 0."""
    motion = np.zeros((12, 6), np.float32)
    motion[3, 4], motion[7, 0], motion[9, 5] = 0.02, 9e-6, -1e-4
    source = droid(tmp_path, motion)
    assert source.episode(0).starts.tolist() == list(range(12))
    q01, q99 = droid_bounds()
    still = (0 - q01) / (q99 - q01) * 2 - 1
    for chunk in (1, 4, 20):
        rows = np.minimum(np.arange(12)[:, None] + np.arange(chunk), 11)
        normalized = np.clip(2 * (motion[rows] - q01) / (q99 - q01) - 1, -1, 1)
        published = np.flatnonzero((np.abs(normalized - still) > 1e-5).any(axis=(1, 2)))
        ours = MovingChunks(source, chunk).episode(0).starts
        # 9e-6 lies between the two thresholds: 1e-5 of the normalized and of the stored numbers.
        assert set(published) - set(ours) <= {7 - step for step in range(chunk)}
        assert ours.tolist() == [
            start for start in range(12) if any(start <= step < start + chunk for step in (3, 9))
        ]
    assert MovingChunks(source, 4).episode(0).starts.tolist() == [0, 1, 2, 3, 6, 7, 8, 9]


def droid_bounds():
    """q01 and q99 of the published checkpoint, which its filter holds as constants."""
    path = Path(__file__).parents[1] / "goldens" / "published" / "processor_config.json"
    action = json.loads(path.read_text())["statistics"]["droid/1.0.0"]["action"]
    return np.array(action["q01"])[:6], np.array(action["q99"])[:6]


def test_droid_is_seen_from_its_two_exterior_cameras_in_turn(tmp_path):
    source = droid(tmp_path, MOTION, episodes=4)
    reds = [int(source.episode(index).images([2])[0, 0, 0, 0]) for index in (0, 1, 2, 3, 1, 0)]
    assert reds == [COLOR[0] + 50 * number for number in (0, 1, 0, 1, 1, 0)]
    root, spec = source.dataset.storage.root, replace(source.spec, other_image="observation/hand")
    with pytest.raises(InputError, match="has no 'steps/observation/hand'"):
        OXESource(root, spec, cache=tmp_path / "cache")
    # The intrinsics are of the first camera alone.
    spec = replace(source.spec, camera=SPECS["bridge_orig"].camera)
    cameras = [OXESource(root, spec, cache=tmp_path / "cache").episode(index).camera for index in (0, 1)]
    assert (cameras[0], cameras[1]) == (spec.camera, None)


def rh20t(observed, reached):
    return actions.rh20t(np.array([observed]), np.array([reached]), np.array([1]))[0]


def test_rh20t_moves_between_its_poses():
    # The tool points down, and yaw goes on past the end of its range.
    moved = rh20t([0.5, 0.1, 0.2, np.pi, 0, 3.1], [0.49, 0.1, 0.25, np.pi, 0, -3.1])
    np.testing.assert_allclose(moved, [-0.01, 0, 0.05, 0, 0, 2 * np.pi - 6.2, 1], atol=1e-12)
    # A turn about the base's x axis, not about the tool's.
    moved = rh20t([0.5, 0, 0.2, 0, 0, np.pi / 2], [0.5, 0, 0.2, 0, -0.1, np.pi / 2])
    np.testing.assert_allclose(moved, [0, 0, 0, 0.1, 0, 0, 1], atol=1e-12)


def test_rh20t_s_poses_that_no_arm_reaches(tmp_path):
    steps, _, _ = case(SPECS["rh20t_rlds"])
    steps["action/tcp_base"][2, 1] = -8.7e36
    with pytest.raises(BadRecord, match=r"offset 0: a pose lies 8\.7e\+36 m from the robot's base"):
        written(tmp_path, SPECS["rh20t_rlds"], steps)


def test_bad_numbers_and_unknown_names(tmp_path):
    spec = rlds_spec("dobbe")
    broken = beside(MOTION, OPEN)
    broken[3, 2] = np.nan
    with pytest.raises(BadRecord, match=r"offset 0 has actions that are not finite"):
        written(tmp_path, spec, {"action": broken, "language_instruction": ""})
    with pytest.raises(InputError, match="the closest are bridge_orig"):
        rlds_spec("bridge_data/1.0.0")
    with pytest.raises(InputError, match=r"no mixture or dataset .* did you mean oxe_magic_soup_plus"):
        mixture("oxe_magic")
    assert mixture("kuka/0.1.0") == {"kuka": 1.0}


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.05, 1.0]), min_size=1))
def test_commands_hold_until_the_next(commands):
    state = hand_motions.from_closing_commands(np.array(commands))
    given_ = [c for c in commands if abs(c) > 0.1]
    expected = 1.0 if not given_ else float(given_[0] > 0)
    for command, value in zip(commands, state, strict=True):
        expected = {1.0: 0.0, -1.0: 1.0}.get(command, expected)
        assert value == expected


@given(st.lists(st.floats(0, 1), min_size=1))
def test_openings_settle(values):
    settled = hand_motions.settled(np.array(values))
    carry = values[-1]
    for value, result in zip(reversed(values), reversed(settled.tolist()), strict=True):
        carry = 1.0 if value > 0.95 else 0.0 if value < 0.05 else carry
        assert result == carry


@given(st.tuples(*[st.floats(-1.5, 1.5)] * 3))
def test_roll_pitch_yaw_invert_the_quaternion(angles):
    np.testing.assert_allclose(actions.roll_pitch_yaw(quaternion(*angles)[None])[0], angles, atol=2e-3)


def test_datasets_are_known_by_the_name_their_files_give_them():
    names = {"bridge_dataset": "bridge_orig/1.0.0", "r2d2_faceblur": "droid/1.0.0"}
    names |= {"liber_o10": "libero_10_no_noops/1.0.0", "libero_spatial": "libero_spatial_no_noops/1.0.0"}
    assert {name: rlds_spec(name).key for name in names} == names
