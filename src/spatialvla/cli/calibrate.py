"""`spatialvla calibrate`: where a camera stands, from what it sees, into a robot's calibration file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spatialvla.cli.verb import Verb
from spatialvla.errors import InputError

if TYPE_CHECKING:
    from spatialvla.calibration.from_table import Calibrated
    from spatialvla.geometry.calibrated_camera import CalibratedCamera
    from spatialvla.geometry.camera import Camera


_POINTING = 3.0
"""Pixels of mean error."""

_LOOSE = 0.01
"""Meters of standard deviation."""


@dataclass(frozen=True)
class Calibrate(Verb):
    """Find where a camera stands, from what it sees.

    A table tells at which pixel which position was seen, or with --board which pictures show a printed board.
    It prints the reprojection error, names outliers, and writes the camera into the calibration file.
    """

    table: Path
    """CSV or YAML: u v x y z of points, with the gripper's pose for --wrist; or pictures and gripper poses."""

    camera: str
    """What the camera is called in the file."""

    out: Path
    """The robot's calibration file, which is made, or in which this camera is added or replaced."""

    wrist: bool = False
    """The gripper carries the camera: finds its hand-eye transform in place of extrinsics."""

    intrinsics: tuple[float, float, float, float] | None = None
    """fx fy cx cy in pixels; those that the file has of this camera, if it has."""

    size: tuple[int, int] | None = None
    """Width and height of the pictures in pixels; those that the file has of this camera, if it has."""

    depth_range: tuple[float, float] | None = None
    """Nearest and farthest distance in meters in which the camera's depth is to be believed."""

    mirrored: bool = False
    """The pictures are flipped left to right, as LIBERO's are."""

    board: tuple[int, int, float] | None = None
    """A printed chessboard: inner corners along its rows and columns, and the side of a square in meters."""

    picture: Path | None = None
    """What the drawing's points are drawn on, where the table names no pictures."""

    drawing: Path | None = None
    """A picture file to draw seen and reprojected points into."""

    def run(self) -> None:
        """Raises InputError where no pose follows from the table, or an extra is missing."""
        from spatialvla.calibration.chessboard import Chessboard
        from spatialvla.calibration.correspondences import Correspondences
        from spatialvla.calibration.drawing import sheet
        from spatialvla.calibration.from_table import from_board, from_points
        from spatialvla.common.files import replacing
        from spatialvla.geometry.calibrated_camera import CalibratedCamera
        from spatialvla.geometry.robot_calibration import RobotCalibration

        robot = RobotCalibration.load(self.out) if self.out.exists() else None
        before = None if robot is None else robot.cameras.get(self.camera)
        camera = self._checked_camera(before)
        mirrored = self.mirrored or (before is not None and before.mirrored)
        depth_range = self.depth_range or (before.depth_range if before is not None else None)
        table = Correspondences.load(self.table)
        if self.board is None:
            found = from_points(table, camera, self.wrist, mirrored, self.picture)
        else:
            found = from_board(table, Chessboard(*self.board), camera, self.wrist, mirrored)
        pose = found.fit.pose
        calibrated = CalibratedCamera(
            camera, None if self.wrist else pose, pose if self.wrist else None, depth_range, mirrored
        )
        if self.drawing is not None:
            with replacing(self.drawing) as partial:
                sheet(found.scenes).save(partial, format=_format(self.drawing))
        cameras = {self.camera: calibrated}
        (RobotCalibration(cameras) if robot is None else robot.with_camera(self.camera, calibrated)).save(
            self.out
        )
        print("\n".join(self._report(found)))

    def _checked_camera(self, before: CalibratedCamera | None) -> Camera:
        """K and size, as they are given or as the file has them."""
        import numpy as np

        from spatialvla.geometry.camera import Camera

        if before is not None and before.moves != self.wrist:
            way = (
                "is carried by the gripper; add --wrist"
                if before.moves
                else "stands still; leave out --wrist"
            )
            raise InputError(f"In {self.out} camera {self.camera!r} {way}, or give it another name.")
        if self.intrinsics is None and self.size is None and before is not None:
            return before.camera
        if self.intrinsics is None or self.size is None:
            raise InputError(
                f"{self.out} does not tell K of camera {self.camera!r}, or it changes; give both --intrinsics fx fy cx "
                "cy and --size WIDTH HEIGHT, in pixels."
            )
        fx, fy, cx, cy = self.intrinsics
        width, height = self.size
        return Camera(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), height, width)

    def _report(self, found: Calibrated) -> Iterator[str]:
        import numpy as np

        fit = found.fit
        yield f"{self.camera}: {found.used}, {len(found.outliers) or 'none'} left out"
        yield f"reprojection error: mean {fit.mean_error:.2f}, max {fit.largest_error:.2f} pixels"
        where = ", ".join(f"{number:.4f}" for number in fit.pose[:3, 3])
        frame = "gripper's" if self.wrist else "robot's"
        sigmas = f"{1000 * fit.position_sigma:.1f} mm and {np.degrees(fit.rotation_sigma):.2f}°"
        yield f"position in the {frame} frame: ({where}) m, with a standard deviation of {sigmas}"
        if fit.mean_error > _POINTING:
            yield "Such errors are more than those of pointing; look at K, distortion, and the table's poses."
        if fit.position_sigma > _LOOSE or fit.rotation_sigma > np.radians(1):
            yield "The points hold the camera loosely; take more, close to the camera and to the picture's edges."
        if found.outliers:
            yield f"outliers: {', '.join(found.outliers)}"
        if found.unseen:
            yield f"without the whole board: {', '.join(found.unseen)}"
        yield f"written: {', '.join(str(path) for path in (self.out, self.drawing) if path is not None)}"


def _format(path: Path) -> str:
    """How Pillow calls a picture file's format. Raises InputError for endings that are none."""
    from PIL import Image

    known = Image.registered_extensions()
    if path.suffix.lower() not in known:
        raise InputError(f"{path} has no ending of a picture; call it .png, .webp or .jpg.")
    return known[path.suffix.lower()]
