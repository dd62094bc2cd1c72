"""A camera that has stopped: the same picture again and again while the gripper moves, or is told to."""

from __future__ import annotations

import logging
import zlib

import numpy as np
from PIL import Image

from spatialvla.errors import InputError

log = logging.getLogger(__name__)

MOVED = 0.005
"""Meters; a gripper that has moved so far changes some pixel of any camera that sees it."""

PATIENCE = 3
"""So many times the same picture is told in the log; then nothing more is decided on it."""


class FrozenPicture:
    """Compares one episode's pictures, for as long as it is known where the gripper is.

    measured: whether the positions are the gripper's own. Those that follow from the actions say only where it
    was told to go, so such pictures are told in the log and never refused.
    """

    def __init__(self, measured: bool = True) -> None:
        self._measured = measured
        self.reset()

    def reset(self) -> None:
        """A new episode may begin with any picture."""
        self._picture: int | None = None
        self._position = np.zeros(3)
        self._again = 0

    def check(self, image: np.ndarray | Image.Image, position: np.ndarray | None) -> None:
        """Raises InputError for a picture that has stayed, bit for bit, while the gripper moved.

        position: (3,) meters. None says nothing of the picture.
        """
        if position is None:
            return
        picture = zlib.crc32(np.ascontiguousarray(image).data)
        if picture != self._picture:
            self._picture, self._position, self._again = picture, position, 0
            return
        moved = float(np.linalg.norm(position - self._position))
        if moved < MOVED:
            return
        self._again += 1
        verb = "moved" if self._measured else "was told to move"
        sentence = f"The picture is the same as before the gripper {verb} by {moved:.3f} m; check the camera."
        if self._again <= PATIENCE:
            log.warning("%s", sentence)
        elif self._measured:
            raise InputError(sentence)
