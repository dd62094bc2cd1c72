"""LeRobot datasets of many conventions become (Δxyz, Δrpy, gripper with 1 = open), as their mappings say."""

import json
import pickle
import shutil
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects

from spatialvla.data.lerobot import Feature, LeRobotDataset, LeRobotWriter
from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.data.lerobot.reader import StoredEpisode
from spatialvla.data.lerobot.source import LeRobotSource
from spatialvla.errors import CheckpointError, InputError
from spatialvla.geometry.rotations import matrices, motion

SAMPLE = Path(__file__).parent / "lerobot_v3"
TOP = "observation.images.top"
T = 9
RNG = np.random.default_rng(3)
POSITIONS = np.cumsum(RNG.normal(size=(T, 3)), axis=0)
ANGLES = RNG.uniform(-0.6, 0.6, (T, 3))
TURNS = matrices(ANGLES, "euler")
GRIPPER = np.array([100, 100, 80, 20, 0, 0, 0, 50, 100.0])[:, None]
K = np.array([[40.0, 0, 8], [0, 40, 8], [0, 0, 1]])


def axis_angles():
    found = []
    for turn in TURNS:
        angle = np.arccos((np.trace(turn) - 1) / 2)
        skew = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
        found.append(skew * angle / (2 * np.sin(angle)))
    return np.array(found)


def quaternions():
    angle = np.linalg.norm(axis_angles(), axis=1, keepdims=True)
    return np.concatenate([axis_angles() / angle * np.sin(angle / 2), np.cos(angle / 2)], axis=1)


NOTATIONS = {"euler": ANGLES, "axis_angle": axis_angles(), "quaternion_xyzw": quaternions()}


def write(root, numbers, images=(TOP,), names=None, task="Pick it up", depth=False, episodes=1):
    """Episodes of 16x16 images; frame t is of color t."""
    color = np.broadcast_to(np.arange(T, dtype=np.uint8)[:, None, None, None] * 20, (T, 16, 16, 3))
    features = [Feature(name, "image", (16, 16, 3)) for name in images]
    features += [
        Feature(name, "float64", values.shape[1:], (names or {}).get(name))
        for name, values in numbers.items()
    ]
    frames = {**dict.fromkeys(images, color.copy()), **numbers}
    if depth:
        features.append(Feature("observation.depth.top", "depth", (16, 16)))
        frames["observation.depth.top"] = np.full((T, 16, 16), 0.5, np.float32)
    writer = LeRobotWriter(root, 10, features)
    for _ in range(episodes):
        writer.add_episode(frames, task)
    writer.finalize()
    return root


def mapped(root, **content):
    return LeRobotSource(root, FeatureMapping.from_dict(content))


def expected_motion(frame="base"):
    return motion(POSITIONS[:-1], TURNS[:-1], POSITIONS[1:], TURNS[1:], frame)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    action = np.concatenate([RNG.normal(size=(T, 6)), GRIPPER / 100], axis=1)
    action[[2, 5], :6] = 0
    numbers = {"action": action, "observation.intrinsics": np.tile(K, (T, 1, 1))}
    root = tmp_path_factory.mktemp("plain") / "my_robot"
    return write(root, numbers, depth=True, episodes=2), action


def test_without_a_mapping_the_action_is_taken_as_it_is(plain):
    root, action = plain
    source = LeRobotSource(root)
    assert (len(source), source.key, source.control_hz) == (2, "my_robot", 10.0)
    episode = source.episode(1)
    assert episode.instruction == "Pick it up"
    np.testing.assert_array_equal(episode.actions, action)
    assert episode.starts.tolist() == list(range(T))
    np.testing.assert_array_equal(episode.camera.intrinsics, K)
    assert (episode.camera.height, episode.camera.width) == (16, 16)
    images = episode.images([7, 0, 7])
    assert images.shape == (3, 16, 16, 3)
    assert images[:, 0, 0, 0].tolist() == [140, 0, 140]
    np.testing.assert_allclose(episode.depth([3]), np.full((1, 16, 16), 0.5))
    np.testing.assert_array_equal(episode.columns["action"], action)


