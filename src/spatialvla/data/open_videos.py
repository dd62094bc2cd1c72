"""Video files that stay open from one frame asked for to the next, the last few of a process."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from spatialvla.common.files import OpenFiles
from spatialvla.common.seals import check_seal
from spatialvla.errors import CheckpointError, InputError

_MOST = 32
"""Files kept open. Each takes its index and a decoder's pictures, a few megabytes at 640x480."""


@dataclass
class OpenVideo:
    """An open file, its video, and the seconds that one tick of the video's clock takes."""

    container: InputContainer
    stream: VideoStream
    tick: float

    @cached_property
    def keyframes(self) -> np.ndarray:
        """(K,) ticks of the frames that can be decoded alone, ascending, as far as the file's index tells."""
        entries = getattr(self.stream, "index_entries", ())  # older PyAV has none
        return np.sort(
            np.array([entry.timestamp for entry in entries if entry.is_keyframe], dtype=np.float64)
        )


@contextmanager
def open_video(path: Path) -> Iterator[OpenVideo]:
    """The file, for one reader at a time; it stays open for the next one, unless something goes wrong.

    Raises CheckpointError, naming the file, where it is missing or no video, or where `av` fails inside, and
    InputError where the process may not open more files.
    """
    check_seal(path)
    try:
        with _videos.reading(path) as video:
            yield video
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"{path} is missing; copy the whole dataset folder.") from error
    except (av.FFmpegError, IndexError) as error:
        if getattr(error, "errno", None) == errno.EMFILE:
            raise InputError(
                f"{path} cannot be opened beside so many files; allow more with `ulimit -n 4096`."
            ) from error
        raise CheckpointError(f"{path} is not a readable video ({error}); copy it again.") from error


def _opened(path: Path) -> OpenVideo:
    # Absolute, as what stands before a colon would be taken for a protocol.
    container = av.open(str(path.absolute()))
    try:
        stream = container.streams.video[0]
        if stream.time_base is None:
            raise CheckpointError(f"{path} does not say when its frames are; copy it again.")
    except BaseException:
        container.close()
        raise
    # With several threads a decoder takes in several pictures before it gives the first one.
    stream.codec_context.thread_count = 1
    return OpenVideo(container, stream, float(stream.time_base))


_videos = OpenFiles(_MOST, _opened, lambda video: video.container.close(), forks_share=False)
