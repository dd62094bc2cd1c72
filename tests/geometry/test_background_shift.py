import numpy as np
import pytest

from spatialvla.geometry.background_shift import PUSHED, background, background_shift

RNG = np.random.default_rng(0)
SCENE = np.kron(RNG.integers(0, 255, (30, 40, 3)), np.ones((10, 10, 1))).astype(np.uint8)


def seen(left: int, top: int, scene=SCENE, arm: int = 0) -> np.ndarray:
    """(5, 240, 320, 3): a window into the scene, with noise, in which a box moves about."""
    rng = np.random.default_rng(arm)
    pictures = np.array([scene[top : top + 240, left : left + 320]] * 5).astype(int)
    for picture in pictures:
        x, y = rng.integers(0, 250), rng.integers(0, 170)
        picture[y : y + 70, x : x + 70] = rng.integers(0, 255, 3)
    return (pictures + rng.integers(-6, 7, pictures.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(("left", "top"), [(30, 30), (44, 30), (30, 18), (12, 48)])
def test_a_shift_of_the_background_is_found(left, top):
    shift = background_shift(background(seen(30, 30)), background(seen(left, top, arm=1)))
    np.testing.assert_allclose(shift, [(30 - left) / 320, (30 - top) / 240], atol=0.012)


def test_a_camera_that_stands_still_has_the_same_background():
    shift = background_shift(background(seen(30, 30)), background(seen(30, 30, arm=2)))
    assert np.abs(shift).max() < PUSHED


def test_nothing_is_said_of_another_scene():
    other = np.kron(RNG.integers(0, 255, (30, 40, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    assert background_shift(background(seen(30, 30)), background(seen(30, 30, other))) is None


def test_nothing_is_said_of_pictures_without_edges():
    blank = np.full((3, 64, 64, 3), 90, np.uint8)
    assert background_shift(background(blank), background(blank)) is None
    assert background_shift(background(blank[:, :4, :4]), background(blank[:, :4, :4])) is None
