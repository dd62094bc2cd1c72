"""An RLDS dataset of the user's own is described by a file."""

import io
import pickle
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
from PIL import Image
from rlds_writer import COLOR, tensor, write_dataset, write_steps

import spatialvla.data.oxe.spec_file as module
from spatialvla.data.oxe import actions
from spatialvla.data.oxe.source import OXESource
from spatialvla.data.oxe.spec import RLDSCamera, RLDSSpec
from spatialvla.data.oxe.spec_file import find_spec, load_spec
from spatialvla.data.sources import open_source
from spatialvla.data.survey import survey
from spatialvla.errors import InputError
from spatialvla.geometry.known_cameras import BRIDGE as BRIDGE_CAMERA

BRIDGE = Path(__file__).parent / "rlds" / "bridge_orig"
T = 5
MOTION = np.arange(6 * T, dtype=np.float32).reshape(T, 6) / 100
COMMANDS = np.array([0, 1, 0, -1, 0], np.float32)
POSES = np.cumsum(MOTION, axis=0, dtype=np.float32)
STEPS = {
    "action/world_vector": MOTION[:, :3],
    "action/rotation_delta": MOTION[:, 3:],
    "action/gripper_closedness_action": COMMANDS,
    "observation/pose": np.concatenate([POSES, np.linspace(0, 1, T, dtype=np.float32)[:, None]], axis=1),
    "observation/K": np.tile(np.array([[9, 0, 4], [0, 9, 3], [0, 0, 1]], np.float32), (T, 1, 1)),
    "observation/natural_language_instruction": np.array(["pick it up"] * T),
    "observation/meters": np.full((T, 6, 8), 2, np.float32),
}
HEAD = """
name: mine
version: 2.1.0
control_hz: 4
image: observation/image
instruction: observation/natural_language_instruction
"""
AS_KUKA = HEAD + (
    "action: {feature: [action/world_vector, action/rotation_delta]}\n"
    "gripper: {feature: action/gripper_closedness_action, open: 0, min: -1, commands: true}\n"
)


def file(tmp_path, text):
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    return path


@pytest.fixture
def root(tmp_path):
    return write_steps(tmp_path / "mine/1.0.0", RLDSSpec("anything", 1, actions.seven), STEPS)


def described(root, tmp_path, text):
    return OXESource(root, str(file(tmp_path, text)), cache=tmp_path / "cache")


def test_a_file_says_what_a_shipped_spec_says(root, tmp_path):
    source = open_source(root, spec=str(file(tmp_path, AS_KUKA)), cache=tmp_path / "cache")
    assert (source.key, source.control_hz, source.units.control_hz) == ("mine/2.1.0", 4.0, 4.0)
    episode = source.episode(0)
    shipped = OXESource(root, "kuka", cache=tmp_path / "cache", copy="repaired").episode(0)
    np.testing.assert_array_equal(episode.actions, shipped.actions)
    assert episode.actions[:, 6].tolist() == [1, 0, 0, 1, 1]
    assert episode.instruction == "pick it up"
    np.testing.assert_array_equal(episode.images([0, 3]), shipped.images([0, 3]))
    again = pickle.loads(pickle.dumps(source))
    assert again.fingerprint == source.fingerprint
    np.testing.assert_array_equal(again.episode(0).actions, episode.actions)
    assert described(root, tmp_path, AS_KUKA + "skip: 1").fingerprint != source.fingerprint


def test_motions_between_poses(root, tmp_path):
    """Of T poses there are T - 1 motions: of commanded poses each is of the later step, of states of the earlier."""
    expected = np.diff(POSES[:, :3], axis=0)
    commanded = described(
        root, tmp_path, HEAD + "skip: 1\naction: {feature: observation/pose, convention: absolute, meters: 2}"
    ).episode(0)
    np.testing.assert_allclose(commanded.actions[:, :3], 2 * expected[1:], atol=1e-6)
    np.testing.assert_allclose(commanded.actions[:, 6], [0.5, 0.75, 1])
    assert (len(commanded), commanded.first_step, len(commanded.images([0, 1, 2]))) == (3, 2, 3)
    states = described(root, tmp_path, HEAD + "action: {from_state: observation/pose}")
    assert states.units.frame == "base"
    episode = states.episode(0)
    np.testing.assert_allclose(episode.actions[:, :3], expected, atol=1e-6)
    np.testing.assert_allclose(episode.actions[:, 6], [0.25, 0.5, 0.75, 1])
    assert (len(episode), episode.first_step) == (4, 0)


