"""Whether the cameras of one connection still stand where they should, by where the moving gripper is seen."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress

import numpy as np

from spatialvla.geometry.camera_drift import DriftDetector, Sighting
from spatialvla.geometry.extrinsics import mirror_extrinsics
from spatialvla.serving.engine.counters import Metrics
from spatialvla.types import CameraImage

_Placed = tuple[np.ndarray, np.ndarray, np.ndarray]

log = logging.getLogger(__name__)

PATIENCE = 3
"""So many times a connection's camera is told in the log; the metrics count on."""


class DriftWatch:
    """Warns where a camera sees the gripper elsewhere than it should.

    It looks at cameras whose K and extrinsics come with the picture or from a calibration, while the fingertips'
    position is known. submit: runs what takes time beside the requests. client: whose cameras they are, for the log.
    """

    def __init__(
        self, metrics: Metrics, submit: Callable[[Callable[[], None]], Future[None]], client: str
    ) -> None:
        self._metrics, self._submit, self._client = metrics, submit, client
        self._detectors: dict[str, DriftDetector] = {}
        self._sizes: dict[str, tuple[int, ...]] = {}
        self._told: dict[str, int] = {}
        self._one_at_a_time = threading.Lock()
        self._looking: Future[None] | None = None

    def add(self, cameras: Mapping[str, CameraImage], fingertips: np.ndarray) -> None:
        """What the cameras saw with the fingertips (3,) there, in meters in the robot's frame.

        Pictures that come while the last ones are looked at are passed over.
        """
        if self._looking is not None and not self._looking.done():
            return
        placed = {name: _placed(seen) for name, seen in cameras.items()}
        known = {name: one for name, one in placed.items() if one is not None}
        if known:
            self._run(lambda: self._look(known, fingertips))

    def conclude(self) -> None:
        """Says what there is to say of an episode that is over; the next one may be of another scene."""
        if self._detectors:
            self._run(self._conclude)

    def _run(self, call: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the server is about to stop
            self._looking = self._submit(call)

    def _look(self, cameras: Mapping[str, _Placed], fingertips: np.ndarray) -> None:
        with self._one_at_a_time:
            for name, (image, intrinsics, pose) in cameras.items():
                if image.shape != self._sizes.setdefault(name, image.shape):
                    self._sizes[name] = image.shape
                    self._detectors.pop(name, None)
                detector = self._detectors.setdefault(name, DriftDetector())
                self._tell(name, detector.add(image, fingertips, intrinsics, pose))

    def _conclude(self) -> None:
        with self._one_at_a_time:
            for name, detector in self._detectors.items():
                self._tell(name, detector.sighting())

    def _tell(self, name: str, found: Sighting | None) -> None:
        if found is None or not found.clear:
            return
        self._metrics.sighted(name, float(np.linalg.norm(found.pixels)), drifted=found.drifted)
        told = self._told.get(name, 0)
        if found.drifted and told < PATIENCE:
            self._told[name] = told + 1
            log.warning(
                "The camera %s of %s sees the gripper %s of where it should be; calibrate it again, or correct the "
                "fingertips' position.",
                *(name, self._client or "the robot", found),
            )


def _placed(seen: CameraImage) -> _Placed | None:
    """A color picture, its K and what takes points to the robot's frame; None where one of them is not known."""
    image = seen.image
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3:
        return None
    if seen.intrinsics is None or seen.extrinsics is None:
        return None
    place = np.asarray(seen.extrinsics, np.float64)
    return image, seen.intrinsics, mirror_extrinsics(place) if seen.mirrored else place
