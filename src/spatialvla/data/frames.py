"""Frames of video files, by their times or numbers, decoding no more than leads to them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame

from spatialvla.data.open_videos import OpenVideo, open_video
from spatialvla.errors import CheckpointError

_SAME = 1e-3  # seconds; frames this close to the time asked for are what was meant

Pixels = Callable[[VideoFrame], np.ndarray]
"""Takes what a decoded frame carries, such as its colors."""


def rgb(frame: VideoFrame) -> np.ndarray:
    """(H, W, 3) uint8."""
    return frame.to_ndarray(format="rgb24")


@dataclass(frozen=True)
class Clip:
    """The part of a video file that belongs to one episode of T steps.

    times: (T,) seconds into the file at which the steps' frames are. first: the same of the file's first
    frame, for files whose own time starts later. fps: steps a second; a frame belongs to a step where it is
    less than half a step away.
    """

    path: Path
    times: np.ndarray
    first: float
    fps: float

    def decode(self, steps: Sequence[int] | None = None, pixels: Pixels = rgb) -> np.ndarray:
        """Frames (n, H, W, 3) uint8 RGB: all of the episode, or those of these steps, in their order.

        pixels: takes something else from each frame than its colors.

        Of some steps, only what lies between them and the keyframes before them is decoded.
        Raises CheckpointError when the file is missing, broken, or has no frame at the time of a step.
        """
        times = self.times if steps is None else self.times[list(steps)]
        with open_video(self.path) as video:
            late = (video.stream.start_time or 0) * video.tick - self.first
            wanted = [round((time + (late if late > 0.5 / self.fps else 0)) / video.tick) for time in times]
            found = _decode(video, sorted(set(wanted)), 0.5 / self.fps / video.tick, pixels)
        if missing := [time for time, moment in zip(times, wanted, strict=True) if moment not in found]:
            raise CheckpointError(
                f"{self.path} has no frame at second {missing[0]:.3f}, the time of a step; copy it again, or leave "
                "the episode out."
            )
        return np.stack([found[moment] for moment in wanted])


def decode_frames(path: Path, numbers: Sequence[int], rate: Fraction | None = None) -> dict[int, np.ndarray]:
    """Frames (H, W, 3) uint8 RGB by number, counted from 0; those behind the end of the file are left out.

    rate: frames a second, by which a frame's number is its time; the file's own unless given.
    Raises CheckpointError where the file is missing or broken.
    """
    with open_video(path) as video:
        rate = rate or video.stream.average_rate
        if rate is None:
            raise CheckpointError(f"{path} does not say how many frames a second it has; copy it again.")
        start, period = video.stream.start_time or 0, 1 / (float(rate) * video.tick)
        moments = {number: start + round(number * period) for number in numbers}
        found = _decode(video, sorted(set(moments.values())), period / 2, rgb)
        return {number: found[moment] for number, moment in moments.items() if moment in found}


def _decode(video: OpenVideo, moments: Sequence[int], reach: float, pixels: Pixels) -> dict[int, np.ndarray]:
    """The frame closest to each of some ascending moments, where one is within reach; all in ticks."""
    same = int(_SAME / video.tick)
    found: dict[int, np.ndarray] = {}
    waiting = list(moments)
    while waiting:
        before: VideoFrame | None = None
        for frame in _frames_with(video, tuple(waiting), same):
            now = _moment(frame)
            arrived = now >= waiting[0] - same
            while waiting and now >= waiting[0] - same:
                _take_closest(found, waiting.pop(0), [before, frame], reach, pixels)
            if not waiting:
                return found
            # Worth another seek only where it leads to a keyframe that is still ahead.
            if arrived and _last_before(video.keyframes, waiting[0] + same) > now + 2 * reach:
                break
            before = frame
        else:
            for moment in waiting:
                _take_closest(found, moment, [before], reach, pixels)
            return found
    return found


def _frames_with(video: OpenVideo, moments: Sequence[int], same: int) -> Iterator[VideoFrame]:
    """Frames from the keyframe that the first moment needs to the last moment, or the end; all in ticks."""
    start, stored = max(moments[0] + same, min(video.stream.start_time or 0, 0)), np.inf
    while True:
        video.container.seek(start, stream=video.stream)
        packets = video.container.demux(video.stream)
        first = next(packets)
        # Frames shown before a keyframe and stored behind it need the keyframe before that one.
        if first.pts is None or first.dts is None or first.pts <= moments[0] + same or first.dts >= stored:
            break
        start, stored = first.dts - 1, first.dts
    sent = set()
    for packet in chain([first], packets):
        yield from packet.decode()
        if packet.pts is None:
            continue
        place = bisect_left(moments, packet.pts - same)
        if place < len(moments) and moments[place] <= packet.pts + same:
            sent.add(place)
        if len(sent) == len(moments):
            # What they need is stored before them: a decoder that waits for more gives what it has.
            yield from video.stream.codec_context.decode(None)
            return


def _take_closest(
    found: dict[int, np.ndarray],
    moment: int,
    frames: Sequence[VideoFrame | None],
    reach: float,
    pixels: Pixels,
) -> None:
    closest = min((frame for frame in frames if frame), key=lambda f: abs(_moment(f) - moment), default=None)
    if closest is not None and abs(_moment(closest) - moment) <= reach:
        found[moment] = pixels(closest)


def _moment(frame: VideoFrame) -> int:
    assert frame.pts is not None
    return frame.pts


def _last_before(keyframes: np.ndarray, moment: int) -> float:
    last = int(np.searchsorted(keyframes, moment, side="right")) - 1
    return float(keyframes[last]) if last >= 0 else -np.inf
