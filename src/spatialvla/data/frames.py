"""Frames of video files, by their times or numbers, decoding no more than leads to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from spatialvla.common.seals import check_seal
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
        with _opened(self.path) as (container, stream, tick):
            late = (stream.start_time or 0) * tick - self.first
            wanted = [round((time + (late if late > 0.5 / self.fps else 0)) / tick) for time in times]
            found = _decode(container, stream, sorted(set(wanted)), 0.5 / self.fps / tick, pixels)
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
    with _opened(path) as (container, stream, tick):
        rate = rate or stream.average_rate
        if rate is None:
            raise CheckpointError(f"{path} does not say how many frames a second it has; copy it again.")
        start, period = stream.start_time or 0, 1 / (float(rate) * tick)
        moments = {number: start + round(number * period) for number in numbers}
        found = _decode(container, stream, sorted(set(moments.values())), period / 2, rgb)
        return {number: found[moment] for number, moment in moments.items() if moment in found}


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream, float]]:
    """The file, its video, and the seconds that one tick of the video's clock takes."""
    check_seal(path)
    try:
        # Absolute, as what stands before a colon would be taken for a protocol.
        with av.open(str(path.absolute())) as container:
            stream = container.streams.video[0]
            if stream.time_base is None:
                raise CheckpointError(f"{path} does not say when its frames are; copy it again.")
            yield container, stream, float(stream.time_base)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; copy the whole dataset folder.") from error
    except (av.FFmpegError, IndexError) as error:
        raise CheckpointError(f"{path} is not a readable video ({error}); copy it again.") from error


def _decode(
    container: InputContainer, stream: VideoStream, moments: Sequence[int], reach: float, pixels: Pixels
) -> dict[int, np.ndarray]:
    """The frame closest to each of some ascending moments, where one is within reach; all in ticks."""
    assert stream.time_base is not None
    same = int(_SAME / stream.time_base)
    keyframes = _keyframes(stream)
    beginning = min(stream.start_time or 0, 0)
    found: dict[int, np.ndarray] = {}
    waiting = list(moments)
    start = waiting[0]
    while waiting:
        container.seek(start + same if start > beginning else start, stream=stream)
        before: VideoFrame | None = None
        for frame in container.decode(stream):
            now = _moment(frame)
            if before is None and now > waiting[0] + same and start > beginning:
                start = beginning  # the seek led too far, so read from the beginning
                break
            arrived = now >= waiting[0] - same
            while waiting and now >= waiting[0] - same:
                _take_closest(found, waiting.pop(0), [before, frame], reach, pixels)
            if not waiting:
                return found
            # Worth another seek only where it leads to a keyframe that is still ahead.
            if arrived and _last_before(keyframes, waiting[0] + same) > now + 2 * reach:
                start = waiting[0]
                break
            before = frame
        else:
            for moment in waiting:
                _take_closest(found, moment, [before], reach, pixels)
            return found
    return found


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


def _keyframes(stream: VideoStream) -> np.ndarray:
    """(K,) ticks of the frames that can be decoded alone, ascending, as far as the file's index tells."""
    entries = getattr(stream, "index_entries", ())  # older PyAV has none
    return np.sort(np.array([entry.timestamp for entry in entries if entry.is_keyframe], dtype=np.float64))


def _last_before(keyframes: np.ndarray, moment: int) -> float:
    last = int(np.searchsorted(keyframes, moment, side="right")) - 1
    return float(keyframes[last]) if last >= 0 else -np.inf
