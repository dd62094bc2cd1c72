import colorsys

import numpy as np
import pytest
from PIL import Image

from spatialvla.data.augmentation import Augmentation, Views, scaled_crops, transform_colors
from spatialvla.errors import InputError
from spatialvla.geometry.camera import View, resize_intrinsics


def camera(count=1, focal=110.0, center=64.0):
    return np.tile(np.array([[focal, 0, center], [0, focal, center], [0, 0, 1.0]]), (count, 1, 1))


def smooth_image(rng, size=128):
    """An image whose color tells the place: red rises with x, green with y."""
    ramp = np.linspace(20, 235, size)
    image = np.zeros((size, size, 3))
    image[..., 0], image[..., 1], image[..., 2] = ramp[None, :], ramp[:, None], 120
    return image.astype(np.uint8)


def color_at(image, u, v):
    """Bilinear color at a point in pixels; pixel (0, 0) covers [0, 1) x [0, 1)."""
    x, y = u - 0.5, v - 0.5
    left, top = int(np.floor(x)), int(np.floor(y))
    fx, fy = x - left, y - top
    patch = image[top : top + 2, left : left + 2].astype(np.float64)
    rows = patch[0] * (1 - fy) + patch[1] * fy
    return rows[0] * (1 - fx) + rows[1] * fx


def test_a_crop_shows_the_same_thing_where_the_moved_camera_projects_a_point():
    rng = np.random.default_rng(0)
    image = smooth_image(rng)
    depth = np.linspace(0.5, 2.0, 128)[None, :].repeat(128, 0).astype(np.float32)
    views = Views(np.stack([image] * 16), camera(16), np.stack([depth] * 16))
    crops = Augmentation(0.6, 1.0, brightness=0, contrast=0, saturation=0, hue=0)(views, 128, rng)
    point = np.array([0.05, -0.1, 1.2])
    before = views.intrinsics[0] @ point
    expected = color_at(image, before[0] / before[2], before[1] / before[2])
    moved = False
    for crop, intrinsics, crop_depth in zip(crops.images, crops.intrinsics, crops.depth, strict=True):
        after = intrinsics @ point
        u, v = after[0] / after[2], after[1] / after[2]
        np.testing.assert_allclose(color_at(crop, u, v), expected, atol=1.0)
        column = before[0] / before[2]
        np.testing.assert_allclose(
            crop_depth[int(v), int(u)], np.interp(column, np.arange(128) + 0.5, depth[0]), atol=0.02
        )
        moved |= abs(u - column) > 3
    assert moved


def test_the_published_crop_keeps_nine_tenths_always():
    views = Views(np.zeros((50, 100, 200, 3), np.uint8), camera(50))
    crops = Augmentation()(views, 64, np.random.default_rng(1))
    focal = crops.intrinsics[:, [0, 1], [0, 1]] / (110.0 * 64 / np.array([200, 100]))
    # Sides are whole pixels: 190 of 200 and 95 of 100.
    np.testing.assert_allclose(focal, 1 / 0.95)
    assert len(np.unique(crops.intrinsics[:, 0, 2])) > 5


def test_a_crop_keeps_the_promised_area():
    rng = np.random.default_rng(1)
    views = Views(np.zeros((200, 128, 96, 3), np.uint8), camera(200))
    crops = Augmentation(min_crop_area=0.9, max_crop_area=1.0)(views, 64, rng)
    assert crops.images.shape == (200, 64, 64, 3)
    assert crops.depth is None
    # A side of 96 or 128 pixels shows in 64.
    scale = crops.intrinsics[:, 0, 0] * 96 / 64 * crops.intrinsics[:, 1, 1] * 128 / 64 / 110.0**2
    assert scale.min() >= 1
    assert scale.max() <= 1 / 0.9 + 1e-9
    assert scale.max() > 1.07


def test_cropping_to_the_whole_image_changes_nothing():
    rng = np.random.default_rng(2)
    views = Views(rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8), camera(2), rng.random((2, 32, 32)))
    whole = scaled_crops(views, np.array([[0, 0, 32, 32]] * 2), 32)
    np.testing.assert_array_equal(whole.images, views.images)
    np.testing.assert_array_equal(whole.intrinsics, views.intrinsics)
    np.testing.assert_array_equal(whole.depth, views.depth.astype(np.float32))


