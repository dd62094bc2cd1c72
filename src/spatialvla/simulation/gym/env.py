"""A Gymnasium environment as a robot: observations for a policy, and a policy's actions carried out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from spatialvla.actions.units import UNKNOWN, ActionUnits
from spatialvla.common.extras import needs_extra
from spatialvla.common.names import did_you_mean
from spatialvla.data.arm_state import check_gripper_feature, gripper_poses, state_names, state_of
from spatialvla.data.hand_motions import Numbers
from spatialvla.data.mapping_lines import FIRST_CAMERA, Extrinsics
from spatialvla.errors import InputError
from spatialvla.geometry.calibrated_camera import CalibratedCamera
from spatialvla.geometry.camera import check_intrinsics
from spatialvla.geometry.extrinsics import check_extrinsics, inverse
from spatialvla.geometry.robot_calibration import RobotCalibration
from spatialvla.simulation.action import checked_action
from spatialvla.simulation.gym.commands import Commands
from spatialvla.simulation.gym.mapping import (
    RENDER,
    ByFeature,
    CameraLines,
    DepthFeature,
    FromReward,
    GymMapping,
)
from spatialvla.types import CameraImage, Observation

STILL = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
"""The policy's action while things settle: no motion, gripper open."""


class GymEnv:
    """One environment, made once and run for many episodes.

    env_id: as `gymnasium.make` takes it; in `package:Name` the package is imported first, which registers it.
    mapping: what it shows and takes. units: of the actions that `step` gets, whose lengths and angles are turned into
    the environment's; what they do not say is as the mapping has it.
    cameras: which of the mapping's further ones are looked through; all unless given.
    ended: whether the present episode cannot go on.
    Raises InputError where the environment cannot be made, or is another than the mapping says.
    """

    def __init__(
        self,
        env_id: str,
        mapping: GymMapping,
        units: ActionUnits = UNKNOWN,
        cameras: Collection[str] | None = None,
    ) -> None:
        self.env_id, self.mapping = env_id, mapping
        self._cameras = {
            name: lines for name, lines in mapping.cameras.items() if cameras is None or name in cameras
        }
        self._calibration = RobotCalibration.load(mapping.calibration).cameras if mapping.calibration else {}
        self.env = _made(env_id, mapping)
        try:
            self._commands = Commands(mapping, units, *_bounds(self.env))
        except InputError as error:
            self.close()
            raise InputError(f"{env_id}: {error}") from None
        self.ended = False
        self._observation: Any = None
        self._info: Mapping[str, Any] = {}

    def reset(self, seed: int) -> None:
        """A new episode, with things settled. seed: of all that the environment draws at random in it."""
        try:
            self._observation, self._info = self.env.reset(
                seed=seed, options=dict(self.mapping.reset) or None
            )
        except Exception as error:  # whatever comes up in somebody else's code
            raise InputError(
                f"{self.env_id} does not start ({_in_a_line(error)}); correct the environment."
            ) from error
        self.ended = False
        for _ in range(self.mapping.settle_steps):
            self._advance(np.array(STILL))
            if self.ended:
                raise InputError(f"{self.env_id} ends while things settle; give fewer settle_steps.")

    def step(self, action: np.ndarray) -> bool:
        """One control step of a policy's action (7,), gripper 1 = open; whether it succeeds in this step.

        Raises InputError for an action that is not finite, and where the environment fails or does not say whether it
        succeeds.
        """
        reward, terminated = self._advance(action)
        success = self.mapping.success
        if isinstance(success, FromReward):
            return bool(_number(reward, f"{self.env_id} gives a reward of") >= success.reward)
        return terminated if success == "terminated" else self._holds(success)

    def observe(self, depth: bool = False) -> Observation:
        """What a policy sees now. depth: give it the environment's own, in meters.

        Raises InputError where the environment does not have what the mapping says.
        """
        mapping = self.mapping
        gripper = self._gripper_pose()
        first = self._seen(FIRST_CAMERA, mapping, depth, gripper)
        images = {name: self._seen(name, lines, depth, gripper) for name, lines in self._cameras.items()}
        return Observation(
            **vars(first),
            instruction=self.instruction,
            images=images,
            state=self._state(),
        )

    @property
    def instruction(self) -> str:
        """What to do in this episode."""
        told = self.mapping.instruction
        if not isinstance(told, ByFeature):
            return told
        found = self._told(told.feature)
        if not isinstance(found, str) or not found.strip():
            raise InputError(f"{self.env_id} says {found!r} in {told.feature}, which is no instruction.")
        return found

    def close(self) -> None:
        """Gives the environment's renderer and physics back."""
        self.env.close()

    def _advance(self, action: np.ndarray) -> tuple[Any, bool]:
        """One control step; its reward, and whether it ended the episode by itself."""
        command = self._commands(checked_action(action)).astype(self.env.action_space.dtype)
        try:
            self._observation, reward, terminated, truncated, self._info = self.env.step(command)
        except Exception as error:  # whatever comes up in somebody else's code
            raise InputError(
                f"{self.env_id} does not take a step ({_in_a_line(error)}); correct the environment."
            ) from error
        self.ended = bool(terminated or truncated)
        return reward, bool(terminated)

    def _holds(self, feature: str) -> bool:
        """Whether all that is told there is true."""
        told = np.asarray(said := self._told(feature))
        if told.dtype.kind not in "biuf" or not told.size or not np.isin(told, (0, 1)).all():
            raise InputError(f"{self.env_id} says {said!r} in {feature}, which is not true or false.")
        return bool(told.all())

    def _seen(self, name: str, lines: CameraLines, depth: bool, gripper: np.ndarray | None) -> CameraImage:
        picture = self._picture(lines)
        meters = self._depth(name, lines) if depth else None
        known = self._calibration.get(name)
        extrinsics, mirrored = self._place(lines.extrinsics, known, gripper)
        return CameraImage(picture, self._intrinsics(lines, picture, known), meters, extrinsics, mirrored)

    def _depth(self, name: str, lines: CameraLines) -> np.ndarray:
        if lines.depth is None:
            raise InputError(f"The mapping names no depth of the camera {name}; add the line 'depth: …'.")
        told = DepthFeature(lines.depth) if isinstance(lines.depth, str) else lines.depth
        meters = self._numbers(told.feature) * told.meters
        return _flipped(meters[..., 0] if meters.ndim == 3 else meters, lines)

    def _picture(self, lines: CameraLines) -> np.ndarray:
        found = self.env.render() if lines.image == RENDER else self._told(lines.image)
        picture = np.asarray(found)
        if (
            picture.dtype != np.uint8
            or picture.ndim != 3
            or picture.shape[2] not in (3, 4)
            or not picture.size
        ):
            raise InputError(
                f"{self.env_id} gives {lines.image} as {picture.dtype} of shape {picture.shape}, which is no picture; "
                "a picture is (H, W, 3), uint8."
            )
        return _flipped(picture[..., :3], lines)

    def _intrinsics(
        self, lines: CameraLines, picture: np.ndarray, known: CalibratedCamera | None
    ) -> np.ndarray | None:
        height, width = picture.shape[:2]
        if lines.field_of_view is not None:
            focal = height / 2 / np.tan(np.radians(lines.field_of_view) / 2)
            return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        if isinstance(lines.intrinsics, str):
            return check_intrinsics(self._numbers(lines.intrinsics), (height, width))
        if lines.intrinsics is not None:
            return lines.intrinsics.camera.scaled_to(height, width)
        return None if known is None else known.scaled_to(height, width).camera.intrinsics

    def _place(
        self, told: Extrinsics | None, known: CalibratedCamera | None, gripper: np.ndarray | None
    ) -> tuple[np.ndarray | None, bool]:
        """Camera -> robot base of the real camera, None where unknown; whether the picture is mirrored."""
        if told is not None:
            matrix = np.array(told.matrix) if told.feature is None else self._numbers(told.feature)
            base = inverse(check_extrinsics(np.array(told.base))) if told.base else np.eye(4)
            return base @ check_extrinsics(matrix), told.mirrored
        if known is None or (known.moves and gripper is None):
            return None, False
        return known.extrinsics_at(gripper), known.mirrored

    def _state(self) -> np.ndarray | None:
        state = self.mapping.state
        if state is None:
            return None
        rows = self._rows(state.feature)
        state_names(state, _sizes(rows))
        now: np.ndarray = state_of(state, rows)[0]
        return now

    def _gripper_pose(self) -> np.ndarray | None:
        pose = self.mapping.gripper_pose
        if pose is None:
            return None
        rows = self._rows(pose.feature)
        check_gripper_feature(pose, _sizes(rows))
        now: np.ndarray = gripper_poses(pose, rows)[0]
        return now

    def _rows(self, features: Collection[str]) -> dict[str, np.ndarray]:
        """Each feature's numbers as the one row of a table."""
        return {name: self._numbers(name).reshape(1, -1) for name in features}

    def _numbers(self, feature: str) -> np.ndarray:
        told = self._told(feature)
        try:
            return np.asarray(told, np.float64)
        except (TypeError, ValueError):
            raise InputError(f"{self.env_id} gives {feature} as something else than numbers.") from None

    def _told(self, feature: str) -> Any:
        """What the environment says there."""
        root, *keys = feature.split("/")
        found: Any = self._observation if root == "observation" else self._info
        for key in keys:
            if not isinstance(found, Mapping) or key not in found:
                there = [*_features("observation", self._observation), *_features("info", self._info)]
                raise InputError(f"{self.env_id} has no {feature!r}; {did_you_mean(feature, there)}")
            found = found[key]
        return found


