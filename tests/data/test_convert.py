"""Datasets of any kind, written as LeRobot v3 and read back."""

import shutil
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pytest
import rh20t_writer as make
from cameras import looking_at
from fake_source import FakeSource, FakeView

from spatialvla.actions.units import UNKNOWN, ActionUnits
from spatialvla.data.convert import convert
from spatialvla.data.episodes import STILL, MovingChunks, planned_steps
from spatialvla.data.lerobot import LeRobotDataset, LeRobotWriter
from spatialvla.data.lerobot.depth_video import DepthQuantization
from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.data.lerobot.source import LeRobotSource
from spatialvla.data.needed_parts import NeededParts
from spatialvla.data.rh20t import RH20TSource
from spatialvla.errors import CheckpointError, InputError
from spatialvla.geometry.camera import Camera

K = np.array([[60.0, 0, 16], [0, 60, 12], [0, 0, 1]])


@dataclass(frozen=True)
class MadeEpisode:
    number: int
    instruction: str
    camera: Camera | None
    sensor: bool
    width: int

    length: int

    @property
    def actions(self):
        return np.random.default_rng(self.number).uniform(-1, 1, (self.length, 7))

    @property
    def columns(self):
        return {}

    extrinsics = None
    other_views: ClassVar[dict] = {}
    state = None

    @property
    def starts(self):
        return np.arange(self.length)

    def instruction_at(self, step):
        return self.instruction

    def images(self, steps):
        values = np.array([20 * self.number + step for step in steps], np.uint8)
        return np.broadcast_to(values[:, None, None, None], (len(steps), 12, self.width, 3)).copy()

    def depth(self, steps):
        return (
            np.full((len(steps), 12, self.width), 0.25 * self.number + 0.5, np.float32)
            if self.sensor
            else None
        )


@dataclass(frozen=True)
class MadeSource:
    """Episode i has i + 3 steps; those in `damaged` cannot be read, those in `uncalibrated` have no camera.

    Those in `empty` have no steps.
    """

    key: str = "made"
    state_names: tuple[str, ...] = ()
    control_hz: float = 5.0
    units: ActionUnits = UNKNOWN
    contents: str = "1"
    count: int = 5
    damaged: tuple[int, ...] = ()
    uncalibrated: tuple[int, ...] = ()
    words: str = "push"
    sensor: bool = False
    width: int = 16
    fails_at: int | None = None
    empty: tuple[int, ...] = ()
    reads: list = field(default_factory=list)

    def __len__(self):
        return self.count

    def episode(self, index):
        self.reads.append(index)
        if index == self.fails_at and self.reads.count(index) > 1:  # not while cameras are looked for
            raise KeyboardInterrupt
        if index in self.damaged:
            raise CheckpointError(f"episode {index} is damaged")
        camera = None if index in self.uncalibrated else Camera(K, 24, 32)
        length = 0 if index in self.empty else index + 3
        return MadeEpisode(index, self.words, camera, self.sensor, self.width, length)


def check(root, source, written):
    again = LeRobotSource(root)
    assert len(again) == len(written)
    assert again.control_hz == source.control_hz
    for place, index in enumerate(written):
        mine, original = again.episode(place), source.episode(index)
        np.testing.assert_allclose(mine.actions, original.actions, atol=1e-6)
        assert mine.instruction == (original.instruction or "no words")
        steps = range(len(original.actions))
        assert np.abs(mine.images(steps).astype(int) - original.images(steps)).max() <= 3
        if original.camera is None:
            assert mine.camera is None
        else:
            np.testing.assert_allclose(mine.camera.intrinsics, original.camera.scaled_to(12, source.width))
        if source.sensor:
            np.testing.assert_allclose(mine.depth(steps), original.depth(steps), atol=5e-4)
        else:
            assert mine.depth(steps) is None


