"""Episodes as small H.264 files."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from spatialvla.common.files import replacing
from spatialvla.evaluation.results.plan import EpisodeId

_HOLD_SECONDS = 1.0
_WATCHABLE = 360
"""Pixels that the shorter side of a video has at least."""


def episode_name(episode: EpisodeId) -> str:
    """What an episode's files are called, without their endings."""
    return f"task{episode.task:02d}_state{episode.start_state:02d}"


def video_name(episode: EpisodeId) -> str:
    """The video's file name in the evaluation's folder of videos."""
    return f"{episode_name(episode)}.mp4"


def write_video(path: Path, frames: Sequence[tuple[int, np.ndarray]], hz: int) -> None:
    """Writes an MP4 that plays in real time although frames come only at some steps.

    frames: (control step, (H, W, 3) uint8 RGB) with rising steps; H and W even. hz: control steps a second.
    Small pictures are enlarged by a whole number, so that a player shows them large enough to watch. The last
    frame stays for a second. The file appears only when it is whole.
    """
    height, width = frames[0][1].shape[:2]
    times = max(1, -(-_WATCHABLE // min(height, width)))
    height, width = times * height, times * width
    last_step, last_image = frames[-1]
    with (
        replacing(path) as partial,
        av.open(str(partial), "w", options={"movflags": "faststart"}) as container,
    ):
        stream = container.add_stream("libx264", rate=hz, options={"crf": "25", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, hz)
        for step, image in [*frames, (last_step + round(_HOLD_SECONDS * hz), last_image)]:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame = frame.reformat(width, height, "yuv420p", interpolation="BICUBIC")
            frame.pts, frame.time_base = step, Fraction(1, hz)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
