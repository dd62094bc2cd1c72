from dataclasses import replace

import numpy as np
import pytest
from fake_source import FakeSource, FakeView
from hypothesis import given
from hypothesis import strategies as st

from spatialvla.data.every_view import EveryView, beneath, views_of
from spatialvla.data.lerobot import Feature, LeRobotWriter
from spatialvla.data.lerobot.feature_mapping import FeatureMapping
from spatialvla.data.sources import open_source
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.geometry.calibrated_camera import CalibratedCamera
from spatialvla.geometry.camera import Camera
from spatialvla.geometry.robot_calibration import RobotCalibration

LENGTHS = tuple(range(3, 33))
PLACE = np.diag([1.0, 1, 1, 1])
VIEWS = {
    "side": FakeView(1, size=(30, 40), place=PLACE, depth_meters=2.0),
    "wrist": FakeView(2, size=(20, 20)),
    "top": FakeView(3, size=(10, 10)),
}


def seen(**views):
    return FakeSource("arm", LENGTHS, views=VIEWS | views)


def test_each_episode_comes_once_through_each_camera():
    source = seen()
    every = EveryView(source, (None, "side", "top"), "front", kept=("wrist",))
    assert len(every) == 3 * len(LENGTHS)
    for index in (0, 4, 5, 44, len(every) - 1):
        number, view = divmod(index, 3)
        whole, episode = source.episode(number), every.episode(index)
        first = [whole, whole.other_views["side"], whole.other_views["top"]][view]
        np.testing.assert_array_equal(episode.images([1]), first.images([1]))
        np.testing.assert_array_equal(episode.actions, whole.actions)
        assert (episode.depth([1]) is None) == (view != 1)
        assert (episode.extrinsics is None) == (view != 1)
        assert list(episode.other_views) == ["wrist"]
    assert every.key == "arm"


def test_a_camera_is_not_beside_itself():
    every = EveryView(seen(), (None, "wrist"), "front", kept=("wrist", "top"))
    assert [list(every.episode(index).other_views) for index in (0, 1)] == [["wrist", "top"], ["top"]]
    # Whichever is the dataset's own first one.
    every = EveryView(seen(), ("top", None), "wrist_of_old", kept=("wrist_of_old",))
    assert [list(every.episode(index).other_views) for index in (0, 1)] == [["wrist_of_old"], []]
    beside = every.episode(0).other_views["wrist_of_old"]
    np.testing.assert_array_equal(beside.images([1]), seen().episode(0).images([1]))


def test_an_episode_that_a_camera_missed_has_no_samples_through_it():
    every = EveryView(
        seen(side=replace(VIEWS["side"], missing_in=frozenset({2, 3}))), (None, "side"), "front"
    )
    samples = [len(every.episode(index).starts) for index in range(4, 10)]
    assert samples == [5, 0, 6, 0, 7, 7]
    gone = every.episode(5)
    assert (gone.camera, gone.extrinsics, gone.depth([0])) == (None, None, None)
    mixture = TrainingMixture.open([every], held_out=0.5, seed=1, views=[2])
    through = mixture.held_out[0].reshape(-1, 2)
    assert (through[:, 0] == through[:, 1]).all()
    drawn = set(mixture.training(np.arange(2000)).episode.tolist())
    assert not {5, 7} & drawn


def test_the_first_cameras_pose_is_not_that_of_a_camera_that_nobody_placed():
    """Guidance projects by it, and would look through the wrong camera."""

    class Posed(FakeSource):
        def episode(self, index):
            poses = np.zeros((self.lengths[index], 4, 4))
            return replace(super().episode(index), columns={"observation.camera_pose": poses, "other": poses})

    every = EveryView(Posed("arm", LENGTHS, views=VIEWS), (None, "side", "wrist"), "front")
    assert [sorted(every.episode(index).columns) for index in range(3)] == [
        ["observation.camera_pose", "other"],
        ["observation.camera_pose", "other"],
        ["other"],
    ]


def test_more_cameras_are_another_dataset():
    choices = (("side",), (None, "side"), ("side", None), ("top",), ("side", "top"))
    prints = {EveryView(seen(), names, "front").fingerprint for names in choices}
    assert len(prints) == 5


def test_a_change_reaches_the_dataset_beneath():
    source, other = seen(), FakeSource("other", LENGTHS)
    assert beneath(source, lambda _: other) is other
    changed = beneath(EveryView(source, (None, "side"), "front"), lambda _: other)
    assert isinstance(changed, EveryView)
    assert changed.source is other
    assert views_of(source) == (source,)
    assert [view.key for view in views_of(EveryView(source, (None, "side"), "front"))] == [
        "arm",
        "arm through 'side'",
    ]


@given(views=st.integers(1, 4), fraction=st.floats(0.02, 0.9), seed=st.integers(0, 99))
def test_an_episode_is_held_out_through_all_cameras_or_none(views, fraction, seed):
    source = seen()
    every = EveryView(source, (None, *VIEWS)[:views], "front")
    mixture = TrainingMixture.open([every], held_out=fraction, seed=seed, views=[views])
    through = mixture.held_out[0].reshape(-1, views)
    assert (through.all(axis=1) == through.any(axis=1)).all()
    # The same ones as through one camera alone.
    alone = TrainingMixture.open([source], held_out=fraction, seed=seed)
    np.testing.assert_array_equal(through[:, 0], alone.held_out[0])


FRONT, SIDE = "observation.images.front", "observation.images.side"


@pytest.mark.parametrize("through", [(FRONT, SIDE), (SIDE, FRONT), (SIDE,)])
@pytest.mark.parametrize("named", [("image", "left"), ("image",), ("left",), ("overhead",)])
def test_a_calibrations_camera_is_that_of_no_other_one(tmp_path, through, named):
    """`image` and a file's only camera are the mapping's first one's, whichever is looked through."""
    focal = {"image": 11.0, "left": 77.0, "overhead": 33.0}
    place = np.array([[0.0, 0, -1, 1], [1, 0, 0, 0], [0, -1, 0, 0.5], [0, 0, 0, 1]])
    cameras = {
        name: CalibratedCamera(Camera(np.diag([focal[name], focal[name], 1]), 12, 16), place)
        for name in named
    }
    RobotCalibration(cameras).save(tmp_path / "robot.yaml")
    features = [Feature(name, "image", (12, 16, 3)) for name in (FRONT, SIDE)]
    writer = LeRobotWriter(tmp_path / "d", 10, [*features, Feature("action", "float32", (7,))])
    pictures, actions = np.zeros((3, 12, 16, 3), np.uint8), np.ones((3, 7), np.float32)
    writer.add_episode({FRONT: pictures, SIDE: pictures, "action": actions}, "go")
    writer.finalize()
    none = {"intrinsics": "none", "extrinsics": "none"}
    mapping = FeatureMapping.from_dict(
        {
            "image": FRONT,
            "calibration": str(tmp_path / "robot.yaml"),
            "cameras": {"left": {"image": SIDE, **({} if "left" in named else none)}},
            **(none if named == ("left",) else {}),
        }
    )
    of_front = next((focal[name] for name in ("image", "overhead") if name in named), None)
    expected = {FRONT: of_front, SIDE: 77.0 if "left" in named else None}
    views = views_of(open_source(tmp_path / "d", mapping=mapping, through=through))
    for image, view in zip(through, views, strict=True):
        camera = view.episode(0).camera
        assert (None if camera is None else camera.intrinsics[0, 0]) == expected[image]
        assert (view.episode(0).extrinsics is None) == (expected[image] is None)
