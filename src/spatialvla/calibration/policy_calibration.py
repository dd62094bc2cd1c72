"""What a robot's calibration file knows of a policy's cameras, filled into what they see."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Real

from spatialvla.common.pictures import to_rgb
from spatialvla.errors import InputError
from spatialvla.geometry.calibrated_camera import CalibratedCamera
from spatialvla.geometry.camera import believed_depth
from spatialvla.geometry.robot_calibration import RobotCalibration
from spatialvla.types import CameraImage, Observation

log = logging.getLogger(__name__)


class PolicyCalibration:
    """The calibrated cameras of a robot, by the names that a policy has for them.

    cameras: the policy's, in its order. needs_extrinsics: whether it has to know where they stand.
    called: names in the file where they are others. The first camera may be the file's only one that stands still,
    whatever it is called there, since the policies of one camera call theirs "image".
    Raises InputError for a file that has none of these cameras, or not one that `called` names.
    """

    def __init__(
        self,
        calibration: RobotCalibration,
        cameras: Sequence[str],
        *,
        needs_extrinsics: bool,
        called: Mapping[str, str] | None = None,
    ) -> None:
        called = dict(called or {})
        first, spoken_for = cameras[0], {*cameras, *called.values()}
        unnamed = [n for n, one in calibration.cameras.items() if not one.moves and n not in spoken_for]
        if first not in {*called, *calibration.cameras} and len(unnamed) == 1:
            called[first] = unnamed[0]
            log.info("The policy's camera %s is the calibration's %s.", first, unnamed[0])
        self._needs_extrinsics = needs_extrinsics
        self._known = {
            name: calibration.camera(called.get(name, name))
            for name in cameras
            if name in called or name in calibration.cameras
        }
        if not self._known:
            raise InputError(
                f"The calibration has the cameras {', '.join(calibration.cameras)}, and the policy looks through "
                f"{', '.join(cameras)}; name the calibration's as the policy's."
            )

    @property
    def cameras(self) -> Mapping[str, CalibratedCamera]:
        """The calibrated ones among the policy's cameras, by its names."""
        return self._known

    @property
    def moves(self) -> bool:
        """Whether the gripper carries one of the cameras, so that its pose is needed."""
        return any(camera.moves for camera in self._known.values())

    def filled(
        self, name: str, seen: CameraImage, gripper_pose: Real[np.ndarray, "4 4"] | None = None
    ) -> CameraImage:
        """What a camera sees, with the K and the extrinsics that it came without; what it came with is kept.

        gripper_pose: gripper -> robot base, in meters; None where it is not known.
        Depth outside of the camera's depth range becomes 0, which is "not measured".
        Raises InputError, naming the camera, for a picture that the calibration is not of, and where a camera's place
        is needed that follows from a pose that is not known.
        """
        camera = self._known.get(name)
        if camera is None:
            return seen
        try:
            return self._filled(camera, seen, gripper_pose)
        except InputError as error:
            raise InputError(f"Camera {name}: {error}") from None

    def observation(
        self, seen: Observation, first: str, gripper_pose: Real[np.ndarray, "4 4"] | None = None
    ) -> Observation:
        """The observation with each of its cameras `filled`. first: the name of the one that `image` is of."""
        cameras = {
            name: self.filled(name, image, gripper_pose) for name, image in seen.cameras(first).items()
        }
        shown = cameras.pop(first, None)
        rest = Observation(instruction=seen.instruction, images=cameras, state=seen.state)
        return rest if shown is None else replace(rest, **vars(shown))

    def _filled(
        self, camera: CalibratedCamera, seen: CameraImage, gripper_pose: np.ndarray | None
    ) -> CameraImage:
        if seen.mirrored and not camera.mirrored:
            raise InputError(
                "its picture is said to be mirrored, and the calibration's is not; correct one of them."
            )
        intrinsics, extrinsics, depth = seen.intrinsics, seen.extrinsics, seen.depth
        if intrinsics is None:
            intrinsics = camera.scaled_to(*_size(seen)).camera.intrinsics
        if extrinsics is None and not (camera.moves and gripper_pose is None):
            extrinsics = camera.extrinsics_at(gripper_pose)
        if extrinsics is None and self._needs_extrinsics:
            raise InputError(
                "the gripper carries it, so its place follows from the gripper's pose, which is missing; tell where "
                "the gripper is and how it is turned (`predict --gripper-pose`, or the lines 'position' and "
                "'rotation' of a server's mapping and what they name), or the camera's extrinsics."
            )
        if depth is not None and camera.depth_range is not None:
            depth = _believed(depth, camera.depth_range)
        return replace(
            seen, intrinsics=intrinsics, extrinsics=extrinsics, depth=depth, mirrored=camera.mirrored
        )


def _believed(depth: np.ndarray, depth_range: tuple[float, float]) -> np.ndarray:
    """Depth with 0, "not measured", for what the sensor is not to be believed."""
    believed = believed_depth(depth, depth_range)
    if not believed.any():
        nearest, farthest = depth_range
        raise InputError(
            f"no depth lies within {nearest:g} to {farthest:g} m, its range in the calibration; pass meters."
        )
    return believed.astype(np.float32)


def _size(seen: CameraImage) -> tuple[int, int]:
    """Height and width of a picture."""
    if isinstance(seen.image, np.ndarray):
        if seen.image.ndim < 2:
            raise InputError(f"its picture must be (H, W, 3), got shape {seen.image.shape}.")
        return seen.image.shape[0], seen.image.shape[1]
    picture = to_rgb(seen.image)  # turned as its EXIF says
    return picture.height, picture.width
