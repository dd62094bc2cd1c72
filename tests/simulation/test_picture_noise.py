import numpy as np
import pytest

from spatialvla.errors import InputError
from spatialvla.simulation.libero.picture_noise import (
    SIZE,
    _enlarged,
    _plasma,
    disturbed,
    noise_name,
)

pytest.importorskip("scipy")

KINDS = ("motion blur", "Gaussian blur", "zoom blur", "fog", "glass blur")


@pytest.fixture(scope="module")
def picture():
    """Smooth, with sharp squares."""
    y, x = np.mgrid[:SIZE, :SIZE]
    red = np.where((x // 32 + y // 32) % 2, 200, 40)
    return np.stack([red, 255 * x // (SIZE - 1), np.full_like(red, 90)], -1).astype(np.uint8)


def noise(number, seed=0):
    return number, np.random.default_rng(seed)


def sharpness(picture):
    return np.abs(np.diff(picture[..., 0].astype(float), axis=0)).max(axis=0).mean()


def test_numbers_are_the_benchmarks():
    assert [noise_name(10 * kind + 1) for kind in range(5)] == [f"{kind} 1" for kind in KINDS]
    assert noise_name(50) == "glass blur 10"
    for number in (0, 51, -1):
        with pytest.raises(InputError, match="1 to 50"):
            noise_name(number)


@pytest.mark.parametrize("kind", range(5), ids=KINDS)
def test_noise_grows_with_its_strength_and_follows_its_seed(picture, kind):
    mild, strong = (disturbed(picture, *noise(10 * kind + strength)) for strength in (1, 10))
    for noisy in (mild, strong):
        assert (noisy.shape, noisy.dtype) == (picture.shape, np.uint8)
    error = [np.abs(noisy.astype(float) - picture).mean() for noisy in (mild, strong)]
    assert 0.2 < error[0] < error[1]
    np.testing.assert_array_equal(strong, disturbed(picture, *noise(10 * kind + 10)))
    other = disturbed(picture, *noise(10 * kind + 10, seed=1))
    assert (strong != other).any() == (kind in (0, 3, 4))


@pytest.mark.parametrize(
    "number", [number for kind in (0, 1, 2, 4) for number in (10 * kind + 1, 10 * kind + 10)]
)
def test_blurs_keep_an_even_picture_and_soften_edges(picture, number):
    even = np.full_like(picture, 120)
    assert np.abs(disturbed(even, *noise(number)).astype(int) - 120).max() <= 1
    assert sharpness(disturbed(picture, *noise(number))) < sharpness(picture)


def test_a_gaussian_blur_has_the_width_of_its_number():
    point = np.zeros((SIZE, SIZE, 3), np.uint8)
    point[:, 128] = 255
    profile = disturbed(point, *noise(14))[128, :, 0].astype(float)
    away = np.arange(SIZE) - 128
    assert np.sqrt((profile * away**2).sum() / profile.sum()) == pytest.approx(4, rel=0.1)


def test_motion_smears_to_one_side():
    """A point moves left, as far as the strength's radius says: pixels are taken from the right."""
    point = np.zeros((SIZE, SIZE, 3), np.uint8)
    point[128, 128] = 255
    rows, columns = np.nonzero(disturbed(point, *noise(10))[..., 0])
    assert columns.max() == 128
    assert 20 < np.hypot(rows - 128, columns - 128).max() < 2 * 35 + 1
    assert np.ptp(np.arctan2(rows[columns < 120] - 128, 128 - columns[columns < 120])) < 0.2


@pytest.mark.parametrize("factor", [1.0, 1.07, 1.3, 1.55])
def test_enlarging_is_scipys(factor):
    from scipy.ndimage import zoom

    picture = np.random.default_rng(3).random((SIZE, SIZE, 3))
    part = int(np.ceil(SIZE / factor))
    first = (SIZE - part) // 2
    whole = zoom(picture[first : first + part, first : first + part], (factor, factor, 1), order=1)
    trimmed = (len(whole) - SIZE) // 2
    expected = whole[trimmed : trimmed + SIZE, trimmed : trimmed + SIZE]
    np.testing.assert_allclose(_enlarged(picture, factor), expected, atol=1e-9)


def test_fog_hides_contrast_in_clouds(picture):
    clouds = _plasma(1.3, np.random.default_rng(0))
    assert (clouds.min(), clouds.max()) == (0, 1)
    foggy = disturbed(picture, *noise(40))
    assert foggy.std() < picture.std()
    even = disturbed(np.full_like(picture, 120), *noise(40))
    assert even.std() > 5  # clouds, not a veil
    assert np.abs(np.diff(even[..., 0].astype(float), axis=0)).mean() < even.std()


def test_glass_takes_pixels_from_nearby():
    ramp = np.repeat(np.tile(np.arange(SIZE, dtype=np.uint8), (SIZE, 1))[..., None], 3, axis=2)
    moved = disturbed(ramp, *noise(48))[..., 0].astype(int) - ramp[..., 0]
    shuffled, left = moved[20:200, 20:200], moved[20:240, 235:245]
    assert 0.3 < shuffled.std() < 8
    assert np.abs(shuffled).max() <= 20
    assert np.abs(left).max() <= 1  # past column 224 nothing is shuffled, as in the benchmark


def test_pictures_of_another_size_are_refused(picture):
    with pytest.raises(InputError, match="256 x 256"):
        disturbed(picture[:128, :128], *noise(1))
