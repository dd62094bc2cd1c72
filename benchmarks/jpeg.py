"""Time of a JPEG file to RGB pixels by several libraries, and how far their pixels are from Pillow's.

    python benchmarks/jpeg.py [--rounds 60]

Files are images of bridge_orig's sample (256 x 256), and a mosaic of them (480 x 640), that larger cameras write.
imagecodecs and OpenCV are timed where they are installed. The last rows compare two ways to a crop of 224 pixels: the
whole image decoded, and half of each side by the DCT.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Mapping
from importlib.util import find_spec

import numpy as np
import simplejpeg
import torch
from PIL import Image

from made_shards import SOURCE
from spatialvla.common.pictures import open_picture, to_rgb
from spatialvla.common.rgb_files import read_rgb
from spatialvla.data.augmentation import Views, scaled_crops
from spatialvla.data.rlds import RLDSDataset
from timing import in_turns

SIZE = 224


def decoders() -> dict[str, Callable[[bytes], np.ndarray]]:
    """Those that are installed."""
    found: dict[str, Callable[[bytes], np.ndarray]] = {
        "Pillow": lambda file: np.asarray(to_rgb(open_picture(file))),
        "read_rgb (simplejpeg)": read_rgb,
    }
    if find_spec("imagecodecs"):
        import imagecodecs

        found["imagecodecs"] = imagecodecs.jpeg8_decode
    if find_spec("cv2"):
        import cv2

        cv2.setNumThreads(1)
        found["OpenCV"] = lambda file: cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB)
    return found


def mosaic(files: list[bytes]) -> bytes:
    """480 x 640, with the detail of the images that it is made of."""
    first, second, third, fourth, *_ = (read_rgb(file) for file in files)
    rows = [np.concatenate(row, axis=1) for row in ((first, second, third), (third[::-1], fourth, first))]
    file = io.BytesIO()
    Image.fromarray(np.concatenate(rows)[:480, :640]).save(file, "JPEG", quality=95)
    return file.getvalue()


def crop(pixels: np.ndarray) -> np.ndarray:
    """The middle 95 % of each side, scaled as augmentation does."""
    height, width = pixels.shape[:2]
    box = np.array([[width // 40, height // 40, width - width // 20, height - height // 20]])
    return scaled_crops(Views(pixels[None], np.eye(3)[None]), box, SIZE).images[0]


def report(ways: Mapping[str, Callable[[], np.ndarray]], rounds: int) -> None:
    """Ways that give one picture each; distances are from the first one's."""
    times = in_turns(ways, rounds)
    expected = next(iter(ways.values()))().astype(int)
    for name, way in ways.items():
        apart = np.abs(way().astype(int) - expected)
        cpu = 1e3 * float(np.median(times[name].cpu))
        print(f"  {name:24} {cpu:6.2f} ms   mean {apart.mean():.2f}, at most {apart.max()} levels apart")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    episode = RLDSDataset(SOURCE).episode(0)
    files = [bytes(file) for file in episode.image_files("steps/observation/image_0")]
    for name, file in (("256 x 256", files[0]), ("480 x 640", mosaic(files))):
        print(f"{name}, {len(file) / 1e3:.0f} kB:")
        report({way: lambda f=decode, d=file: f(d) for way, decode in decoders().items()}, options.rounds)
    print(f"480 x 640 to a crop of {SIZE}:")
    large = mosaic(files)
    report(
        {
            "whole": lambda: crop(read_rgb(large)),
            "half by the DCT": lambda: crop(
                simplejpeg.decode_jpeg(large, "RGB", min_height=SIZE, min_width=SIZE)
            ),
        },
        options.rounds,
    )


if __name__ == "__main__":
    main()