@pytest.mark.parametrize("action", ["feature", "from_state"])
@pytest.mark.parametrize("more", ["", ", frame: tool", "}\ngripper: {commands: true"])
def test_episodes_of_which_nothing_is_left_are_empty(root, tmp_path, action, more):
    source = described(root, tmp_path, f"{HEAD}skip: {T}\naction: {{{action}: observation/pose{more}}}")
    assert len(source.episode(0)) == 0
    assert survey(source).empty == 1


def test_the_camera_is_given_or_stored(root, tmp_path):
    assert described(root, tmp_path, AS_KUKA).episode(0).camera is None
    given = "intrinsics: {K: [[60, 0, 32], [0, 60, 24], [0, 0, 1]], height: 48, width: 64}"
    camera = described(root, tmp_path, AS_KUKA + given).episode(0).camera
    assert camera.scaled_to(6, 8)[0, 0] == 7.5
    camera = described(root, tmp_path, AS_KUKA + "intrinsics: observation/K").episode(0).camera
    assert (camera.height, camera.width, camera.intrinsics[0, 0]) == (6, 8, 9)


def depth_pictures(folder):
    """One episode with 16-bit depth in millimeters; the episode, not its steps, has words and K."""

    def png(values):
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, "PNG")
        return buffer.getvalue()

    picture = {"dtype": "uint8", "shape": {"dimensions": ["6", "8", "3"]}}
    nodes = {
        "image": {"image": picture},
        "depth": {"image": picture | {"dtype": "uint16", "shape": {"dimensions": ["6", "8", "1"]}}},
        "action": tensor("float32", (7,)),
    }
    episode = {
        "steps/image": [png(np.full((6, 8, 3), 7, np.uint8))] * 3,
        "steps/depth": [png(np.full((6, 8), 500 * step, np.uint16)) for step in range(3)],
        "steps/action": np.ones((3, 7), np.float32),
        "words": [b"open the drawer"],
        "K": np.eye(3, dtype=np.float32) * [[8], [8], [1]],
    }
    return write_dataset(folder, nodes, {"words": {"text": {}}, "K": tensor("float32", (3, 3))}, [episode])


def test_depth_is_in_meters_whatever_is_stored(root, tmp_path):
    maps = described(root, tmp_path, AS_KUKA + "depth: {feature: observation/meters, meters: 1}").episode(0)
    np.testing.assert_array_equal(maps.depth([1, 3]), np.full((2, 6, 8), 2, np.float32))
    pictures = depth_pictures(tmp_path / "depth")
    lines = "name: d\ncontrol_hz: 5\nimage: image\ninstruction: words\nintrinsics: K\ndepth: {feature: depth}"
    episode = described(pictures, tmp_path, lines).episode(0)
    depth = episode.depth([0, 2])
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, np.broadcast_to([[[0]], [[1]]], (2, 6, 8)))
    assert episode.instruction_at(2) == "open the drawer"
    assert episode.camera.intrinsics[0, 0] == 8
    assert described(root, tmp_path, AS_KUKA).episode(0).depth([0]) is None


def test_a_dataset_without_words(root, tmp_path):
    text = AS_KUKA.replace("instruction: observation/natural_language_instruction", "instruction: none")
    assert described(root, tmp_path, text).episode(0).instruction == ""
    text = text.replace("instruction: none", "instruction: {text: wipe the table}")
    assert described(root, tmp_path, text).episode(0).instruction_at(T - 1) == "wipe the table"


def test_a_file_may_differ_from_a_shipped_spec_in_some_lines(tmp_path):
    shipped = OXESource(BRIDGE, cache=tmp_path / "cache")
    same = described(BRIDGE, tmp_path, "like: bridge_dataset")
    assert (same.spec.camera, same.units) == (BRIDGE_CAMERA, shipped.units)
    assert same.fingerprint != described(BRIDGE, tmp_path, "like: bridge_orig\nskip: 0").fingerprint
    np.testing.assert_array_equal(same.episode(1).actions, shipped.episode(1).actions)
    other = described(BRIDGE, tmp_path, "like: bridge_orig\nimage: observation/image_1\nname: mine")
    assert (other.key, other.episode(0).camera, other.units) == ("mine/1.0.0", None, shipped.units)
    seen = other.episode(1)
    assert (seen.view.found.lines.image, list(seen.other_views)) == ("observation/image_1", [])
    assert (seen.extrinsics, shipped.episode(1).extrinsics.shape) == (None, (len(seen), 4, 4))
    assert list(other.spec.cameras) == ["wrist"]
    moved = described(BRIDGE, tmp_path, "like: bridge_orig\naction: {convention: delta}")
    np.testing.assert_array_equal(
        moved.episode(0).actions, shipped.dataset.episode(0).numbers("steps/action")[1:]
    )


