"""Datasets held in memory: the same episodes as their source gives, decoded and scaled once, damage included."""

import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_source import CAMERA, FakeSource, FakeView

from spatialvla.data.episodes import EpisodeWrapper
from spatialvla.data.frame_cache import CachedSource
from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.data.needed_parts import NeededParts
from spatialvla.data.sources import open_source
from spatialvla.errors import CheckpointError, InputError
from spatialvla.geometry.camera import View

SOURCE = FakeSource("one", (6, 4, 9), has_depth=True, no_ops=frozenset({1}))
SIZE = 24
HERE = Path(__file__).parent
TOP = FeatureMapping(image="observation.images.top")


def test_episodes_are_the_sources_own_in_another_size(tmp_path):
    cached = CachedSource(SOURCE, SIZE, tmp_path)
    assert (cached.key, cached.control_hz, len(cached)) == ("one", 5.0, 3)
    for index in range(3):
        ours, theirs = cached.episode(index), SOURCE.episode(index)
        assert ours.instruction == theirs.instruction
        np.testing.assert_array_equal(ours.actions, theirs.actions)
        np.testing.assert_array_equal(ours.starts, theirs.starts)
        assert (ours.camera.height, ours.camera.width) == (SIZE, SIZE)
        np.testing.assert_allclose(ours.camera.intrinsics, CAMERA.scaled_to(SIZE, SIZE))
        steps = theirs.starts.tolist()
        expected = [View.of(image).resized(SIZE).image for image in theirs.images(steps)]
        np.testing.assert_array_equal(ours.images(steps), expected)
        np.testing.assert_array_equal(ours.images([3, 0]), [expected[steps.index(3)], expected[0]])
        assert not ours.images([1]).any()  # no sample starts there
        depth = ours.depth([2])
        assert depth.dtype == np.float32
        assert set(np.unique(depth).tolist()) == {0.0, 1.0 + index}
    with pytest.raises(InputError, match="episodes 0 to 2"):
        cached.episode(3)


def test_frames_that_no_sample_starts_at_need_no_room(tmp_path, monkeypatch):
    sparse = replace(SOURCE, no_ops=frozenset(range(1, 9)))  # 3 frames of 19
    usage = shutil.disk_usage(tmp_path)._replace(free=3 * SIZE * SIZE * 3)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    assert CachedSource(sparse, SIZE, tmp_path).episode(2).images([0]).any()
    with pytest.raises(CheckpointError, match="free"):
        CachedSource(SOURCE, SIZE, tmp_path / "whole")


def test_no_sensor_is_no_depth(tmp_path):
    assert CachedSource(replace(SOURCE, has_depth=False), SIZE, tmp_path).episode(0).depth([0]) is None


def test_frames_are_decoded_once_for_each_size_and_content(tmp_path, monkeypatch):
    told = []
    first = CachedSource(SOURCE, SIZE, tmp_path, progress=told.append)
    assert told == [1, 1, 1]
    CachedSource(SOURCE, SIZE, tmp_path, progress=told.append)
    assert len(told) == 3
    CachedSource(SOURCE, 2 * SIZE, tmp_path, progress=told.append)
    assert len(told) == 6
    longer = replace(SOURCE, lengths=(6, 4, 9, 2))
    other = CachedSource(longer, SIZE, tmp_path, progress=told.append)
    assert len(told) == 10
    assert len({source.fingerprint for source in (first, other, SOURCE)}) == 3


def test_it_crosses_to_other_processes_without_its_frames(tmp_path):
    cached = CachedSource(replace(SOURCE, lengths=(300, 200)), 64, tmp_path)
    sent = pickle.dumps(cached)
    assert len(sent) < 100_000
    again = pickle.loads(sent)
    np.testing.assert_array_equal(again.episode(1).images([150]), cached.episode(1).images([150]))
    np.testing.assert_array_equal(again.episode(1).depth([150]), cached.episode(1).depth([150]))


@pytest.mark.parametrize("damage", ["damaged", "broken_images"])
def test_damage_is_fatal_or_that_of_its_episode_alone(tmp_path, damage):
    bad = replace(SOURCE, **{damage: frozenset({1})})
    with pytest.raises(CheckpointError, match=r"one .*1"):
        CachedSource(bad, SIZE, tmp_path)
    assert not list(tmp_path.rglob("*.npy"))
    for _ in range(2):  # as it is decoded, and as it is found
        cached = CachedSource(bad, SIZE, tmp_path, on_bad="skip")
        with pytest.raises(CheckpointError, match=r"one .*1"):
            cached.episode(1)
        clean = CachedSource(SOURCE, SIZE, tmp_path / "clean")
        np.testing.assert_array_equal(cached.episode(2).images([4]), clean.episode(2).images([4]))
    with pytest.raises(CheckpointError, match=r"one .*1"):
        CachedSource(bad, SIZE, tmp_path, on_bad="raise")