def test_a_source_crosses_to_other_processes(plain):
    source = mapped(plain[0], key="mine", drop_no_ops=True)
    again = pickle.loads(pickle.dumps(source))
    assert (again.key, again.fingerprint) == ("mine", source.fingerprint)
    np.testing.assert_array_equal(again.episode(0).starts, [0, 1, 3, 4, 6, 7, 8])
    assert source.fingerprint != LeRobotSource(plain[0]).fingerprint


def test_the_fingerprint_tells_another_state_of_the_data(plain, tmp_path):
    root = Path(shutil.copytree(plain[0], tmp_path / "my_robot"))
    before = LeRobotSource(root).fingerprint
    (file,) = (root / "data").rglob("*.parquet")
    contents = LeRobotSource(root).contents
    file.touch()
    assert LeRobotSource(root).fingerprint != before
    assert LeRobotSource(root).contents == contents
    stats = root / "meta" / "stats.json"
    stats.write_text(stats.read_text().replace("0.", "1.", 1))  # as long as before
    assert LeRobotSource(root).contents != contents


@pytest.mark.parametrize("frame", ["base", "tool"])
@pytest.mark.parametrize("rotation", NOTATIONS)
def test_absolute_poses_become_the_motion_from_the_pose_before(tmp_path, rotation, frame):
    poses = np.concatenate([POSITIONS * 1000, NOTATIONS[rotation], GRIPPER], axis=1)
    source = mapped(
        write(tmp_path / "d", {"action": poses}),
        action={"convention": "absolute", "rotation": rotation, "frame": frame, "meters": 0.001},
        gripper={"min": 0, "max": 100, "open": 0},
    )
    episode = source.episode(0)
    np.testing.assert_allclose(episode.actions[:, :6], expected_motion(frame), atol=1e-9)
    np.testing.assert_allclose(episode.actions[:, 6], 1 - GRIPPER[1:, 0] / 100)
    # The first command has none before it, so the first action is the second frame's.
    assert episode.images([0])[0, 0, 0, 0] == 20


def test_absolute_poses_may_be_relative_to_the_state(tmp_path):
    commands = np.concatenate([POSITIONS, np.degrees(ANGLES), GRIPPER / 100], axis=1)
    state = np.concatenate([np.full((T, 1), 9), commands[:, :6]], axis=1)
    state[1:, 1:] = commands[:-1, :6]
    source = mapped(
        write(tmp_path / "d", {"action": commands, "observation.state": state}),
        action={
            "convention": "absolute",
            "relative_to": "observation.state",
            "relative_indices": [1, 2, 3, 4, 5, 6],
            "radians": np.pi / 180,
        },
    )
    actions = source.episode(0).actions
    assert len(actions) == T
    np.testing.assert_allclose(actions[0, :6], 0, atol=1e-9)
    np.testing.assert_allclose(actions[1:, :6], expected_motion(), atol=1e-9)


def test_motion_is_taken_from_states_as_bridge_does(tmp_path):
    state = np.concatenate([np.full((T, 2), 9), POSITIONS, quaternions(), GRIPPER / 100], axis=1)
    numbers = {"action": np.concatenate([np.zeros((T, 5)), GRIPPER], axis=1), "observation.state": state}
    root = write(tmp_path / "d", numbers)
    action = {"from_state": "observation.state", "rotation": "quaternion_xyzw"}
    measured = mapped(root, action={**action, "indices": [2, 3, 4, 5, 6, 7, 8, 9]}).episode(0)
    np.testing.assert_allclose(measured.actions[:, :6], expected_motion(), atol=1e-9)
    np.testing.assert_allclose(measured.actions[:, 6], GRIPPER[1:, 0] / 100)
    assert measured.images([0])[0, 0, 0, 0] == 0
    commanded = mapped(
        root,
        action={**action, "indices": [2, 3, 4, 5, 6, 7, 8]},
        gripper={"feature": "action", "index": 5, "max": 100},
    ).episode(0)
    np.testing.assert_allclose(commanded.actions[:, 6], GRIPPER[:-1, 0] / 100)


