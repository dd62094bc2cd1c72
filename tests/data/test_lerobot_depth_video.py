"""Depth as LeRobot's 12-bit video, read: what lerobot 0.6.1 wrote and decodes."""

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from spatialvla.data.frame_cache import CachedSource
from spatialvla.data.inspection import inspect
from spatialvla.data.lerobot import Feature, LeRobotDataset, LeRobotWriter
from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.data.lerobot.source import LeRobotSource
from spatialvla.errors import CheckpointError, InputError
from spatialvla.viz.dataset import contact_sheet
from spatialvla.viz.drawing import png

SAMPLE = Path(__file__).parent / "lerobot_v3_depth"
EXPECTED = np.load(SAMPLE.with_name("lerobot_v3_depth_expected.npz"))["depth_m"]
TOP, DEPTH = "observation.images.top", "observation.images.top_depth"
THROUGH_TOP = FeatureMapping(image=TOP)
VIDEO = f"videos/{DEPTH}/chunk-000/file-000.mp4"
SMALLEST = 0.01


def without_holes_of_lerobot():
    """What lerobot decodes, with 0 where that is the smallest depth."""
    return np.where(EXPECTED > SMALLEST + 1e-6, EXPECTED, 0)


@pytest.fixture
def copied(tmp_path):
    return Path(shutil.copytree(SAMPLE, tmp_path / "dataset"))


def describe(root, **entries):
    """Changes what info.json says of the depth; None takes an entry out."""
    path = root / "meta/info.json"
    content = json.loads(path.read_text())
    info = content["features"][DEPTH]["info"]
    for name, value in entries.items():
        name = name if name in ("depth_unit", "is_depth_map") else f"video.{name}"
        info[name] = value
        if value is None:
            del info[name]
    path.write_text(json.dumps(content))


def test_decodes_as_lerobot_does_with_holes_at_0():
    dataset = LeRobotDataset(SAMPLE)
    assert dataset.features[DEPTH].shape == (48, 64)
    readings = np.concatenate([episode.frames(DEPTH) for episode in dataset])
    assert readings.dtype == np.float32
    np.testing.assert_allclose(readings, without_holes_of_lerobot(), rtol=0, atol=2e-6)
    assert 0 < (readings == 0).mean() < 0.1


def test_single_steps_are_those_of_the_episode():
    episode = LeRobotDataset(SAMPLE).episode(1)
    np.testing.assert_array_equal(episode.frames(DEPTH, [7, 2, 7]), episode.frames(DEPTH)[[7, 2, 7]])


def test_a_source_finds_the_depth_of_its_camera():
    source = LeRobotSource(SAMPLE, THROUGH_TOP)
    assert source.camera.depth.name == DEPTH
    first = source.episode(0)
    np.testing.assert_allclose(
        first.depth(range(len(first))), without_holes_of_lerobot()[: len(first)], rtol=0, atol=2e-6
    )
    assert LeRobotSource(SAMPLE, FeatureMapping(image="observation.images.wrist")).camera.depth is None


def test_a_mapping_names_any_depth():
    source = LeRobotSource(SAMPLE, FeatureMapping(image="observation.images.wrist", depth=DEPTH))
    assert source.episode(0).depth([0]).shape == (1, 48, 64)


def test_the_frame_cache_keeps_depth_and_its_holes(tmp_path):
    cached = CachedSource(LeRobotSource(SAMPLE, THROUGH_TOP), 32, tmp_path)
    readings = cached.episode(0).depth([0, 3])
    assert readings.shape == (2, 32, 32)
    assert (readings == 0).any()
    measured = readings[readings > 0]
    assert 0.09 < measured.min() < measured.max() < 1.9


def test_an_inspection_tells_range_and_holes():
    found = inspect(LeRobotSource(SAMPLE, THROUGH_TOP))
    depth = found.cameras[0].depth
    readings = without_holes_of_lerobot()
    assert depth.size == (48, 64)
    assert (depth.nearest, depth.farthest) == pytest.approx(
        np.quantile(readings[readings > 0], (0.01, 0.99)), abs=0.02
    )
    assert depth.holes == pytest.approx((readings == 0).mean(), abs=0.02)
    assert not any("depth" in warning for warning in found.warnings)
    assert png(contact_sheet(found)).startswith(b"\x89PNG")


def test_an_inspection_of_all_pictures_finds_damaged_depth(copied):
    path = copied / VIDEO
    path.write_bytes(path.read_bytes()[:67000])
    found = inspect(LeRobotSource(copied, THROUGH_TOP), decode=True)
    assert len(found.omissions.pictures) == 1
    assert found.omissions.pictures[0].startswith("Episode 2: ")
    assert VIDEO in found.omissions.pictures[0]


def test_the_fingerprint_knows_the_depth(copied):
    source = LeRobotSource(copied, THROUGH_TOP)
    before = source.fingerprint, source.contents
    path = copied / VIDEO
    path.write_bytes(path.read_bytes() + b"\0\0\0\x08free")
    source = LeRobotSource(copied, THROUGH_TOP)
    assert source.fingerprint != before[0]
    assert source.contents != before[1]