@pytest.mark.parametrize(
    "source",
    [
        MadeSource(),
        MadeSource(sensor=True, uncalibrated=(0, 3)),
        MadeSource(width=15, uncalibrated=(0, 1, 2, 3, 4)),
        MadeSource(damaged=(0, 3), words=""),
    ],
)
def test_everything_comes_back(tmp_path, source):
    done = convert(source, tmp_path / "out", instruction="no words")
    assert done.skipped == tuple(f"episode {index} is damaged" for index in source.damaged)
    written = [index for index in range(len(source)) if index not in source.damaged]
    assert done.episodes == len(written)
    check(tmp_path / "out", source, written)
    dtype = LeRobotDataset(tmp_path / "out").features["observation.images.main"].dtype
    assert dtype == ("image" if source.width % 2 else "video")
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("place", range(5))
def test_an_interrupted_conversion_goes_on(tmp_path, place):
    source = MadeSource(damaged=(1,))
    with pytest.raises(KeyboardInterrupt):
        convert(replace(source, fails_at=place), tmp_path / "out")
    calls = []
    done = convert(source, tmp_path / "out", progress=lambda done, total: calls.append((done, total)))
    assert (done.episodes, done.skipped) == (4, ("episode 1 is damaged",))
    check(tmp_path / "out", source, [0, 2, 3, 4])
    assert calls[-1] == (5, 5)


@pytest.mark.parametrize("place", range(12))
def test_episodes_that_a_dataset_leaves_out_are_counted_and_passed_over(tmp_path, monkeypatch, place):
    """Of kuka's 580,392 episodes 64 % are left out: each by itself is neither noted nor printed."""
    monkeypatch.setattr("spatialvla.data.convert._NOTED_EVERY", 3)
    source = MadeSource(count=12, empty=(0, 2, 3, 7, 10, 11), damaged=(5,))
    with pytest.raises(KeyboardInterrupt):
        convert(replace(source, fails_at=place), tmp_path / "out")
    source.reads.clear()
    done = convert(source, tmp_path / "out")
    assert (done.episodes, done.skipped, done.empty) == (5, ("episode 5 is damaged",), 6)
    check(tmp_path / "out", source, [1, 4, 6, 8, 9])
    # The first that is written is number 1, the fourth number 8: what lies before the last noted is not read again,
    # neither for its cameras.
    assert source.reads[0] == (8 if place > 8 else 1 if place > 1 else 0)


def test_nothing_is_written_twice_when_killed_between_two_episodes(tmp_path, monkeypatch):
    source, add = MadeSource(damaged=(2,)), LeRobotWriter.add_episode

    def fragile(writer, frames, task):
        add(writer, frames, task)
        raise KeyboardInterrupt

    monkeypatch.setattr(LeRobotWriter, "add_episode", fragile)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            convert(source, tmp_path / "out")
    monkeypatch.undo()
    assert convert(source, tmp_path / "out").episodes == 4
    check(tmp_path / "out", source, [0, 1, 3, 4])


def test_what_cannot_be_converted_is_said(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="Episode 0 has no instruction; --instruction says one"):
        convert(MadeSource(words=""), out)
    with pytest.raises(InputError, match=r"3\.75 steps a second; give a whole number"):
        convert(MadeSource(control_hz=3.75), out)
    with pytest.raises(InputError, match=r"No episode of the dataset can be read\. episode 0 is damaged$"):
        convert(MadeSource(damaged=(0, 1, 2, 3, 4)), tmp_path / "none")
    assert not any(tmp_path.iterdir()), "what fails at once leaves nothing to delete"
    with pytest.raises(KeyboardInterrupt):
        convert(MadeSource(fails_at=2), out)
    with pytest.raises(InputError, match="begun from another dataset"):
        convert(MadeSource(contents="2"), out)
    convert(MadeSource(), out)
    with pytest.raises(InputError, match="already holds a dataset"):
        convert(MadeSource(), out)
    assert convert(MadeSource(control_hz=3.75), tmp_path / "rounded", fps=4).episodes == 5


def test_rh20t_becomes_lerobot(tmp_path):
    times = make.START + np.arange(11) * 100
    make.write_descriptions(tmp_path, task_0001="Press the button")
    make.write_calibration(tmp_path)
    make.write_scene(tmp_path / make.scene(1, 1), times)
    make.write_scene(tmp_path / make.scene(1, 2), times, calib=-1)
    source = RH20TSource(tmp_path)
    assert convert(source, tmp_path / "out").episodes == 2
    again = LeRobotSource(tmp_path / "out", FeatureMapping(image="observation.images.main"))
    wrist = again.episode(1).other_views["wrist"].images([7]).astype(int)
    assert np.abs(wrist - source.episode(1).other_views["wrist"].images([7])).mean() < 2
    np.testing.assert_allclose(again.episode(0).state, source.episode(0).state, atol=1e-6)
    assert again.state_names == source.state_names
    np.testing.assert_allclose(again.episode(0).actions, source.episode(0).actions, atol=1e-6)
    np.testing.assert_allclose(again.episode(0).camera.intrinsics[0, 0], 45)
    assert again.episode(1).camera is None
    assert np.abs(again.episode(1).images([7]).astype(int) - source.episode(1).images([7])).mean() < 2
    shutil.rmtree(tmp_path / "out")