def test_deltas_in_any_notation_and_from_several_features(tmp_path):
    numbers = {"motion": POSITIONS, "turn": axis_angles(), "hand": GRIPPER / 50 - 1}
    source = mapped(
        write(tmp_path / "d", numbers),
        action={"feature": ["motion", "turn", "hand"], "rotation": "axis_angle", "meters": 0.05},
        gripper={"min": -1},
        instruction="Sweep",
        intrinsics={"K": K.tolist(), "height": 32, "width": 32},
    )
    episode = source.episode(0)
    np.testing.assert_allclose(episode.actions, np.concatenate([POSITIONS * 0.05, ANGLES, GRIPPER / 100], 1))
    assert episode.instruction == "Sweep"
    assert episode.camera.height == 32


JOINTS = [f"joint_{number}" for number in range(6)] + ["gripper"]
POSE = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]
SEVEN = np.ones((T, 7))
TO_STATE = {"convention": "absolute", "relative_to": "observation.state"}


@pytest.mark.parametrize(
    ("numbers", "options", "mapping", "message"),
    [
        ({"action": SEVEN}, {"images": (TOP, "wrist")}, {}, r"the cameras observation.images.top, wrist; .*'image: …'"),
        ({"action": SEVEN}, {}, {"image": "front"}, r"not front; choose one with --camera or .*'image: …'"),
        ({"action": np.ones((T, 9))}, {}, {}, r"holds 9 numbers \(without names\), not the 7 .*indices: \[...\]"),
        ({"act": SEVEN}, {}, {}, r"no feature of numbers 'action'; the line 'action: .*' takes one of act"),
        (
            {"action": SEVEN, "observation.state": SEVEN},
            {"names": {"action": JOINTS, "observation.state": POSE}},
            {},
            r"holds joint angles \(joint_0.*motions of the hand; take the motion from .*from_state.* observation.state",
        ),
        ({"action": SEVEN}, {"names": {"action": JOINTS}}, {}, "has no pose of the hand that could stand in"),
        ({"action": SEVEN}, {}, {"action": {"indices": [0, 1, 2, 3, 4, 5]}}, "the action has no gripper"),
        ({"action": SEVEN}, {}, {"action": {"indices": [0, 1, 2, 3, 4, 5, 7]}}, "has the indices 0 to 6, not 7"),
        (
            {"action": SEVEN[:, :6], "grip": SEVEN},
            {},
            {"gripper": {"feature": "grip", "index": 7}},
            "'grip' has the indices 0 to 6, not 7",
        ),
        ({"action": SEVEN}, {}, {"action": {"rotation": "quaternion_xyzw"}}, "holds 7 numbers .* not the 8"),
        (
            {"action": np.ones((T, 8)), "observation.state": SEVEN},
            {},
            {"action": {**TO_STATE, "rotation": "quaternion_xyzw", "relative_indices": [0, 1, 2, 3, 4, 5, 7]}},
            "'observation.state' has the indices 0 to 6, not 7",
        ),
        (
            {"action": SEVEN, "observation.state": np.ones((T, 8))},
            {"names": {"observation.state": [*POSE, "width"]}},
            {"action": TO_STATE},
            r"relative_to: 'observation.state' holds 8 numbers \(x, .*\), not the 6 .*relative_indices: \[...\]",
        ),
        (
            {"action": np.ones((T, 8)), "observation.state": SEVEN[:, :6]},
            {},
            {"action": {**TO_STATE, "rotation": "quaternion_xyzw"}},
            "holds 6 numbers .* not the 7 of a pose as the action's",
        ),
        (
            {"action": SEVEN, "observation.state": SEVEN[:, :6]},
            {"names": {"observation.state": JOINTS[:6]}},
            {"action": TO_STATE},
            r"relative_to: 'observation.state' holds joint angles \(joint_0",
        ),
        ({"action": SEVEN}, {}, {"depth": "far"}, "there is no depth 'far'; correct"),
        ({"action": SEVEN}, {}, {"intrinsics": "action"}, "there is no feature 'action' of 3x3 numbers"),
    ],
)  # fmt: skip
def test_what_is_left_open_is_settled_by_a_line(tmp_path, numbers, options, mapping, message):
    root = write(tmp_path / "d", numbers, **options)
    with pytest.raises(InputError, match=message):
        mapped(root, **mapping)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imag: top", "unknown key 'imag'; the closest are image"),
        ("action: {convension: delta}", r"unknown key 'action\.convension'; the closest are convention"),
        ("action: {convention: relative}", r"action\.convention is 'relative'; choose from delta, absolute"),
        ("gripper: {open: 2}", "'open: 1' where its max is open or 'open: 0' where its min is"),
        ("gripper: {min: 1, max: 1}", "a finite min below its max"),
        ("gripper: {open: true}", r"gripper\.open is True, which is no int"),
        ("drop_no_ops: 1", "drop_no_ops is 1, which is no bool"),
        ("action: delta", "action needs lines of the form 'key: value'"),
        ("action: {indices: [0, 1]}", "name 2 numbers; with rotation euler there are 7"),
        ("action: {from_state: s, convention: absolute}", "leave out 'convention: absolute'"),
        ("action: {relative_to: s}", "relative_to is for poses"),
        ("action: {meters: 0}", "must be positive"),
        ("intrinsics: {K: [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}", "intrinsics lacks .*'height' and 'width'"),
        ("intrinsics: {K: [[0]], height: 1, width: 1}", "3x3"),
        (
            "intrinsics: {K: [[1, 0, 0], [0, 1, 0], [0, 0, 1]], height: 480, width: 640}",
            "focal length of fx = 1",
        ),
        ("- image", "needs lines of the form"),
        ("image: [", "is no readable YAML"),
        ("!!python/object/apply:os.system ['true']", "is no readable YAML"),
    ],
)
def test_mistakes_in_a_mapping_are_one_sentence_that_names_the_file(tmp_path, text, message):
    path = tmp_path / "mapping.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        FeatureMapping.load(path)
    assert "mapping.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_mapping_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(InputError, match=r"absent\.yaml does not exist; name the mapping's YAML file\.$"):
        FeatureMapping.load(tmp_path / "absent.yaml")


