"""Depth as LeRobot's 12-bit video: meters to codes and back, and the frames that carry the codes.

As lerobot 0.6.1 does it (`quantize_depth`, `dequantize_depth`): a code is linear in the depth, or in
log(depth + shift), from 0 at depth_min to 4095 at depth_max. LeRobot turns holes into code 0, which it decodes
to depth_min; here code 0 is no reading, in both directions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.video.frame import VideoFrame

from spatialvla.common.seals import seal_mp4
from spatialvla.errors import InputError
from spatialvla.geometry.camera import LARGEST_DEPTH

LARGEST_CODE = 4095
SMALLEST_SIDE = 16
"""Pixels; the encoder refuses shorter sides."""

_PIXEL_FORMAT = "gray12le"
_TWELVE_BITS = (_PIXEL_FORMAT, "yuv420p12le", "yuv422p12le", "yuv444p12le")
_KEYFRAME_EVERY = 8
_TOO_LARGE = 1e9  # of a length in meters or millimeters
# Without B-frames decoding order equals display order, which lets files be joined by shifting timestamps. Headers
# before each keyframe let files be joined that were encoded with different keyframe distances.
_PARAMETERS = "lossless=1:bframes=0:repeat-headers=1"


@dataclass(frozen=True)
class DepthQuantization:
    """How meters become codes; fields and defaults are LeRobot's.

    depth_min, depth_max: meters at the codes 0 and 4095. use_log: whether the steps grow with the distance;
    then shift, in meters, says how fast.

    Raises InputError for what no depth can be stored by, and for a range that must be millimeters.
    """

    depth_min: float = 0.01
    depth_max: float = 10.0
    shift: float = 3.5
    use_log: bool = True

    def __post_init__(self) -> None:
        low, high = self.depth_min, self.depth_max
        if not (math.isfinite(self.shift) and 0 <= low < high < math.inf):
            raise InputError(
                f"Depth video cannot reach from depth_min = {low:g} to depth_max = {high:g} with shift = "
                f"{self.shift:g}; give meters, 0 or more, that ascend."
            )
        if high > LARGEST_DEPTH:
            raise InputError(
                f"Depth video that reaches to depth_max = {high:g} meters is beyond every sensor "
                f"({LARGEST_DEPTH:g}); depth_min, depth_max and shift are meters, not millimeters."
            )
        if self.use_log and low + self.shift <= 0:
            raise InputError(
                f"Depth video in logarithmic steps needs depth_min + shift above 0, not {low + self.shift:g}."
            )

    @classmethod
    def of(cls, steps: Literal["log", "linear"], reach: tuple[float, float]) -> DepthQuantization:
        """Steps of this kind from reach[0] to reach[1] meters, in logarithmic ones with LeRobot's shift."""
        return cls(*reach, use_log=steps == "log")

    @staticmethod
    def is_described(info: Mapping[str, Any]) -> bool:
        """Whether a feature's `info` says anything of how depth became codes."""
        return any(f"video.{field.name}" in info for field in fields(DepthQuantization))

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> DepthQuantization:
        """What a feature's `info` in info.json says. Raises InputError where that is too little, or wrong."""
        entries = {field.name: info.get(f"video.{field.name}") for field in fields(cls)}
        for name, entry in entries.items():
            is_flag = isinstance(entry, bool)
            is_number = isinstance(entry, int | float) and not is_flag and abs(entry) < _TOO_LARGE
            if not (is_flag if name == "use_log" else is_number):
                raise InputError(
                    f"info.json says video.{name} = {str(entry)[:20]}, by which no depth can be decoded; correct it."
                )
        return cls(
            float(info["video.depth_min"]),
            float(info["video.depth_max"]),
            float(info["video.shift"]),
            bool(info["video.use_log"]),
        )

    def to_info(self) -> dict[str, Any]:
        """The same as a part of a feature's `info`."""
        return {f"video.{name}": value for name, value in vars(self).items() if not name.startswith("_")}

    def quantize(self, depth: np.ndarray) -> np.ndarray:
        """Meters as uint16 codes: 0 for what is not finite or outside of the range, else 1 to 4095.

        Decoded again, a reading is off by at most half a step, or one step within a step of depth_min.
        """
        measured = (depth > 0) & (depth >= self.depth_min) & (depth <= self.depth_max)
        meters = np.where(measured, depth, self.depth_max).astype(np.float64)
        if self.use_log:
            meters = np.log(meters + self.shift)
        low, high = self._ends
        codes = np.rint((meters - low) / (high - low) * LARGEST_CODE).clip(1, LARGEST_CODE)
        return np.where(measured, codes, 0).astype(np.uint16)

    def dequantize(self, codes: np.ndarray) -> np.ndarray:
        """Codes as float32 meters, 0 where there is no reading."""
        return self._meters.take(codes, mode="clip")

    @cached_property
    def _meters(self) -> np.ndarray:
        """(4096,) float32: what each code stands for."""
        meters = np.linspace(*self._ends, LARGEST_CODE + 1)
        if self.use_log:
            meters = (np.exp(meters) - self.shift).clip(self.depth_min, self.depth_max)
        meters[0] = 0
        return meters.astype(np.float32)

    @property
    def _ends(self) -> tuple[float, float]:
        """What codes are linear in, at depth_min and depth_max."""
        if not self.use_log:
            return self.depth_min, self.depth_max
        return math.log(self.depth_min + self.shift), math.log(self.depth_max + self.shift)


