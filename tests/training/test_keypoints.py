"""Keypoints fall on the patches that show them, also after a crop moved the camera's intrinsics."""

import numpy as np
import pytest
from loaded_rows import rows_of

from spatialvla.data.augmentation import Augmentation, Views
from spatialvla.data.lerobot.source import LeRobotSource
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.errors import InputError
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


def test_bad_names_are_refused(source, steps, monkeypatch):
    with pytest.raises(InputError, match=r"3 numbers, unlike observation\.state"):
        Keypoints(steps, ("observation.state",))
    with pytest.raises(InputError, match=r"no 'observation\.cube'"):
        Keypoints(steps, ("observation.cube",))
    monkeypatch.setattr("spatialvla.training.guidance.keypoints.CAMERA_POSE", "observation.pose")
    with pytest.raises(InputError, match=r"need 'observation\.pose'"):
        Keypoints(steps, ("observation.square",))
