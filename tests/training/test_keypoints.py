"""Keypoints fall on the patches that show them, also after a crop moved the camera's intrinsics."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from loaded_rows import rows_of

from spatialvla.data.augmentation import Augmentation, Views
from spatialvla.data.episodes import Episode, EpisodeWrapper, SourceWrapper
from spatialvla.data.lerobot.source import LeRobotSource
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.errors import InputError
from spatialvla.geometry.extrinsics import pose_matrix, transform
from spatialvla.geometry.rotations import matrices
from spatialvla.training.guidance.keypoints import Keypoints
from spatialvla.training.guidance.step_table import Steps

SIZE, PATCHES = 32, 8


@pytest.fixture
def source(dataset):
    return LeRobotSource(dataset)


@pytest.fixture
def steps(source):
    return Steps(TrainingMixture.open([source]))


def _spots(shares):
    """(B, K, 2) pixels x, y: the shares' mean of the patch centers."""
    centers = (np.arange(PATCHES) + 0.5) * SIZE / PATCHES
    grid = shares.numpy().reshape(*shares.shape[:2], PATCHES, PATCHES)
    return np.stack([(grid.sum(axis=2) * centers).sum(-1), (grid.sum(axis=3) * centers).sum(-1)], axis=-1)


def test_the_shares_point_at_the_square_in_any_crop(source, steps):
    keypoints = Keypoints(steps, ("observation.square",))
    augmentation = Augmentation(0.7, 1.0, brightness=0, contrast=0, saturation=0, hue=0)
    for index in range(4):
        episode = source.episode(index)
        images = episode.images(range(12))
        views = Views(images, np.repeat(episode.camera.intrinsics[None], 12, 0))
        views = augmentation(views, SIZE, np.random.default_rng(index))
        loaded = rows_of("squares", [index] * 12, range(12))
        shares = keypoints.patch_shares(loaded, views.intrinsics, SIZE, PATCHES)
        np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-5)
        assert ((shares > 0).sum(-1) <= 4).all()
        for image, (spot,) in zip(views.images, _spots(shares), strict=True):
            rows, columns = np.nonzero(image[..., 0].astype(int) - image[..., 1] > 100)
            # The last patch center is as far out as shares can point.
            seen = np.clip([columns.mean() + 0.5, rows.mean() + 0.5], 2, SIZE - 2)
            assert np.abs(spot - seen).max() < 1.5


def test_a_point_behind_the_camera_is_nowhere(source, steps):
    keypoints = Keypoints(steps, ("observation.square",))
    keypoints.points[:, :, 2] *= -1
    intrinsics = np.repeat(source.episode(0).camera.intrinsics[None], 3, 0)
    assert not keypoints.patch_shares(rows_of("squares", [0] * 3, range(3)), intrinsics, SIZE, PATCHES).any()


@dataclass(frozen=True)
class _SeenFrom(SourceWrapper):
    """The same episodes, by a camera that stands where `moved` (4, 4) takes the first."""

    moved: np.ndarray

    def episode(self, index: int) -> Episode:
        return _MovedEpisode(self.source.episode(index), self.moved)


@dataclass(frozen=True)
class _MovedEpisode(EpisodeWrapper):
    moved: np.ndarray

    @property
    def extrinsics(self) -> np.ndarray:
        return self.columns["observation.extrinsics"] @ self.moved

    @property
    def columns(self) -> Mapping[str, np.ndarray]:
        first = np.tile(np.eye(4), (len(self.actions), 1, 1))
        return {**self.episode.columns, "observation.extrinsics": first}


def test_another_camera_sees_the_points_from_where_its_extrinsics_say(source):
    turn = matrices(np.array([[0.1, -0.2, 0.3]]), "axis_angle")[0]
    moved = pose_matrix(np.array([0.2, -0.1, 0.4]), turn)
    first = Keypoints(Steps(TrainingMixture.open([source])), ("observation.square",)).points
    other = Keypoints(Steps(TrainingMixture.open([_SeenFrom(source, moved)])), ("observation.square",)).points
    np.testing.assert_allclose(transform(moved, other), first, atol=1e-9)
    same = Keypoints(Steps(TrainingMixture.open([_SeenFrom(source, np.eye(4))])), ("observation.square",))
    np.testing.assert_array_equal(same.points, first)


def test_bad_names_are_refused(source, steps, monkeypatch):
    with pytest.raises(InputError, match=r"3 numbers, unlike observation\.state"):
        Keypoints(steps, ("observation.state",))
    with pytest.raises(InputError, match=r"no 'observation\.cube'"):
        Keypoints(steps, ("observation.cube",))
    monkeypatch.setattr("spatialvla.training.guidance.keypoints.CAMERA_POSE", "observation.pose")
    with pytest.raises(InputError, match=r"need 'observation\.pose'"):
        Keypoints(steps, ("observation.square",))
