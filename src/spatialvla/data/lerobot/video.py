"""Episodes as H.264 video: encode one, join several into a file."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream

from spatialvla.common.seals import check_seal, seal_mp4

# Camera images are small (128 px), so quality is worth more than bytes. Without B-frames decoding order
# equals display order, which lets files be joined by shifting timestamps.
_ENCODER = {"crf": "16", "preset": "veryfast", "g": "8", "bf": "0", "sc_threshold": "0"}
_PIXEL_FORMAT = "yuv420p"


def video_info(height: int, width: int, fps: int) -> dict[str, object]:
    """How `encode` stores frames, in the terms of a feature's `info` in info.json."""
    return {
        "video.height": height,
        "video.width": width,
        "video.codec": "h264",
        "video.pix_fmt": _PIXEL_FORMAT,
        "video.fps": fps,
        "video.channels": 3,
        "has_audio": False,
        "video.g": int(_ENCODER["g"]),
        "video.crf": int(_ENCODER["crf"]),
        "video.preset": _ENCODER["preset"],
        "is_depth_map": False,
    }


def encode(frames: np.ndarray, fps: float, path: Path) -> None:
    """Write (T, H, W, 3) uint8 frames, H and W even, as an mp4 file."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options=_ENCODER)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = _PIXEL_FORMAT
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    seal_mp4(path)


def concatenate(sources: Sequence[Path], lengths: Sequence[int], fps: float, path: Path) -> None:
    """Join files written by `encode`, of the given numbers of frames, without encoding again."""
    with av.open(str(path), "w", format="mp4") as joined:
        output: VideoStream | None = None
        start = 0
        for source, length in zip(sources, lengths, strict=True):
            check_seal(source)
            with av.open(str(source)) as part:
                stream = part.streams.video[0]
                if output is None:
                    output = joined.add_stream_from_template(stream)
                assert stream.time_base is not None
                offset = round(start / Fraction(fps) / stream.time_base)
                for packet in part.demux(stream):
                    if packet.dts is None or packet.pts is None:
                        continue
                    packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                    packet.stream = output
                    joined.mux(packet)
            start += length
    seal_mp4(path)
