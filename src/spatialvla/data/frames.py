"""Frames of video files, by their numbers, decoding no more than leads to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from spatialvla.errors import CheckpointError


@dataclass(frozen=True)
class Clip:
    """The part of a video file that belongs to one episode.

    start: seconds from the beginning of the file to the first frame.
    length: number of frames, one each 1 / fps seconds.
    """

    path: Path
    start: float
    length: int
    fps: int

    def decode(self, steps: Sequence[int] | None = None) -> np.ndarray:
        """Frames (n, H, W, 3) uint8 RGB: all of the episode, or those of these steps, in their order.

        Of some steps, only what lies between them and the keyframes before them is decoded.
        Raises CheckpointError when the file is missing, broken, or lacks some of the frames.
        """
        wanted = range(self.length) if steps is None else steps
        first = round(self.start * self.fps)
        found = decode_frames(self.path, [first + step for step in wanted], Fraction(self.fps))
        if missing := [step for step in wanted if first + step not in found]:
            raise CheckpointError(
                f"{self.path} ends before frame {min(missing)} of the {self.length} frames expected from "
                f"second {self.start:g}; copy it again."
            )
        return np.stack([found[first + step] for step in wanted])


def decode_frames(path: Path, numbers: Sequence[int], rate: Fraction | None = None) -> dict[int, np.ndarray]:
    """Frames (H, W, 3) uint8 RGB by number, counted from 0; those behind the end of the file are left out.

    rate: frames a second, by which a frame's time is its number; the file's own unless given.
    Raises CheckpointError where the file is missing or broken.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            rate = rate or stream.average_rate
            if rate is None or stream.time_base is None:
                raise CheckpointError(f"{path} does not say how many frames a second it has; copy it again.")
            return _decode(container, stream, Fraction(stream.time_base) * rate, sorted(set(numbers)))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; copy the whole dataset folder.") from error
    except (av.FFmpegError, IndexError) as error:
        raise CheckpointError(f"{path} is not a readable video ({error}); copy it again.") from error


def _decode(
    container: InputContainer, stream: VideoStream, frames_a_tick: Fraction, numbers: Sequence[int]
) -> dict[int, np.ndarray]:
    keyframes = _keyframes(stream, frames_a_tick)
    found: dict[int, np.ndarray] = {}
    waiting = list(numbers)
    start = waiting[0]
    while waiting:
        container.seek(round(start / frames_a_tick), stream=stream)
        for frame in container.decode(stream):
            assert frame.pts is not None
            number = round(frame.pts * frames_a_tick)
            if number == waiting[0]:
                found[waiting.pop(0)] = frame.to_ndarray(format="rgb24")
                # Worth another seek only where it leads to a keyframe that is still ahead.
                if not waiting or _last_before(keyframes, waiting[0]) > number + 1:
                    break
            elif number > waiting[0]:
                break
        else:
            return found
        if waiting and number > waiting[0]:
            if start == 0:
                return found
            start = 0  # the seek led too far, so read from the beginning
        elif waiting:
            start = waiting[0]
    return found


def _keyframes(stream: VideoStream, frames_a_tick: Fraction) -> np.ndarray:
    """(K,) numbers of the frames that can be decoded alone, ascending, as far as the file's index tells."""
    entries = getattr(stream, "index_entries", ())  # older PyAV has none
    times = [entry.timestamp for entry in entries if entry.is_keyframe]
    return np.sort(np.round(np.array(times, dtype=np.float64) * float(frames_a_tick)))


def _last_before(keyframes: np.ndarray, number: int) -> float:
    last = int(np.searchsorted(keyframes, number, side="right")) - 1
    return float(keyframes[last]) if last >= 0 else -1.0