def test_all_cameras_and_the_state_come_back(tmp_path):
    place = looking_at([1.3, 0.2, 0.7], [0.4, 0, 0.1])
    small = Camera(np.diag([0.5, 0.5, 1]) @ K, 12, 16)
    views = {
        "wrist": FakeView(1, camera=small, place=place, size=(12, 16), depth_meters=0.5),
        "observation.images.main": FakeView(2, camera=None, size=(13, 16)),
    }
    source = FakeSource("one", (4, 3), size=(12, 16), views=views, state_names=("x", "y"), has_depth=True)
    convert(source, tmp_path / "out")
    again = LeRobotSource(tmp_path / "out")
    assert again.state_names == ("x", "y")
    for index in range(2):
        ours, theirs = again.episode(index), source.episode(index)
        steps = range(len(theirs.actions))
        np.testing.assert_allclose(ours.state, theirs.state)
        np.testing.assert_allclose(ours.depth(steps), theirs.depth(steps), atol=5e-4)
        assert list(ours.other_views) == ["wrist", "main_2"]
        wrist, other = ours.other_views.values()
        np.testing.assert_allclose(wrist.camera.intrinsics, small.intrinsics, rtol=1e-6)
        np.testing.assert_allclose(wrist.extrinsics, np.stack([place] * len(steps)), atol=1e-6)
        np.testing.assert_allclose(wrist.depth(steps), theirs.other_views["wrist"].depth(steps), atol=5e-4)
        # An odd number of rows is no video's, and so it is kept bit for bit.
        np.testing.assert_array_equal(
            other.images(steps), theirs.other_views["observation.images.main"].images(steps)
        )
        assert (other.camera, other.extrinsics, other.depth(steps)) == (None, None, None)


@dataclass
class LateSource(FakeSource):
    """A dataset that tells of its first episode's cameras K alone, as DROID's calibrations do of many."""

    def episode(self, index):
        episode = super().episode(index)
        if index:
            return episode
        unplaced = {name: replace(view, place=None) for name, view in episode.other_views.items()}
        return replace(episode, extrinsics=None, other_views=unplaced)


def test_places_that_the_first_episode_does_not_tell_come_back(tmp_path):
    front, wrist = looking_at([1.3, 0.2, 0.7], [0.4, 0, 0.1]), looking_at([0.5, 0.1, 0.5], [0.4, 0, 0.1])
    views = {"wrist": FakeView(1, place=wrist)}
    convert(LateSource("late", (4, 3), extrinsics=front, views=views), tmp_path / "out")
    unplaced, placed = map(LeRobotSource(tmp_path / "out").episode, range(2))
    assert (unplaced.extrinsics, unplaced.other_views["wrist"].extrinsics) == (None, None)
    np.testing.assert_allclose(placed.extrinsics[2], front, atol=1e-6)
    np.testing.assert_allclose(placed.other_views["wrist"].extrinsics[2], wrist, atol=1e-6)


@dataclass
class GrowingSource(FakeSource):
    """Its first episode has no steps, its second no depth and no K, its third no wrist camera."""

    def episode(self, index):
        episode = super().episode(index)
        if index == 1:
            episode = replace(episode, camera=None, has_depth=False)
        return replace(episode, other_views={}) if index == 2 else episode


def test_what_a_later_episode_has_first_comes_along(tmp_path):
    """Of more episodes than anybody would look through to find the cameras."""
    source = GrowingSource("late", (0, 3, 4, *[2] * 60, 5), has_depth=True)
    side = FakeView(2, size=(13, 16), missing_in=frozenset(range(63)))
    source.views = {"wrist": FakeView(1, depth_meters=2.0), "side": side}
    done = convert(source, tmp_path / "out")
    assert (done.episodes, done.empty) == (63, 1)
    again = LeRobotSource(tmp_path / "out")
    early, without, late = (again.episode(index) for index in (0, 1, 62))
    assert [list(episode.other_views) for episode in (early, without, late)] == [
        ["wrist"],
        [],
        ["wrist", "side"],
    ]
    assert early.camera is None
    assert late.camera is not None
    assert not early.depth([1]).any()
    np.testing.assert_allclose(late.depth([1]), source.episode(63).depth([1]), atol=5e-4)
    theirs = source.episode(63).other_views["side"].images([4])
    np.testing.assert_array_equal(late.other_views["side"].images([4]), theirs)