def test_the_mapping_in_its_own_documentation_can_be_read(tmp_path):
    import spatialvla.data.lerobot.feature_mapping as module

    (tmp_path / "mapping.yaml").write_text(dedent(module.__doc__.split("\n\n", 1)[1]))
    mapping = FeatureMapping.load(tmp_path / "mapping.yaml")
    assert mapping.action.convention == "absolute"
    assert mapping.gripper.open == 0
    (tmp_path / "empty.yaml").write_text("")
    assert FeatureMapping.load(tmp_path / "empty.yaml") == FeatureMapping()


def test_actions_that_are_not_finite_name_the_episode(tmp_path, monkeypatch):
    poses = np.zeros((T, 8))  # quaternions of length 0
    source = mapped(write(tmp_path / "d", {"action": poses}), action={"rotation": "quaternion_xyzw"})
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(CheckpointError, match="episode 0 has actions that are not"),
    ):
        source.episode(0)


def test_a_gripper_in_another_unit_is_its_episodes_damage(tmp_path):
    action = np.concatenate([SEVEN[:, :6], GRIPPER], axis=1)
    source = mapped(write(tmp_path / "d", {"action": action}), gripper={"open": 1})
    with pytest.raises(CheckpointError, match=r"d, episode 0: the gripper goes from 0 to 100, far outside"):
        source.episode(0)


def test_intrinsics_may_be_unknown(tmp_path):
    numbers = {"action": SEVEN, "observation.intrinsics": np.zeros((T, 3, 3))}
    root = write(tmp_path / "d", numbers)
    assert LeRobotSource(root).episode(0).camera is None
    numbers["observation.intrinsics"][:] = K
    known = write(tmp_path / "e", numbers)
    assert LeRobotSource(known).episode(0).camera is not None
    assert mapped(known, intrinsics="none").episode(0).camera is None


