"""Keypoints fall on the patches that show them, also after a crop moved the camera's intrinsics."""

import numpy as np
import pytest

from spatialvla.data.augmentation import Augmentation, Views
from spatialvla.data.in_memory import EpisodeSamples
from spatialvla.errors import InputError
from spatialvla.training.guidance.keypoints import Keypoints

SIZE, PATCHES = 32, 8


@pytest.fixture
def samples(dataset):
    return EpisodeSamples.open(dataset, 2, SIZE)


def _places(shares):
    """(B, K, 2) pixels x, y: the shares' mean of the patch centres."""
    centres = (np.arange(PATCHES) + 0.5) * SIZE / PATCHES
    grid = shares.numpy().reshape(*shares.shape[:2], PATCHES, PATCHES)
    return np.stack([(grid.sum(axis=2) * centres).sum(-1), (grid.sum(axis=3) * centres).sum(-1)], axis=-1)


def test_the_shares_point_at_the_square_in_any_crop(samples):
    indices = np.arange(len(samples))
    views = Views(samples.images[indices], samples.intrinsics[indices])
    augmentation = Augmentation(min_crop_area=0.7, brightness=0, contrast=0, saturation=0, hue=0)
    views = augmentation(views, np.random.default_rng(0))
    shares = Keypoints(samples, ("observation.square",)).patch_shares(
        indices, views.intrinsics, SIZE, PATCHES
    )
    np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-5)
    assert ((shares > 0).sum(-1) <= 4).all()
    for image, (place,) in zip(views.images, _places(shares), strict=True):
        rows, columns = np.nonzero(image[..., 0].astype(int) - image[..., 1] > 100)
        # The last patch centre is as far out as shares can point.
        seen = np.clip([columns.mean() + 0.5, rows.mean() + 0.5], 2, SIZE - 2)
        assert np.abs(place - seen).max() < 1.5


def test_a_point_behind_the_camera_is_nowhere(samples):
    keypoints = Keypoints(samples, ("observation.square",))
    keypoints.camera[:, :, 2] *= -1
    assert not keypoints.patch_shares(np.arange(3), samples.intrinsics[:3], SIZE, PATCHES).any()


def test_bad_names_are_refused(samples):
    with pytest.raises(InputError, match=r"3 numbers, unlike observation\.state"):
        Keypoints(samples, ("observation.state",))
    with pytest.raises(InputError, match=r"no 'observation\.cube'"):
        Keypoints(samples, ("observation.cube",))
    samples.columns.pop("observation.camera_pose")
    with pytest.raises(InputError, match=r"need 'observation\.camera_pose'"):
        Keypoints(samples, ("observation.square",))
