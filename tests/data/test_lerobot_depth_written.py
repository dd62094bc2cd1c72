"""Depth written as LeRobot's 12-bit video: nothing is lost but its steps, and nothing wrong is let in."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spatialvla.common.seals import is_whole
from spatialvla.data.inspection import inspect
from spatialvla.data.lerobot import Feature, LeRobotDataset, LeRobotWriter, depth_video
from spatialvla.data.lerobot.depth_video import DepthQuantization
from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.data.lerobot.source import LeRobotSource
from spatialvla.errors import CheckpointError, InputError

SAMPLE = Path(__file__).parent / "lerobot_v3_depth"
TOP, DEPTH = "observation.images.top", "observation.images.top_depth"
VIDEO = f"videos/{DEPTH}/chunk-000/file-000.mp4"


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


def test_episodes_encoded_with_different_keyframes_are_read_from_one_file(tmp_path, monkeypatch):
    depth = np.random.default_rng(0).uniform(0.5, 2, (3, 6, 40, 40)).astype(np.float32)
    features = [Feature(DEPTH, "depth_video", (40, 40)), Feature("action", "float32", (7,))]
    writer = LeRobotWriter(tmp_path / "joined", 10, features)
    for keyframe_every, seen in zip((1, 8, 1), depth, strict=True):
        monkeypatch.setattr(depth_video, "_KEYFRAME_EVERY", keyframe_every)
        writer.add_episode({DEPTH: seen, "action": np.ones((6, 7), np.float32)}, "look")
    writer.finalize()
    dataset = LeRobotDataset(tmp_path / "joined")
    assert (tmp_path / "joined" / VIDEO).exists()
    for index, seen in enumerate(depth):
        for asked in (None, range(6), [3], [5, 1]):
            read = dataset.episode(index).frames(DEPTH, asked)
            np.testing.assert_allclose(read, seen if asked is None else seen[list(asked)], atol=2e-3)


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


def test_millimeters_that_lerobot_took_for_meters_are_doubted(tmp_path):
    """Its encoder cuts them off at depth_max."""
    depth = np.full((6, 16, 16), 10.0, np.float32)
    depth[:, 3] = 0
    written(tmp_path / "d", depth)
    found = inspect(LeRobotSource(tmp_path / "d", FeatureMapping(image=TOP)))
    assert any("it is 10 m almost everywhere, as where millimeters" in warning for warning in found.warnings)