def _made(env_id: str, mapping: GymMapping) -> Any:
    with needs_extra("gym", "A Gymnasium environment"):
        import gymnasium
    steps = mapping.settle_steps + mapping.max_steps
    render = {"render_mode": "rgb_array"} if mapping.draws else {}
    try:
        return gymnasium.make(
            env_id, disable_env_checker=True, max_episode_steps=steps, **render, **mapping.make
        )
    except Exception as error:  # Gymnasium's, and whatever comes up in somebody else's code
        raise InputError(
            f"Gymnasium cannot make {env_id!r} ({_in_a_line(error)}); install its package, and "
            "write package:Name so that it is imported."
        ) from error


def _bounds(env: Any) -> tuple[np.ndarray, np.ndarray]:
    low, high = getattr(env.action_space, "low", None), getattr(env.action_space, "high", None)
    if not isinstance(low, np.ndarray) or not isinstance(high, np.ndarray) or low.ndim != 1:
        raise InputError(
            f"its actions are {env.action_space}, not numbers in a row; only a Box of one axis is played."
        )
    if not np.issubdtype(low.dtype, np.floating):
        raise InputError(f"its actions are {env.action_space}, whole numbers, to which no motion is cut off.")
    return low.astype(np.float64), high.astype(np.float64)


def _number(value: Any, told: str) -> float:
    number = np.asarray(value)
    if number.dtype.kind not in "biuf" or number.size != 1 or not np.isfinite(number).all():
        raise InputError(f"{told} {value!r}, which is no finite number.")
    return float(number.item())


def _sizes(rows: Mapping[str, np.ndarray]) -> dict[str, Numbers]:
    return {name: Numbers(row.shape[1]) for name, row in rows.items()}


def _in_a_line(error: Exception) -> str:
    """What it says, in a line."""
    said = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _flipped(array: np.ndarray, lines: CameraLines) -> np.ndarray:
    """A copy, which the environment cannot draw over."""
    axes = tuple(("rows", "columns").index(name) for name in lines.flip)
    return np.ascontiguousarray(np.flip(array, axes)).copy()


def _features(root: str, value: Any) -> Iterator[str]:
    """The names of all that is in there."""
    if not isinstance(value, Mapping):
        yield root
        return
    for key, inner in value.items():
        yield from _features(f"{root}/{key}", inner)