def test_each_strength_moves_colors_in_its_own_way():
    image = np.full((1, 8, 8, 3), (180, 90, 60), np.uint8)
    image[:, :4] = (60, 90, 120)
    off = {"min_crop_area": 1.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}

    def changed(**strength):
        views = Augmentation(**(off | strength))(Views(image, camera()), 8, np.random.default_rng(3))
        return views.images.astype(np.float64)[0, ::4, 0]

    original = image.astype(np.float64)[0, ::4, 0]
    luma = np.array([0.299, 0.587, 0.114])
    brighter = changed(brightness=0.2) - original
    assert np.ptp(brighter) <= 1
    assert abs(brighter.mean()) > 2
    contrast = changed(contrast=0.2)
    np.testing.assert_allclose(contrast.mean(0), original.mean(0), atol=1)
    factor = np.ptp(contrast[:, 0]) / np.ptp(original[:, 0])
    assert 0.8 <= factor <= 1.2
    assert factor != pytest.approx(1, abs=0.005)
    gray = changed(saturation=0.5)
    np.testing.assert_allclose(gray @ luma, original @ luma, atol=1)
    assert abs(np.ptp(gray[0]) - np.ptp(original[0])) > 3
    turned = changed(hue=0.05)
    np.testing.assert_allclose(turned @ luma, original @ luma, atol=1)
    hues = [colorsys.rgb_to_hsv(*(color / 255))[0] for color in (turned[0], original[0])]
    assert 0.002 < abs(hues[0] - hues[1]) < 0.06


def test_colors_are_cut_not_wrapped():
    image = np.array([[[[250, 5, 128]]]], np.uint8)
    lighter = transform_colors(image, np.eye(3)[None], np.array([[20.0, -20.0, 0.0]]))
    np.testing.assert_array_equal(lighter, [[[[255, 0, 128]]]])


def test_off_is_the_identity_and_seeds_repeat():
    rng = np.random.default_rng(4)
    views = Views(rng.integers(0, 256, (3, 40, 40, 3), dtype=np.uint8), camera(3))
    assert Augmentation.off()(views, 40, rng) is views
    once, again = (Augmentation()(views, 40, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(once.images, again.images)
    np.testing.assert_array_equal(once.intrinsics, again.intrinsics)
    assert (once.images != Augmentation()(views, 40, np.random.default_rng(6)).images).any()


@pytest.mark.parametrize(
    "option",
    [
        {"min_crop_area": 0.0},
        {"max_crop_area": 0.8},
        {"max_crop_area": 1.2},
        {"hue": -0.1},
        {"contrast": 2.0},
    ],
)
def test_impossible_strengths_are_named(option):
    with pytest.raises(InputError, match=next(iter(option))):
        Augmentation(**option)


def test_crops_are_scaled_as_the_processor_would():
    ramp = np.add.outer(np.arange(48), np.arange(64))[..., None] * np.array([1, 2, 1]) + np.array([0, 0, 90])
    images = np.stack([ramp, ramp[::-1], ramp[:, ::-1]]).astype(np.uint8)
    views = Views(images, camera(3))
    boxes = np.array([[0, 0, 64, 48], [3, 2, 50, 40], [14, 8, 50, 40]])
    scaled = scaled_crops(views, boxes, 24)
    for image, (left, top, width, height), got in zip(images, boxes, scaled.images, strict=True):
        cut = Image.fromarray(image[top : top + height, left : left + width])
        expected = View.of(cut).resized(24).image.astype(float)
        assert np.abs(expected - got).max() <= 2
    np.testing.assert_allclose(
        scaled.intrinsics[0], resize_intrinsics(views.intrinsics[0], (48, 64), (24, 24))
    )


def test_what_is_not_cropped_keeps_its_size():
    views = Views(np.random.default_rng(0).integers(0, 255, (2, 20, 30, 3), dtype=np.uint8), camera(2))
    assert Augmentation.off()(views, 24, np.random.default_rng(0)) is views
    assert Augmentation()(views, 24, np.random.default_rng(0)).images.shape == (2, 24, 24, 3)


def test_a_crop_to_another_size_keeps_points_on_their_pixels():
    height, width, size = 60, 80, 40
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([3 * columns, 4 * rows, 0 * rows], axis=-1).astype(np.uint8)
    camera = np.array([[90.0, 0, 41], [0, 80, 28], [0, 0, 1]])
    depth = (1.0 + columns / width).astype(np.float32)
    views = Views(image[None], camera[None], depth[None])
    moved = scaled_crops(views, np.array([[10, 6, 64, 48]]), size)
    ray = np.array([0.05, -0.07, 1.0])
    u, v, _ = camera @ ray
    new_u, new_v, _ = moved.intrinsics[0] @ ray
    # Each pixel's color tells where it was: column 3 u, row 4 v (centers at half pixels).
    got = moved.images[0, int(new_v), int(new_u)]
    assert abs(got[0] / 3 + 0.5 - u) < 1
    assert abs(got[1] / 4 + 0.5 - v) < 1
    assert abs(moved.depth[0, int(new_v), int(new_u)] - (1 + (u - 0.5) / width)) < 1.5 / width