def test_the_real_dataset_with_video(tmp_path):
    source = mapped(SAMPLE, image=TOP)
    episode, raw = source.episode(2), LeRobotDataset(SAMPLE).episode(2)
    np.testing.assert_array_equal(episode.actions, raw.columns["action"].astype(np.float64))
    whole = raw.frames(TOP)
    np.testing.assert_array_equal(episode.images([59, 0, 31]), whole[[59, 0, 31]])
    assert episode.depth([0]) is None
    assert episode.camera is None


def test_steps_outside_of_the_episode_are_errors():
    raw = LeRobotDataset(SAMPLE).episode(2)
    for steps in ([60], [-1], []):
        with pytest.raises(InputError, match="has the steps 0 to 59"):
            raw.frames(TOP, steps)


def test_a_dataset_on_the_hub_is_downloaded(monkeypatch, tmp_path):
    asked = []

    def download(name, repo_type, cache_dir, ignore_patterns):
        asked.append((name, repo_type, cache_dir, ignore_patterns))
        if name == "someone/absent":
            raise OSError("no network")
        return str(SAMPLE)

    def download_file(name, file, repo_type, cache_dir):
        assert file == "meta/info.json"
        if name == "someone/rlds":
            raise EntryNotFoundError("404")
        if name == "someone/offline":
            raise LocalEntryNotFoundError("no network, and nothing kept")
        return str(SAMPLE / file)

    monkeypatch.setattr("spatialvla.data.lerobot.location.snapshot_download", download)
    monkeypatch.setattr("spatialvla.data.lerobot.location.hf_hub_download", download_file)
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path))
    source = LeRobotSource("someone/blocks", FeatureMapping(image=TOP), cache=tmp_path / "cache")
    assert (source.key, len(source)) == ("someone/blocks", 5)
    assert asked == [("someone/blocks", "dataset", tmp_path / "cache", None)]
    assert pickle.loads(pickle.dumps(source)).key == "someone/blocks"
    assert len(asked) == 1, "another process opens what was downloaded"
    with pytest.raises(InputError, match=r"'someone/absent', neither as a folder.*from the Hub \(OSError\)"):
        LeRobotSource("someone/absent")
    with pytest.raises(InputError, match="no dataset 'a/b/c'"):
        LeRobotSource("a/b/c")
    # Nor are videos of cameras that nobody wants.
    asked.clear()
    LeRobotSource("someone/blocks", FeatureMapping(image=TOP), cameras=())
    ((*_, left_out),) = asked
    files = [str(path.relative_to(SAMPLE)) for path in SAMPLE.rglob("*") if path.is_file()]
    kept = list(filter_repo_objects(files, ignore_patterns=left_out))
    assert {path for path in files if "wrist" in path} == set(files) - set(kept) != set()
    # Nor any where no picture is looked at, whichever camera is the first.
    asked.clear()
    unseen = LeRobotSource("someone/blocks", pictures=False)
    ((*_, left_out),) = asked
    assert {path for path in files if "videos/" in path} == set(files) - set(
        filter_repo_objects(files, ignore_patterns=left_out)
    )
    np.testing.assert_array_equal(unseen.episode(1).actions, source.episode(1).actions)
    # Nor anything where the mapping does not fit, or where there is something else on the Hub.
    asked.clear()
    with pytest.raises(InputError, match="there are the cameras"):
        LeRobotSource("someone/blocks", cameras=())
    with pytest.raises(InputError, match=r"no LeRobot dataset: .* such as hf://datasets/someone/rlds/FOLDER"):
        LeRobotSource("someone/rlds")
    with pytest.raises(InputError, match=r"'someone/offline'.*\(LocalEntryNotFoundError\)"):
        LeRobotSource("someone/offline")
    assert not asked