def test_depth_of_each_camera_becomes_video(tmp_path):
    views = {"wrist": FakeView(1, depth_meters=2.0)}
    source = FakeSource("one", (4, 3), views=views, has_depth=True)
    convert(source, tmp_path / "out", depth_video=DepthQuantization())
    again = LeRobotSource(tmp_path / "out")
    assert again.camera.depth.dtype == again.others["wrist"].depth.dtype == "depth_video"
    for index in range(2):
        ours, theirs = again.episode(index), source.episode(index)
        np.testing.assert_allclose(ours.depth([1]), theirs.depth([1]), atol=3e-3)
        wrist = ours.other_views["wrist"].depth([1])
        np.testing.assert_allclose(wrist, theirs.other_views["wrist"].depth([1]), atol=3e-3)


def test_a_camera_that_is_not_always_there_comes_back_so(tmp_path):
    views = {
        "wrist": FakeView(1, depth_meters=2.0, missing_in=frozenset({0, 2})),
        "side": FakeView(2, camera=None),
    }
    source = FakeSource("one", (4, 3, 5), views=views)
    convert(source, tmp_path / "out")
    again = LeRobotSource(tmp_path / "out")
    assert [list(again.episode(index).other_views) for index in range(3)] == [
        ["side"],
        ["side", "wrist"],
        ["side"],
    ]
    wrist, theirs = again.episode(1).other_views["wrist"], source.episode(1).other_views["wrist"]
    np.testing.assert_allclose(wrist.depth([2]), theirs.depth([2]), atol=5e-4)
    np.testing.assert_allclose(wrist.camera.scaled_to(60, 80), theirs.camera.intrinsics, rtol=1e-6)
    # Looked through first, it has samples only where it is.
    first = LeRobotSource(tmp_path / "out", FeatureMapping(image="observation.images.wrist"))
    assert [len(first.episode(index).starts) for index in range(3)] == [0, 3, 0]


def test_a_state_that_not_all_episodes_have_is_said_and_may_be_left_out(tmp_path):
    source = FakeSource(
        "one", (4, 3), views={"wrist": FakeView(1)}, state_names=("x",), stateless=frozenset({1})
    )
    with pytest.raises(InputError, match=r"one episode 1: not all episodes have the arm's state.*--no-state"):
        convert(source, tmp_path / "stateful")
    assert convert(NeededParts(source, (), state=False), tmp_path / "bare").episodes == 2
    assert LeRobotSource(tmp_path / "bare").episode(0).other_views == {}


def test_samples_are_those_of_the_source_again(tmp_path):
    """Steps that show another step's picture, and what a policy did instead, are not learned from after all."""
    source = FakeSource(
        "one",
        (6, 5),
        views={"wrist": FakeView(1)},
        no_ops=frozenset({1, 2, 4}),
        takeover={0: [3], 1: []},
    )
    convert(source, tmp_path / "out")
    again = LeRobotSource(tmp_path / "out")
    wrist = LeRobotSource(tmp_path / "out", FeatureMapping(image="observation.images.wrist"))
    for index, starts in enumerate(([0, 3, 5], [0, 3])):
        episode = again.episode(index)
        assert episode.starts.tolist() == wrist.episode(index).starts.tolist() == starts
        assert list(episode.other_views) == ["wrist"]
        steps = np.arange(len(episode.actions))
        expected = planned_steps(source.episode(index), steps, 3)
        np.testing.assert_array_equal(planned_steps(episode, steps, 3), expected)


def test_steps_that_stand_still_are_marked_again(tmp_path):
    convert(StillSource("still", (9,)), tmp_path / "out")
    assert MovingChunks(LeRobotSource(tmp_path / "out"), 3).episode(0).starts.tolist() == [0, 1, 5, 6, 7, 8]


@dataclass
class StillSource(FakeSource):
    """Of its steps 2 to 6 stand still."""

    def episode(self, index):
        steps = np.arange(self.lengths[index])
        return replace(super().episode(index), columns={STILL: (steps >= 2) & (steps <= 6)})
