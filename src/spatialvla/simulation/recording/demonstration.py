"""One demonstration: what the expert saw and did in an episode, and its file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spatialvla.common.array_files import read_arrays, write_arrays
from spatialvla.common.files import replacing
from spatialvla.errors import InputError

STATE_NAMES = ("x", "y", "z", "axis_angle_x", "axis_angle_y", "axis_angle_z", "finger_left", "finger_right")
"""Of the proprioception: where the point between the fingers is and how it is turned, meters and radians."""

RECORDED_ROTATION = STATE_NAMES[3]
"""The name that tells this state from that of LIBERO's own datasets, whose rotation is another."""

_OTHERS = "others"
"""Arrays of further cameras are called `others/<camera>/<array>` in a file."""


@dataclass(frozen=True)
class RecordedView:
    """What one more camera saw, before the actions of the D steps that `Demonstration.drawn` names.

    images (D, H, W, 3) uint8 and depth (D, H, W) float16 meters. intrinsics (3, 3) float32.
    extrinsics (D, 4, 4) float32: as `Demonstration.extrinsics`, at each of these steps.
    """

    images: np.ndarray
    depth: np.ndarray
    intrinsics: np.ndarray
    extrinsics: np.ndarray


@dataclass(frozen=True)
class Demonstration:
    """One successful episode of T control steps.

    images (D, H, W, 3) uint8 and depth (D, H, W) float16 meters: what the camera saw before some actions.
    drawn (D,) int64, ascending from 0: the steps of these actions; all of them unless it was drawn less often.
    actions (T, 7) float32: what the undisturbed expert does there; gripper 1 = open.
    proprioception (T, 8) float32. states (T, N) float64: everything that moves, as the simulator has it.
    takeover (T,) float32: 1 where a policy drove instead of the expert, so that the arm did something else.
    intrinsics (3, 3) float32. camera_pose (4, 4) float32: camera -> the frame of the proprioception.
    extrinsics (4, 4) float32: takes points back-projected by K to the robot's base; it mirrors if the pictures do.
    instruction: of the task.
    others: what further cameras saw of the same episode, by name.
    """

    images: np.ndarray
    depth: np.ndarray
    drawn: np.ndarray
    actions: np.ndarray
    proprioception: np.ndarray
    states: np.ndarray
    takeover: np.ndarray
    intrinsics: np.ndarray
    camera_pose: np.ndarray
    extrinsics: np.ndarray
    instruction: str
    others: Mapping[str, RecordedView] = field(default_factory=dict)

    @classmethod
    def of_steps(
        cls,
        pictures: Mapping[int, tuple[np.ndarray, ...]],
        steps: Sequence[tuple[np.ndarray, ...]],
        intrinsics: np.ndarray,
        camera_pose: np.ndarray,
        extrinsics: np.ndarray,
        instruction: str,
        others: Mapping[str, RecordedView] | None = None,
    ) -> Demonstration:
        """pictures: image and depth of each step that was drawn. steps: what each step has: action, proprioception,
        state and whether a policy drives."""
        nothing = np.zeros((0, 0, 0, 3), np.uint8), np.zeros((0, 0, 0))
        images, depth = stacked([*pictures.values()]) if pictures else nothing
        actions, proprioception, states, takeover = stacked(steps)
        return cls(
            images,
            depth.astype(np.float16),
            np.array([*pictures], np.int64),
            actions,
            proprioception.astype(np.float32),
            states,
            takeover.astype(np.float32),
            intrinsics.astype(np.float32),
            camera_pose.astype(np.float32),
            extrinsics.astype(np.float32),
            instruction,
            others or {},
        )

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def is_sparse(self) -> bool:
        """Whether some steps were not drawn."""
        return len(self.drawn) < len(self)

    def save(self, path: Path) -> None:
        """Writes the episode to one .npz file, whole or not at all."""
        arrays = asdict(self) | {"instruction": np.asarray(self.instruction)}
        for camera, view in arrays.pop(_OTHERS).items():
            arrays |= {f"{_OTHERS}/{camera}/{name}": array for name, array in view.items()}
        with replacing(path) as partial:
            write_arrays(partial, arrays, compress=True)

    @classmethod
    def load(cls, path: Path) -> Demonstration:
        """Reads what `save` wrote. Raises InputError if it is something else."""
        try:
            archive = read_arrays(path)
            own = [name for name in cls.__dataclass_fields__ if name != _OTHERS]
            fields: dict[str, Any] = {name: archive[name] for name in own}
            cameras = dict.fromkeys(name.split("/")[1] for name in archive if name.startswith(f"{_OTHERS}/"))
            others = {
                camera: RecordedView(
                    *(archive[f"{_OTHERS}/{camera}/{name}"] for name in RecordedView.__dataclass_fields__)
                )
                for camera in cameras
            }
        except (ValueError, KeyError) as error:
            raise InputError(f"{path} is no demonstration ({error}); delete it and record again.") from error
        return cls(**{**fields, "instruction": str(fields["instruction"]), _OTHERS: others})


def stacked(steps: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    """Each value of all steps as one array."""
    return tuple(np.stack(values) for values in zip(*steps, strict=True))
