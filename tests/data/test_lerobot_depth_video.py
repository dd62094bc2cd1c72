"""Depth as LeRobot's 12-bit video: what lerobot 0.6.1 wrote and decodes, and what we write and read again."""

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spatialvla.common.seals import is_whole
from spatialvla.data.frame_cache import CachedSource
from spatialvla.data.inspection import inspect
from spatialvla.data.lerobot import Feature, LeRobotDataset, LeRobotWriter, depth_video
from spatialvla.data.lerobot.depth_video import DepthQuantization
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
    assert source.depth == DEPTH
    first = source.episode(0)
    np.testing.assert_allclose(
        first.depth(range(len(first))), without_holes_of_lerobot()[: len(first)], rtol=0, atol=2e-6
    )
    assert LeRobotSource(SAMPLE, FeatureMapping(image="observation.images.wrist")).depth is None


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
    readings = without_holes_of_lerobot()
    assert found.depth.size == (48, 64)
    assert (found.depth.nearest, found.depth.farthest) == pytest.approx(
        np.quantile(readings[readings > 0], (0.01, 0.99)), abs=0.02
    )
    assert found.depth.holes == pytest.approx((readings == 0).mean(), abs=0.02)
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


def test_millimeters_that_lerobot_took_for_meters_are_doubted(tmp_path):
    """Its encoder cuts them off at depth_max."""
    depth = np.full((6, 16, 16), 10.0, np.float32)
    depth[:, 3] = 0
    written(tmp_path / "d", depth)
    found = inspect(LeRobotSource(tmp_path / "d", THROUGH_TOP))
    assert any("it is 10 m almost everywhere, as where millimeters" in warning for warning in found.warnings)


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
    LeRobotSource(copied, FeatureMapping(image="observation.images.wrist"))


def test_depth_in_unknown_steps_is_left_out(copied):
    describe(copied, depth_min=None, depth_max=None, shift=None, use_log=None)
    assert DEPTH not in LeRobotDataset(copied).features
    assert LeRobotSource(copied, THROUGH_TOP).depth is None
    with pytest.raises(InputError, match=r"no depth 'observation.images.top_depth' but none.*how a video's"):
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


def written(root, depth, feature_info=None, **options):
    """A dataset of one episode with this depth (T, H, W) at its only camera."""
    height, width = depth.shape[1:]
    features = [
        Feature(TOP, "image", (height, width, 3)),
        Feature(DEPTH, "depth_video", (height, width), info=feature_info or {}),
        Feature("action", "float32", (7,)),
    ]
    writer = LeRobotWriter(root, 10, features, **options)
    numbers = {
        TOP: np.zeros((*depth.shape, 3), np.uint8),
        "action": np.ones((len(depth), 7), np.float32),
    }
    writer.add_episode({**numbers, DEPTH: depth}, "look")
    writer.finalize()
    return LeRobotDataset(root)


def steps(quantization, meters):
    """How far the next codes are from each reading."""
    around = quantization.dequantize(np.arange(1, 4096))
    nearest = np.searchsorted(around, meters).clip(1, 4094)
    return around[nearest] - around[nearest - 1]


quantizations = st.builds(
    DepthQuantization,
    depth_min=st.sampled_from((0.0, 0.01, 0.3)),
    depth_max=st.sampled_from((1.2, 4.105, 10.0, 65.0)),
    shift=st.sampled_from((0.05, 1.0, 3.5)),
    use_log=st.booleans(),
)
depths = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 10), st.integers(16, 40), st.integers(16, 40)),
    elements=st.one_of(
        st.sampled_from((0.0, np.nan, np.inf, -1.0)),
        st.floats(0.0625, 12, width=32),
        st.floats(0, 80, width=32),
    ),
    fill=st.floats(0.3125, 1.125, width=32),
)


