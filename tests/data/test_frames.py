"""Single frames of videos are the frames of a full decode, pixel by pixel."""

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spatialvla.data import frames
from spatialvla.data.frames import decode_frames
from spatialvla.errors import CheckpointError

RATE, LENGTH = 10, 75


def write(path, options, codec="libx264"):
    """A moving, noisy picture, so that every frame differs from its neighbors."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for number in range(LENGTH):
            pixels = rng.integers(0, 60, (32, 48, 3), dtype=np.uint8)
            pixels[:, number % 48] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    kinds = {
        "one keyframe": ({"g": "1000", "bf": "0", "sc_threshold": "0"}, "libx264"),
        "references ahead": ({"g": "12", "bf": "3", "sc_threshold": "0"}, "libx264"),
        "open groups": ({"g": "12", "bf": "3", "x264-params": "open-gop=1", "sc_threshold": "0"}, "libx264"),
        "as opencv writes": ({}, "mpeg4"),
    }
    made = {}
    for number, (kind, (options, codec)) in enumerate(kinds.items()):
        path = folder / f"{number}.mp4"
        made[kind] = path, write(path, options, codec)
    return made


@given(st.lists(st.integers(0, LENGTH - 1), min_size=1, max_size=6))
@settings(max_examples=15)
def test_any_frames_are_those_of_a_full_decode(videos, numbers):
    for kind, (path, whole) in videos.items():
        assert len(whole) == LENGTH
        found = decode_frames(path, numbers)
        assert sorted(found) == sorted(set(numbers)), kind
        for number, pixels in found.items():
            np.testing.assert_array_equal(pixels, whole[number], err_msg=f"{kind}, frame {number}")


def test_frames_behind_the_end_are_left_out_and_broken_files_named(videos, tmp_path):
    path, _ = videos["one keyframe"]
    assert sorted(decode_frames(path, [3, LENGTH + 5])) == [3]
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"broken\.mp4 is not a readable video"):
        decode_frames(broken, [0])
    with pytest.raises(CheckpointError, match=r"absent\.mp4 is missing"):
        decode_frames(tmp_path / "absent.mp4", [0])


@pytest.fixture
def decoded(monkeypatch):
    """Times of all frames that a decoder gives meanwhile."""
    seen = set()
    original = frames._moment

    def counting(frame):
        seen.add(frame.pts)
        return original(frame)

    monkeypatch.setattr(frames, "_moment", counting)
    return seen


def test_only_what_leads_to_the_frame_is_decoded(videos, decoded):
    path, _ = videos["references ahead"]
    assert sorted(decode_frames(path, [14, 62])) == [14, 62]
    assert len(decoded) <= 3 + 3


def test_a_frame_shown_before_its_keyframe_is_not_sought_from_the_beginning(tmp_path, decoded):
    """As LeRobot stores depth: x265 with a keyframe in two frames, and those between refer to both neighbors."""
    path = tmp_path / "leading.mp4"
    whole = write(path, {"g": "2", "x265-params": "lossless=1:log-level=none"}, "libx265")
    for number in (LENGTH - 9, LENGTH - 8, LENGTH - 1, 0, 1):
        decoded.clear()
        np.testing.assert_array_equal(decode_frames(path, [number])[number], whole[number])
        assert len(decoded) <= 4, number