class OddState(FakeSource):
    """Episode 1 has a state that cannot be."""

    def episode(self, index):
        return _OddState(super().episode(index)) if index == 1 else super().episode(index)


class _OddState(EpisodeWrapper):
    @property
    def state(self):
        raise CheckpointError("one episode 1 has a state that cannot be")


@pytest.mark.parametrize("first", [True, False])
def test_whether_the_state_is_read_does_not_move_the_frames(tmp_path, first):
    source = OddState("one", (6, 4, 5), state_names=("x",))
    clean = CachedSource(SOURCE, SIZE, tmp_path / "clean")
    for state in (first, not first):
        cached = CachedSource(NeededParts(source, (), state), SIZE, tmp_path / "odd", on_bad="skip")
        np.testing.assert_array_equal(cached.episode(2).images([4]), clean.episode(2).images([4]))


def test_damaged_frames_are_named_and_a_damaged_cache_is_made_again(tmp_path):
    cached = CachedSource(SOURCE, SIZE, tmp_path)
    images = cached.folder / "images.npy"
    whole = images.read_bytes()
    expected = cached.episode(2).images([4])
    row = SIZE * SIZE * 3
    spot = 128 + (6 + 4 + 4) * row + 17  # in frame 4 of episode 2, behind those of episodes 0 and 1
    images.write_bytes(whole[:spot] + bytes([whole[spot] ^ 4]) + whole[spot + 1 :])
    again = CachedSource(SOURCE, SIZE, tmp_path)
    again.episode(2).images([3])
    with pytest.raises(CheckpointError, match=r"images\.npy is damaged \(row 14 is\); delete it"):
        again.episode(2).images([3, 4])
    images.unlink()
    np.testing.assert_array_equal(CachedSource(SOURCE, SIZE, tmp_path).episode(2).images([4]), expected)
    assert images.read_bytes() == whole


def test_further_cameras_and_the_state_are_kept_too(tmp_path):
    place = np.eye(4)
    wrist = FakeView(1, place=place, size=(30, 50), depth_meters=2.0, missing_in=frozenset({1}))
    views = {"side": FakeView(2, camera=None), "wrist": wrist}
    source = replace(SOURCE, views=views, state_names=("x", "y"), stateless=frozenset({2}))
    cached = pickle.loads(pickle.dumps(CachedSource(source, SIZE, tmp_path)))
    assert cached.state_names == ("x", "y")
    for index in range(3):
        ours, theirs = cached.episode(index), source.episode(index)
        steps = theirs.starts.tolist()
        assert list(ours.other_views) == list(theirs.other_views)
        for name, view in theirs.other_views.items():
            expected = [View.of(image).resized(SIZE).image for image in view.images(steps)]
            np.testing.assert_array_equal(ours.other_views[name].images(steps), expected)
        if index == 2:
            assert ours.state is None
        else:
            np.testing.assert_array_equal(ours.state, theirs.state)
        assert ours.other_views["side"].camera is None
        assert ours.other_views["side"].depth([0]) is None
        if "wrist" in ours.other_views:
            mine = ours.other_views["wrist"]
            np.testing.assert_allclose(mine.camera.intrinsics, CAMERA.scaled_to(SIZE, SIZE))
            np.testing.assert_array_equal(mine.extrinsics, np.stack([place] * len(theirs.actions)))
            assert set(np.unique(mine.depth(steps)).tolist()) == {2.0 + index}
    # Another choice of cameras is another cache, and the first one's frames are the same.
    alone = CachedSource(replace(source, views={}), SIZE, tmp_path)
    assert alone.folder != cached.folder
    assert alone.fingerprint != cached.fingerprint  # so that neither takes what was surveyed of the other
    np.testing.assert_array_equal(alone.episode(1).images([2]), cached.episode(1).images([2]))


@pytest.mark.parametrize(
    ("folder", "options", "files"),
    [
        ("lerobot_v3", {"mapping": TOP, "cameras": ("wrist",)}, {"images.npy", "images_1.npy"}),
        ("lerobot_v3_depth", {"mapping": TOP}, {"images.npy", "images_1.npy", "depth.npy"}),
        ("rlds/bridge_orig", {}, {"images.npy", "images_1.npy"}),
    ],
)
def test_many_threads_decode_what_one_does(tmp_path, monkeypatch, folder, options, files):
    found = []
    for threads in (1, 8):
        monkeypatch.setattr(os, "cpu_count", lambda count=threads: count)
        source = open_source(HERE / folder, cache=tmp_path / "index", **options)
        cached = CachedSource(source, SIZE, tmp_path / str(threads))
        found.append({path.name: path.read_bytes() for path in cached.folder.iterdir()})
    assert found[0] == found[1]
    assert found[0].keys() == files | {"damaged.json"}