def test_an_arm_that_does_not_turn_its_hand(tmp_path):
    still = np.concatenate([POSITIONS, GRIPPER / 100], axis=1)
    root = write(tmp_path / "scara", {"action": still, "observation.state": still})
    with pytest.raises(InputError, match=r"holds 4 numbers .*'action: \{rotation: …\}', which may be none"):
        LeRobotSource(root)
    none = {"rotation": "none"}
    taken = mapped(root, action=none).episode(0).actions
    np.testing.assert_array_equal(taken, np.concatenate([POSITIONS, np.zeros((T, 3)), GRIPPER / 100], axis=1))
    moved = np.concatenate([np.diff(POSITIONS, axis=0), np.zeros((T - 1, 3))], axis=1)
    for action in (none | {"convention": "absolute"}, none | {"from_state": "observation.state"}):
        np.testing.assert_allclose(mapped(root, action=action).episode(0).actions[:, :6], moved, atol=1e-7)
    chosen = mapped(root, action=none | {"indices": [2, 1, 0, 3], "meters": 0.5}).episode(0).actions
    np.testing.assert_allclose(chosen[:, :3], POSITIONS[:, ::-1] / 2)


def test_a_mapping_may_write_numbers_with_an_exponent(tmp_path):
    (tmp_path / "mapping.yaml").write_text("action: {meters: 1e-3}", encoding="utf-8")
    assert FeatureMapping.load(tmp_path / "mapping.yaml").action.meters == 1e-3


def test_files_behind_links_are_read_and_their_changes_seen(plain, tmp_path):
    root = Path(shutil.copytree(plain[0], tmp_path / "real"))
    linked = tmp_path / "linked"
    (linked / "data").mkdir(parents=True)
    (linked / "meta").symlink_to(root / "meta")
    (linked / "data/chunk-000").symlink_to(root / "data/chunk-000")
    source = LeRobotSource(linked)
    before = source.fingerprint
    np.testing.assert_array_equal(source.episode(0).actions, plain[1])
    (root / "data/chunk-000/file-000.parquet").touch()
    assert LeRobotSource(linked).fingerprint != before


def test_a_colon_in_a_path_is_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a:b").mkdir()
    shutil.copytree(SAMPLE, "a:b/set:1")
    images = LeRobotSource("a:b/set:1", FeatureMapping(image=TOP)).episode(0).images([3])
    np.testing.assert_array_equal(
        images, LeRobotSource(SAMPLE, FeatureMapping(image=TOP)).episode(0).images([3])
    )


def test_stored_intrinsics_of_pictures_whose_size_is_unclear_are_refused(plain, tmp_path):
    root = Path(shutil.copytree(plain[0], tmp_path / "my_robot"))
    path = root / "meta/info.json"
    info = json.loads(path.read_text(encoding="utf-8"))
    info["features"][TOP]["shape"] = [32, 32, 3]
    path.write_text(json.dumps(info), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"pictures of 16x16 where info\.json says 32x32"):
        LeRobotSource(root).episode(0).images([0])
    given = {"K": K.tolist(), "height": 24, "width": 32}
    for intrinsics in ("none", given):
        assert mapped(root, intrinsics=intrinsics).episode(0).images([0]).shape == (1, 16, 16, 3)


def test_a_stored_camera_that_cannot_be_is_refused_and_the_way_out_named(tmp_path):
    root = write(tmp_path / "d", {"action": SEVEN, "observation.intrinsics": np.tile(np.eye(3), (T, 1, 1))})
    with pytest.raises(
        CheckpointError, match=r"focal length of fx = 1 .*'intrinsics: …' says others, or none"
    ):
        LeRobotSource(root).episode(0)
    assert mapped(root, intrinsics="none").episode(0).camera is None


@pytest.mark.parametrize(
    ("meters", "sentence"), [(900.0, "reaches 900 meters"), (np.nan, "NaN"), (-1.0, "negative")]
)
def test_stored_depth_that_no_sensor_measures_is_refused(plain, monkeypatch, meters, sentence):
    episode = LeRobotSource(plain[0]).episode(0)
    assert episode.depth([0]).max() == pytest.approx(0.5)
    monkeypatch.setattr(
        StoredEpisode, "frames", lambda self, key, steps: np.full((len(steps), 4, 4), meters, np.float32)
    )
    with pytest.raises(CheckpointError, match=f"'observation.depth.top': .*{sentence}"):
        episode.depth([0])
