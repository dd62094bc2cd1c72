"""Pictures of any mode become the RGB they show, or are refused; damaged files are told by one kind of error."""

import io

import numpy as np
import pytest
from PIL import Image

from spatialvla.common.pictures import open_picture, to_rgb
from spatialvla.common.rgb_files import read_rgb
from spatialvla.data.lerobot.image_files import decode_depth, decode_rgb
from spatialvla.data.rlds.features import FeatureSpec, decode_image
from spatialvla.errors import CheckpointError, InputError
from spatialvla.geometry.camera import View

RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 255, (6, 8, 3), dtype=np.uint8)
RAMP = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (4, 1))
RLDS = FeatureSpec("steps/observation/image", "image", np.dtype("uint8"), (None, None, 3), "png", 1)


def stored(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_16_bit_gray_is_scaled():
    for made in (Image.fromarray(RAMP), open_picture(stored(Image.fromarray(RAMP)))):
        gray = np.asarray(to_rgb(made))
        np.testing.assert_array_equal(gray[0, :, 0], np.arange(256))
        np.testing.assert_array_equal(gray[..., 0], gray[..., 2])
    np.testing.assert_array_equal(View.of(Image.fromarray(RAMP)).image[0, :, 1], np.arange(256))
    np.testing.assert_array_equal(
        decode_rgb([stored(Image.fromarray(RAMP))], "f")[0, 0, :, 0], np.arange(256)
    )
    np.testing.assert_array_equal(decode_image(RLDS, stored(Image.fromarray(RAMP)))[0, :, 0], np.arange(256))


@pytest.mark.parametrize("numbers", [RAMP.astype(np.float32) / 65535, RAMP.astype(np.int32)])
def test_pictures_whose_white_is_unknown_are_refused(numbers):
    picture = Image.fromarray(numbers)
    with pytest.raises(InputError, match="which of its numbers is white"):
        to_rgb(picture)
    with pytest.raises(CheckpointError, match="which of its numbers is white"):
        decode_rgb([stored(picture, "TIFF")], "file.parquet")
    with pytest.raises(InputError):
        View.of(picture)


@pytest.mark.parametrize("mode", ["CMYK", "P", "LA", "1", "L", "RGBA"])
def test_every_mode_becomes_rgb_in_every_kind_of_dataset(mode):
    picture = Image.fromarray(COLORS).convert(mode)
    data = stored(picture, "TIFF")
    expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(decode_rgb([data], "file.parquet")[0], expected)
    np.testing.assert_array_equal(decode_image(RLDS, data), expected)
    np.testing.assert_array_equal(View.of(open_picture(data)).image, expected)


def test_exif_turns_a_photograph_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = stored(Image.fromarray(COLORS).transpose(Image.Transpose.ROTATE_90), exif=exif)
    np.testing.assert_array_equal(View.of(open_picture(data)).image, COLORS)
    np.testing.assert_array_equal(decode_rgb([data], "file.parquet")[0], COLORS)


SCENE = np.clip(
    np.add.outer(np.arange(97), 1.5 * np.arange(131))[..., None] * [1, 0.7, 0.4] % 256
    + RNG.normal(0, 9, (97, 131, 3)),
    0,
    255,
).astype(np.uint8)


@pytest.mark.parametrize(
    "options",
    [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True}, {"quality": 20}],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_files_give_the_pixels_that_pillow_gives(mode, options):
    data = stored(Image.fromarray(SCENE).convert(mode), "JPEG", **options)
    np.testing.assert_array_equal(read_rgb(data), np.asarray(to_rgb(open_picture(data))))
    np.testing.assert_array_equal(read_rgb(memoryview(data)), read_rgb(data))


def test_jpeg_files_are_turned_upright_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = stored(Image.fromarray(SCENE), "JPEG", exif=exif)
    assert read_rgb(data).shape == (131, 97, 3)
    np.testing.assert_array_equal(read_rgb(data), np.asarray(to_rgb(open_picture(data))))


def test_jpeg_files_are_turned_upright_by_xmp_too():
    note = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>"""
    data = stored(Image.fromarray(SCENE), "JPEG", xmp=note)
    assert read_rgb(data).shape == (131, 97, 3)
    np.testing.assert_array_equal(read_rgb(data), np.asarray(to_rgb(open_picture(data))))


@pytest.mark.parametrize("kept", [20, 400, 2000])
def test_a_jpeg_file_that_is_cut_off_is_told(kept):
    data = stored(Image.fromarray(SCENE), "JPEG")
    with pytest.raises(InputError, match="cannot be decoded"):
        read_rgb(data[:kept])


def damaged_files():
    whole = stored(Image.fromarray(RNG.integers(0, 255, (256, 256, 3), dtype=np.uint8)))
    second = whole.index(b"IDAT", whole.index(b"IDAT") + 4)
    yield "a zeroed block", whole[: second - 100] + bytes(4096) + whole[second + 3996 :]
    yield "200 megapixels", stored(Image.new("L", (20000, 10000)))
    yield "half a file", whole[:1000]
    yield "no picture", b"no picture"
    yield "nothing", b""


@pytest.mark.parametrize(("what", "data"), list(damaged_files()))
def test_damaged_pictures_are_damaged_data_wherever_they_are_read(what, data, tmp_path):
    with pytest.raises(InputError, match="cannot be decoded"):
        open_picture(data)
    with pytest.raises(CheckpointError, match=r"file\.parquet"):
        decode_rgb([data], "file.parquet")
    with pytest.raises(CheckpointError, match=r"file\.parquet"):
        decode_depth([data], "file.parquet")
    with pytest.raises(CheckpointError, match="steps/observation/image"):
        decode_image(RLDS, data)


def test_pictures_of_several_sizes_and_colored_depth_are_damaged_data():
    small = stored(Image.fromarray(COLORS[:4]))
    with pytest.raises(CheckpointError, match=r"file\.parquet"):
        decode_rgb([stored(Image.fromarray(COLORS)), small], "file.parquet")
    with pytest.raises(CheckpointError, match="color"):
        decode_depth([small], "file.parquet")
    with pytest.raises(CheckpointError, match=r"announced was \(4, 8, 3, 1\)"):
        decode_image(FeatureSpec("k", "image", np.dtype("uint8"), (4, 8, 3, 1), "png", 1), small)