def video_info(height: int, width: int, fps: int, info: Mapping[str, Any]) -> dict[str, Any]:
    """How `encode` stores depth, in the terms of a feature's `info` in info.json.

    info: says the quantization; LeRobot's own where it says nothing.
    Raises InputError where this cannot be written.
    """
    described = DepthQuantization.is_described(info)
    quantization = DepthQuantization.from_info(info) if described else DepthQuantization()
    _check_encoder()
    return {
        "is_depth_map": True,
        "depth_unit": "m",
        "video.height": height,
        "video.width": width,
        "video.codec": "hevc",
        "video.pix_fmt": _PIXEL_FORMAT,
        "video.fps": fps,
        "video.channels": 1,
        "has_audio": False,
        "video.g": _KEYFRAME_EVERY,
        "video.crf": None,
        "video.preset": None,
        "video.fast_decode": 0,
        "video.video_backend": "pyav",
        "video.extra_options": {"x265-params": _PARAMETERS},
        **quantization.to_info(),
    }


def _check_encoder() -> None:
    """Raises InputError where PyAV was built without an encoder for 12 bits."""
    try:
        formats = av.Codec("libx265", "w").video_formats or []
    except av.codec.codec.UnknownCodecError:
        formats = []
    if _PIXEL_FORMAT not in {found.name for found in formats}:
        raise InputError(
            "This build of PyAV cannot write 12-bit HEVC, which depth video needs; install PyAV's own wheel, "
            "or store depth as images."
        )


def encode(codes: np.ndarray, fps: float, path: Path) -> None:
    """Write (T, H, W) uint16 codes as an mp4 file, bit for bit, which is looked after.

    Raises InputError where the encoder changes some of them.
    """
    for keyframe_every in (_KEYFRAME_EVERY, 1):
        _encode(codes, fps, path, keyframe_every)
        # x265 4.2 predicts pictures one block wide (16, 32 or 64 pixels) from others than a player has.
        if np.array_equal(_decode(path), codes):
            seal_mp4(path)
            return
    raise InputError(
        "This build of PyAV does not write depth video without loss; install PyAV's own wheel, or store depth "
        "as images."
    )


def _encode(codes: np.ndarray, fps: float, path: Path, keyframe_every: int) -> None:
    height, width = codes.shape[1:]
    options = {"g": str(keyframe_every), "x265-params": f"{_PARAMETERS}:log-level=none"}
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx265", rate=Fraction(fps), options=options)
        stream.height, stream.width = height, width
        stream.pix_fmt = _PIXEL_FORMAT
        for picture in codes:
            frame = VideoFrame(width, height, _PIXEL_FORMAT)
            plane = frame.planes[0]
            rows = np.zeros((height, plane.line_size // 2), "<u2")
            rows[:, :width] = picture
            plane.update(rows.tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame_codes(frame) for frame in container.decode(video=0)])


def frame_codes(frame: VideoFrame) -> np.ndarray:
    """(H, W) uint16: the codes that a decoded frame carries in gray, or in its brightness.

    Raises InputError for a frame of other than 12 bits.
    """
    if frame.format.name not in _TWELVE_BITS:
        raise InputError(
            f"its frames are {frame.format.name}, and depth has 12 bits; copy the video again, or leave it out."
        )
    plane = frame.planes[0]
    rows = np.frombuffer(bytes(plane), "<u2").reshape(frame.height, plane.line_size // 2)
    codes: np.ndarray = rows[:, : frame.width].astype(np.uint16)
    return codes
