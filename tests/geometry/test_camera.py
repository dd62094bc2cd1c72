"""Intrinsics follow resizes and crops; back-projection inverts projection."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spatialvla.errors import InputError
from spatialvla.geometry.camera import Camera, check_readings, crop_intrinsics, resize_intrinsics
from spatialvla.vision.ego3d import back_project, patch_points

K = np.array([[120.0, 0, 70], [0, 110, 45], [0, 0, 1]])
numbers = st.floats(0.2, 4, allow_nan=False)


def project(k: np.ndarray, point: np.ndarray) -> np.ndarray:
    pixel = k @ point
    return pixel[:2] / pixel[2]


@given(x=st.floats(-2, 2), y=st.floats(-2, 2), z=numbers, sx=numbers, sy=numbers, left=numbers, top=numbers)
def test_a_point_stays_where_its_pixel_goes(x, y, z, sx, sy, left, top):
    point = np.array([x, y, z])
    before = project(K, point)
    resized = resize_intrinsics(K, (100, 200), (100 * sy, 200 * sx))
    assert np.allclose(project(resized, point), before * [sx, sy])
    assert np.allclose(project(crop_intrinsics(K, left, top), point), before - [left, top])


def test_back_projected_points_project_to_their_pixel_centers():
    generator = torch.Generator().manual_seed(0)
    depth = torch.rand(2, 10, 20, generator=generator) + 0.5
    intrinsics = torch.tensor(np.stack([K, K * [[1.1], [0.9], [1]]])).float()
    points = back_project(depth, intrinsics, (100, 200))
    assert torch.equal(points[..., 2], depth)
    pixels = torch.einsum("bij,bhwj->bhwi", intrinsics, points) / depth[..., None]
    assert torch.allclose(pixels[0, 3, 7, :2], torch.tensor([75.0, 35.0]), atol=1e-4)
    assert torch.allclose(pixels[1, 0, 0, :2], torch.tensor([5.0, 5.0]), atol=1e-4)


def test_geometry_stays_in_float32_under_bfloat16():
    depth = torch.full((1, 224, 224), 1.0, dtype=torch.bfloat16)
    intrinsics = torch.tensor(K)[None].float()
    exact = back_project(depth.float(), intrinsics, (224, 224))
    assert torch.equal(back_project(depth, intrinsics, (224, 224)), exact)


def test_patches_come_row_by_row_and_points_within_them_too():
    depth = torch.ones(1, 4, 8)
    points = patch_points(depth, torch.eye(3)[None], patch_size=4, points_per_side=2).view(2, 2, 2, 3)
    assert torch.equal(points[0, 0, 0], torch.tensor([1.0, 1.0, 1.0]))
    assert torch.equal(points[0, 0, 1], torch.tensor([3.0, 1.0, 1.0]))
    assert torch.equal(points[0, 1, 0], torch.tensor([1.0, 3.0, 1.0]))
    assert torch.equal(points[1, 0, 0], torch.tensor([5.0, 1.0, 1.0]))


@pytest.mark.parametrize(
    ("K", "size", "sentence"),
    [
        (np.eye(3), (128, 128), "focal length of fx = 1 pixels"),
        ([[100, 0, 900.0], [0, 100, 64], [0, 0, 1]], (128, 128), "principal point at cx = 900"),
        ([[100, 0, 64], [0, np.nan, 64], [0, 0, 1]], (128, 128), "NaN or infinity"),
        ([[100, 50, 64], [0, 100, 64], [0, 0, 1]], (128, 128), "skew of 50"),
        ([[100, 0, 64], [0, 100, 64], [0, 0, 1]], (0, 128), "not 0 and 128"),
    ],
)
def test_no_camera_is_made_that_cannot_be(K, size, sentence):
    with pytest.raises(InputError, match=sentence):
        Camera(np.array(K, np.float64), *size)


@pytest.mark.parametrize(
    ("reading", "sentence"),
    [(900.0, "reaches 900 meters"), (-0.1, "negative"), (np.nan, "NaN"), (np.inf, "infinity")],
)
def test_readings_are_checked_and_zero_is_none(reading, sentence):
    readings = np.zeros((2, 3, 4), np.float32)
    assert check_readings(readings) is readings
    readings[1, 2, 3] = reading
    with pytest.raises(InputError, match=sentence):
        check_readings(readings)
