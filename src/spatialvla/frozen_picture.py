"""A camera that has stopped: the same picture again and again while the gripper moves, or is told to."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spatialvla.errors import InputError
from spatialvla.types import CameraImage

log = logging.getLogger(__name__)

MOVED = 0.005
"""Meters; a gripper that has moved so far changes some pixel of any camera that sees it."""

PATIENCE = 3
"""So many times the same picture is told in the log; then nothing more is decided on it."""


@dataclass
class _Last:
    """The last new picture of a camera. checksum: of its pixels. again: how often it was there again."""

    checksum: int
    position: np.ndarray
    again: int = 0


class FrozenPicture:
    """Compares each camera's pictures of one episode, for as long as it is known where the gripper is.

    measured: whether the positions are the gripper's own. Those that follow from the actions say only where it
    was told to go, so such pictures are told in the log and never refused.
    """

    def __init__(self, measured: bool = True) -> None:
        self._measured = measured
        self.reset()

    def reset(self) -> None:
        """A new episode may begin with any picture."""
        self._last: dict[str, _Last] = {}

    def check(self, cameras: Mapping[str, CameraImage], position: np.ndarray | None) -> None:
        """Raises InputError for a camera whose picture has stayed, bit for bit, while the gripper moved.

        cameras: by name. position: (3,) meters. None says nothing of the pictures.
        """
        if position is None:
            return
        for name, seen in cameras.items():
            camera = f" of the camera {name}" if len(cameras) > 1 else ""
            self._check(name, camera, seen, position)

    def _check(self, name: str, camera: str, seen: CameraImage, position: np.ndarray) -> None:
        checksum = zlib.crc32(np.ascontiguousarray(seen.image).data)
        last = self._last.get(name)
        if last is None or checksum != last.checksum:
            self._last[name] = _Last(checksum, position)
            return
        moved = float(np.linalg.norm(position - last.position))
        if moved < MOVED:
            return
        last.again += 1
        verb = "moved" if self._measured else "was told to move"
        sentence = f"The picture{camera} is the same as before the gripper {verb} by {moved:.3f} m; check the camera."
        if last.again <= PATIENCE:
            log.warning("%s", sentence)
        elif self._measured:
            raise InputError(sentence)