def test_linear_codes_are_linear(copied):
    """The same codes, said to be linear from 0.01 to 4.105 m: a millimeter each."""
    before = LeRobotDataset(SAMPLE).episode(0).frames(DEPTH)
    describe(copied, use_log=False, depth_max=4.105)
    after = LeRobotDataset(copied).episode(0).frames(DEPTH)
    code = (np.log(before[before > 0] + 3.5) - np.log(3.51)) / (np.log(13.5) - np.log(3.51)) * 4095
    np.testing.assert_allclose(after[before > 0], 0.01 + np.rint(code) * 1e-3, atol=1e-6)
    assert not after[before == 0].any()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"depth_unit": "cm"}, "depth_unit = cm; correct it to 'm' or 'mm'"),
        ({"depth_min": 10, "depth_max": 10000, "shift": 3500}, "are meters, not millimeters"),
        ({"depth_max": 0.005}, "depth_min = 0.01 to depth_max = 0.005"),
        ({"shift": None}, "video.shift = None"),
        ({"depth_max": "far"}, "video.depth_max = far"),
        ({"use_log": 1}, "video.use_log = 1"),
        ({"depth_max": True}, "video.depth_max = True"),
        ({"depth_max": 10**30}, "video.depth_max = 1000"),
        ({"depth_unit": ["m"]}, "depth_unit = "),
        ({"shift": -0.5}, "depth_min [+] shift above 0, not -0.49"),
    ],
)
def test_a_description_that_cannot_be_is_one_sentence(copied, entries, message):
    describe(copied, **entries)
    with pytest.raises(InputError, match=message) as raised:
        LeRobotSource(copied, THROUGH_TOP)
    assert DEPTH in str(raised.value)
    assert str(raised.value).count(". ") == 0
    with pytest.raises(CheckpointError, match=message):
        LeRobotDataset(copied).episode(0).frames(DEPTH)
    other = LeRobotSource(copied, FeatureMapping(image="observation.images.wrist"))
    assert other.others == {}
    assert other.doubts[0].startswith(f"The camera 'top' is left out: '{DEPTH}': ")
    with pytest.raises(InputError, match=message):
        LeRobotSource(copied, other.mapping, cameras=["top"])


def test_depth_in_unknown_steps_is_left_out(copied):
    describe(copied, depth_min=None, depth_max=None, shift=None, use_log=None)
    assert DEPTH not in LeRobotDataset(copied).features
    assert LeRobotSource(copied, THROUGH_TOP).camera.depth is None
    with pytest.raises(InputError, match=r"no depth 'observation.images.top_depth'; correct.*how a video's"):
        LeRobotSource(copied, FeatureMapping(image=TOP, depth=DEPTH))


def test_codes_in_the_brightness_of_a_color_video(copied):
    """LeRobot's other pixel format for depth."""
    before = LeRobotDataset(copied).episode(0).frames(DEPTH)
    shutil.move(copied / VIDEO, copied / "gray.mp4")
    with av.open(str(copied / "gray.mp4")) as gray, av.open(str(copied / VIDEO), "w") as colored:
        stream = colored.add_stream("libx265", rate=10, options={"x265-params": "lossless=1:log-level=none"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p12le"
        for frame in gray.decode(video=0):
            other = av.VideoFrame(64, 48, "yuv420p12le")
            other.planes[0].update(bytes(frame.planes[0]))
            for plane in other.planes[1:]:
                plane.update(np.full(plane.buffer_size // 2, 2048, "<u2").tobytes())
            colored.mux(stream.encode(other))
        colored.mux(stream.encode())
    np.testing.assert_array_equal(LeRobotDataset(copied).episode(0).frames(DEPTH), before)


def test_a_picture_in_place_of_depth_is_named(copied):
    shutil.copy(copied / VIDEO.replace("top_depth", "top"), copied / VIDEO)
    with pytest.raises(CheckpointError, match=r"top_depth.*file-000.mp4.*yuv420p, and depth has 12 bits"):
        LeRobotSource(copied, THROUGH_TOP).episode(0).depth([0])


@pytest.mark.parametrize("kept", [0, 1000, 60000])
def test_a_truncated_video_is_named(copied, kept):
    path = copied / VIDEO
    path.write_bytes(path.read_bytes()[:kept])
    last = LeRobotSource(copied, THROUGH_TOP).episode(2)
    with pytest.raises(CheckpointError, match=r"file-000\.mp4.*copy it again"):
        last.depth(range(len(last)))


def test_damaged_depth_leaves_out_the_episode(copied, tmp_path):
    path = copied / VIDEO
    path.write_bytes(path.read_bytes()[:60000])
    source = LeRobotSource(copied, THROUGH_TOP)
    with pytest.raises(CheckpointError, match="file-000"):
        CachedSource(source, 32, tmp_path / "a")
    cached = CachedSource(source, 32, tmp_path / "b", on_bad="skip")
    with pytest.raises(CheckpointError, match="file-000"):
        cached.episode(2)
    assert cached.episode(0).depth([0]).any()


def test_images_of_an_unknown_unit_are_refused(tmp_path):
    kinds = [
        Feature(TOP, "image", (16, 16, 3)),
        Feature(DEPTH, "depth", (16, 16)),
        Feature("action", "float32", (7,)),
    ]
    writer = LeRobotWriter(tmp_path, 10, kinds)
    pictures = np.zeros((2, 16, 16, 3), np.uint8)
    writer.add_episode(
        {TOP: pictures, DEPTH: np.full((2, 16, 16), 0.8), "action": np.zeros((2, 7), np.float32)}, "look"
    )
    writer.finalize()
    assert LeRobotSource(tmp_path).camera.depth.name == DEPTH
    describe(tmp_path, depth_unit="m")
    with pytest.raises(CheckpointError, match=r"Depth reaches 800 meters.*not millimeters"):
        LeRobotSource(tmp_path).episode(0).depth([0])
    describe(tmp_path, depth_unit="inch")
    with pytest.raises(InputError, match="depth_unit = inch; correct it to 'm' or 'mm'"):
        LeRobotSource(tmp_path)
    with pytest.raises(CheckpointError, match="depth_unit = inch"):
        LeRobotDataset(tmp_path).episode(0).frames(DEPTH)
