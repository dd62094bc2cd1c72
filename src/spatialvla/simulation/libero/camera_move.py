"""How LIBERO-plus moves a camera: around the table, nearer or farther, and turned where it stands."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Real

from spatialvla.errors import InputError
from spatialvla.geometry.extrinsics import pose_matrix
from spatialvla.geometry.rotations import matrices

_PIVOT = np.array([0.0, 0.0, 0.8])
"""Meters in the world; what elevation turns about and distance is measured from."""

_Y, _Z = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class CameraMove:
    """A change of the camera's pose, as the names of LIBERO-plus's tasks write it (arXiv 2510.13626).

    azimuth, elevation: whole degrees around the table. distance: percent of what it was.
    rotation, tilt: whole degrees by which the camera alone turns, about the world's z and y axis.
    """

    azimuth: int = 0
    elevation: int = 0
    distance: int = 100
    rotation: int = 0
    tilt: int = 0

    @classmethod
    def parse(cls, text: str) -> CameraMove:
        """`30_15_100_0_0` -> azimuth, elevation, distance, rotation and tilt; InputError for anything else."""
        if not re.fullmatch(r"\d+(_\d+){4}", text):
            raise InputError(
                f"A moved camera is written as five numbers, such as 30_15_100_0_0, not {text!r}."
            )
        return cls(*(int(number) for number in text.split("_")))

    def __str__(self) -> str:
        """What differs from the camera as it was: `azimuth 30°, elevation 15°`."""
        angles = ("azimuth", "elevation", "rotation", "tilt")
        parts = [f"{name} {_signed(getattr(self, name))}°" for name in angles if getattr(self, name)]
        if self.distance != 100:
            parts.append(f"distance {self.distance} %")
        return ", ".join(parts) or "as it was"

    def applied(self, pose: Real[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
        """Where the camera stands then. pose: camera -> world, in meters; the camera's axes may be any.

        The benchmark rounds position and quaternion to four digits after each step; this does not, which is
        within 0.2 mm and 0.02° of it.
        """
        position, turn = np.asarray(pose[:3, 3], np.float64), np.asarray(pose[:3, :3], np.float64)
        lift, around = _about(_Y, -self.elevation), _about(_Z, self.azimuth)
        position = around @ (lift @ (position - _PIVOT) + _PIVOT)
        position = _PIVOT + (position - _PIVOT) * self.distance / 100
        turn = _about(_Y, -self.tilt) @ _about(_Z, self.rotation) @ around @ lift @ turn
        return pose_matrix(position, turn)


UNMOVED = CameraMove()
"""The camera as LIBERO has it."""


def _about(axis: np.ndarray, degrees: float) -> Float[np.ndarray, "3 3"]:
    turn: np.ndarray = matrices(np.radians(degrees) * axis[None], "axis_angle")[0]
    return turn


def _signed(degrees: int) -> str:
    """345 is written −15."""
    return str(degrees) if degrees <= 180 else f"−{360 - degrees}"