def test_another_camera_stands_alone(tmp_path):
    spec = load_spec(file(tmp_path, "like: droid\nimage: observation/exterior_image_2_left"))
    assert (spec.image, spec.other_image) == ("observation/exterior_image_2_left", None)
    assert [camera.image for camera in spec.cameras.values()] == ["observation/wrist_image_left"]
    same = load_spec(file(tmp_path, "like: droid\ncontrol_hz: 15"))
    assert (same.other_image, len(same.images)) == ("observation/exterior_image_2_left", 3)


def test_the_file_in_its_own_documentation_can_be_read(tmp_path):
    spec = load_spec(file(tmp_path, dedent(module.__doc__.split("\n\n", 1)[1])))
    assert (spec.key, spec.depth_meters, spec.channels) == ("my_robot/1.0.0", 0.001, "bgr")
    assert spec.inputs == ("action/world_vector", "action/rotation_delta", "action/gripper")


def test_further_cameras_and_the_state(tmp_path):
    """All that is said of the first camera can be said of another, and what is said has to be there."""
    kuka = RLDSSpec("mine", 1, actions.seven, cameras={"hand": RLDSCamera("observation/hand")})
    root = write_steps(tmp_path / "mine/1.0.0", kuka, STEPS)
    lines = AS_KUKA + (
        "cameras:\n  hand: {image: observation/hand, channels: bgr, depth: {feature: observation/meters, meters: 1},\n"
        "    intrinsics: observation/K,\n"
        "    extrinsics: {matrix: [[0, 0.6, -0.8, 1.2], [1, 0, 0, 0], [0, -0.8, -0.6, 0.9], [0, 0, 0, 1]]}}\n"
    )
    source = described(root, tmp_path, lines + "state: {feature: observation/pose}\nskip: 1")
    episode = source.episode(0)
    hand = episode.other_views["hand"]
    assert episode.images([0])[0, 0, 0].tolist() == [*COLOR]
    assert hand.images([0])[0, 0, 0].tolist() == [COLOR[2], COLOR[1], COLOR[0] + 50]
    np.testing.assert_array_equal(hand.depth([2]), np.full((1, 6, 8), 2, np.float32))
    assert (hand.camera.intrinsics[0, 0], hand.extrinsics.shape, hand.extrinsics[1, 0, 3]) == (
        9,
        (T - 1, 4, 4),
        1.2,
    )
    np.testing.assert_array_equal(episode.state, STEPS["observation/pose"][1:])
    assert source.state_names == tuple(f"pose_{number}" for number in range(7))
    assert source.contents != described(root, tmp_path, AS_KUKA + "skip: 1").contents
    for line, why in (
        (
            "cameras: {hand: observation/wrist}",
            r"has no .steps/observation/wrist., .* as its camera .hand.",
        ),
        (
            "state: {feature: observation/poses}",
            "no feature of numbers 'observation/poses'; the line 'state: .* none",
        ),
        (
            "state: {feature: observation/pose, indices: [7]}",
            "has the indices 0 to 6, not 7; correct the line 'state",
        ),
    ):
        with pytest.raises(InputError, match=why):
            described(root, tmp_path, AS_KUKA + line)