@settings(max_examples=30, deadline=None)
@given(depth=depths, quantization=quantizations)
def test_what_is_written_is_read_within_a_step(tmp_path_factory, depth, quantization):
    depth[0, 0, 0] = 0.5
    dataset = written(tmp_path_factory.mktemp("depth") / "d", depth, quantization.to_info())
    read = dataset.episode(0).frames(DEPTH)
    low, high = np.float32(quantization.depth_min), np.float32(quantization.depth_max)
    measured = np.isfinite(depth) & (depth > 0) & (depth >= low) & (depth <= high)
    assert ((read > 0) == measured).all()
    error = np.abs(read[measured] - depth[measured])
    assert (error <= steps(quantization, depth[measured]) * 1.001 + 1e-6).all()


@given(quantization=quantizations)
def test_every_code_is_read_as_it_was_written(quantization):
    codes = np.arange(1, 4096, dtype=np.uint16)
    np.testing.assert_array_equal(quantization.quantize(quantization.dequantize(codes)), codes)
    assert quantization.dequantize(np.uint16([0])) == 0
    assert DepthQuantization.from_info(quantization.to_info()) == quantization


def test_the_sample_written_again_has_the_real_tools_layout_and_codes(tmp_path):
    sample = LeRobotDataset(SAMPLE)
    writer = LeRobotWriter(tmp_path, 10, [sample.features[DEPTH]], robot_type="franka")
    for episode in sample:
        writer.add_episode({DEPTH: episode.frames(DEPTH)}, episode.instruction)
    writer.finalize()
    ours, theirs = (
        json.loads((root / "meta/info.json").read_text())["features"][DEPTH] for root in (tmp_path, SAMPLE)
    )
    assert {**ours, "info": None} == {**theirs, "info": None}
    assert list(ours["info"]) == list(theirs["info"])
    encoder = {"video.g", "video.crf", "video.preset", "video.extra_options"}
    assert {k: v for k, v in ours["info"].items() if k not in encoder} == {
        k: v for k, v in theirs["info"].items() if k not in encoder
    }
    for episode, again in zip(sample, LeRobotDataset(tmp_path), strict=True):
        np.testing.assert_array_equal(episode.frames(DEPTH), again.frames(DEPTH))
    stats = [json.loads((root / "meta/stats.json").read_text())[DEPTH] for root in (tmp_path, SAMPLE)]
    assert [np.shape(entry) for entry in stats[0].values()] == [
        np.shape(entry) for entry in stats[1].values()
    ]
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(stats[0][name], stats[1][name], atol=2e-3)
    with av.open(str(tmp_path / VIDEO)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("hevc", "gray12le")
        assert is_whole((tmp_path / VIDEO).open("rb"))


@pytest.mark.parametrize("width", [16, 32, 64, 65])
def test_noise_comes_back_bit_for_bit(tmp_path, width):
    """Also where the encoder's first try does not: in motions of pictures that are one block wide."""
    codes = np.random.default_rng(width).integers(0, 4096, (2, 10, 40, width)).astype(np.uint16)
    own = DepthQuantization()
    writer = LeRobotWriter(tmp_path, 10, [Feature(DEPTH, "depth_video", (40, width))])
    for part in codes:
        writer.add_episode({DEPTH: own.dequantize(part)}, "look")
    writer.finalize()
    for episode, part in zip(LeRobotDataset(tmp_path), codes, strict=True):
        np.testing.assert_array_equal(episode.frames(DEPTH), own.dequantize(part))


def test_an_encoder_with_loss_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(depth_video, "_PARAMETERS", "bframes=0")
    with pytest.raises(InputError, match="does not write depth video without loss"):
        written(tmp_path, np.random.default_rng(0).uniform(0.1, 9, (2, 32, 32)).astype(np.float32))


def test_depth_video_beside_depth_images(tmp_path):
    """Both kinds of one depth, which differ by the steps of both."""
    depth = np.random.default_rng(0).uniform(0.2, 4, (5, 20, 30)).astype(np.float32)
    kinds = [Feature("video", "depth_video", (20, 30)), Feature("images", "depth", (20, 30))]
    writer = LeRobotWriter(tmp_path, 10, kinds)
    writer.add_episode({"video": depth, "images": depth}, "look")
    writer.finalize()
    episode = LeRobotDataset(tmp_path).episode(0)
    assert np.abs(episode.frames("images") - depth).max() <= 0.0005 + 1e-6
    assert 0.0005 < np.abs(episode.frames("video") - depth).max() <= 0.0013


@pytest.mark.parametrize("kind", ["depth", "depth_video"])
def test_millimeters_are_not_written(tmp_path, kind):
    writer = LeRobotWriter(tmp_path, 10, [Feature(DEPTH, kind, (16, 16))])
    with pytest.raises(InputError, match=r"median of 800 meters.*give meters, not millimeters"):
        writer.add_episode({DEPTH: np.full((2, 16, 16), 800.0)}, "look")
    sky = np.full((2, 16, 16), 0.8)
    sky[:, :4] = 1000
    writer.add_episode({DEPTH: sky}, "look")
    writer.finalize()
    read = LeRobotDataset(tmp_path).episode(0).frames(DEPTH)
    assert not read[:, :4].any()
    assert read[:, 4:] == pytest.approx(0.8, abs=1e-3)


def test_a_range_that_holds_nothing_is_said(tmp_path):
    near = DepthQuantization(depth_max=0.5).to_info()
    with pytest.raises(
        InputError, match=r"reaches from 0\.8 to 0\.9 meters, and its video from 0\.01 to 0\.5"
    ):
        written(tmp_path, np.linspace(0.8, 0.9, 512, dtype=np.float32).reshape(2, 16, 16), near)
    empty = written(tmp_path / "empty", np.zeros((2, 16, 16), np.float32), near)
    assert not empty.episode(0).frames(DEPTH).any()


def test_too_small_for_video_is_said():
    with pytest.raises(InputError, match="is 8x16; depth video needs 16 pixels each way"):
        LeRobotWriter("unused", 10, [Feature(DEPTH, "depth_video", (8, 16))])


def test_interrupted_depth_video_goes_on_with_its_steps(tmp_path):
    depth = np.full((3, 16, 16), 0.7, np.float32)
    near, far = (DepthQuantization(depth_max=high).to_info() for high in (2.0, 5.0))
    LeRobotWriter(tmp_path, 10, [Feature(DEPTH, "depth_video", (16, 16), info=near)]).add_episode(
        {DEPTH: depth}, "look"
    )
    with pytest.raises(InputError, match="begun with another fps, robot or features"):
        LeRobotWriter(tmp_path, 10, [Feature(DEPTH, "depth_video", (16, 16), info=far)], resume=True)
    writer = LeRobotWriter(tmp_path, 10, [Feature(DEPTH, "depth_video", (16, 16), info=near)], resume=True)
    writer.add_episode({DEPTH: depth + 0.5}, "look")
    writer.finalize()
    first, second = LeRobotDataset(tmp_path)
    assert first.frames(DEPTH) == pytest.approx(0.7, abs=1e-3)
    assert second.frames(DEPTH) == pytest.approx(1.2, abs=1e-3)


def test_flipped_bytes_of_a_depth_video_are_seen(tmp_path):
    dataset = written(tmp_path, np.random.default_rng(0).uniform(0.2, 2, (4, 16, 16)).astype(np.float32))
    path = tmp_path / VIDEO
    whole, expected = path.read_bytes(), dataset.episode(0).frames(DEPTH)
    for position in range(100, len(whole) - 20, len(whole) // 20):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(CheckpointError, match=r"file-000\.mp4 has other contents"):
            LeRobotDataset(tmp_path).episode(0).frames(DEPTH)
    path.write_bytes(whole)
    np.testing.assert_array_equal(LeRobotDataset(tmp_path).episode(0).frames(DEPTH), expected)