def test_what_a_shipped_spec_has_beside_the_first_camera_can_be_left_out(tmp_path):
    spec = load_spec(file(tmp_path, "like: utaustin_mutex\ncameras: {wrist: none}\nstate: none"))
    assert (spec.cameras, spec.state, spec.lines) == ({}, None, ("cameras", "state"))
    colors = load_spec(file(tmp_path, "like: utaustin_mutex\nchannels: rgb"))
    assert [(camera.channels, camera.size) for camera in colors.cameras.values()] == [("rgb", None)]
    added = load_spec(file(tmp_path, "like: viola\ncameras: {top: observation/top}"))
    assert list(added.cameras) == ["wrist", "top"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"a spec needs the line 'name: …'; or 'like: …' a shipped spec"),
        ("name: mine\nimage: i\ninstruction: none", "needs the line 'control_hz: …'"),
        (AS_KUKA + "imag: x", "unknown key 'imag'; the closest are image"),
        (AS_KUKA + "depth: {meters: 1}", r"depth lacks .*'feature'; it has feature, meters"),
        (AS_KUKA + "depth: {feature: d, meters: 0}", "depth.meters must be positive"),
        (AS_KUKA.replace("hz: 4", "hz: 0"), "control_hz must be positive"),
        (AS_KUKA.replace("version: 2.1.0", "version: 2.1"), "version is 2.1, which is no str"),
        (AS_KUKA + "skip: -1", "skip is a number of steps, not -1"),
        (AS_KUKA + "channels: grb", "channels is 'grb'; choose from rgb, bgr"),
        (
            AS_KUKA + "cameras: {image: observation/image}",
            "the camera 'image' is the first one, whose lines stand",
        ),
        (
            AS_KUKA + "cameras: {hand: observation/image}",
            "'image' and 'hand' both look through 'observation/image'",
        ),
        (
            AS_KUKA + "cameras: {a: {image: x}, b: x}",
            "the cameras 'a' and 'b' both look through 'x'; leave one out",
        ),
        (AS_KUKA + "cameras: {hand: {imag: x}}", r"unknown key 'cameras\.hand\.imag'; the closest are image"),
        (AS_KUKA + "cameras: [hand]", "cameras needs lines of the form 'name: …'"),
        (AS_KUKA + "state: observation/pose", "state is 'observation/pose'; say which numbers it is"),
        (
            AS_KUKA + "state: {feature: observation/pose, indices: [1, 1]}",
            "state indices name a number twice: 1, 1",
        ),
        (
            AS_KUKA + "extrinsics: {matrix: [[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]]}",
            "without scale",
        ),
        (AS_KUKA + "gripper_pose: {feature: p, rotation: none}", "gripper_pose needs a rotation"),
        (AS_KUKA + "units: {gripper: [1, 0]}", "say otherwise than the line 'units'"),
        ("like: bridge_data", "no spec for the dataset 'bridge_data'; the closest are bridge_orig"),
        ("like: kuka\ngripper: {open: 0}", "the gripper is that of kuka unless .* 'action: …'"),
        ("- name", "a spec needs lines of the form 'key: value'"),
        ("name: [", "no readable YAML"),
    ],
)
def test_mistakes_in_a_file_are_one_sentence_that_names_it(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as error:
        load_spec(file(tmp_path, text))
    assert "spec.yaml" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("image: observation/images", r"has no 'steps/observation/images', .* as its image; .*: observation/image\."),
        ("image: observation/pose", r"'steps/observation/pose', which is of another kind, .* as its image"),
        ("instruction: text", "has no 'steps/text', .* as its instruction; .* observation/natural_language_instr"),
        ("depth: {feature: observation/depth}", "as its depth; .*: observation/meters"),
        ("intrinsics: observation/k", r"as its intrinsics; .*: observation/K\."),
        ("action: {feature: action}", "does not fit the spec of mine/2.1.0: there is no feature of numbers 'action'"),
        ("action: {feature: observation/pose, rotation: axis_angle}", r"holds 7 numbers .*, not the 6 of position"),
        ("gripper: {feature: observation/pose, index: 7}", "'observation/pose' has the indices 0 to 6, not 7"),
    ],
)  # fmt: skip
def test_features_that_a_dataset_lacks_are_answered_with_the_closest(root, tmp_path, line, message):
    key = line.partition(":")[0]
    lines = [kept for kept in AS_KUKA.splitlines() if not kept.startswith(f"{key}:")]
    with pytest.raises(InputError, match=message) as error:
        described(root, tmp_path, "\n".join([*lines, line]))
    assert str(error.value).startswith(str(root))


def test_specs_by_name_and_by_file(tmp_path):
    assert find_spec("r2d2_faceblur").name == "droid"
    assert find_spec(str(file(tmp_path, AS_KUKA))).name == "mine"
    with pytest.raises(InputError, match=r"absent\.yaml does not exist; name the spec's YAML file\."):
        find_spec("absent.yaml")
    with pytest.raises(
        InputError, match=r"closest are kuka.*A file of your own \(\.yaml\) describes any other"
    ):
        find_spec("kukaa")
