"""Both ways between one kind of client and the policy: messages to observations, actions to what the client takes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spatialvla.errors import InputError
from spatialvla.geometry.camera import turn_intrinsics
from spatialvla.geometry.extrinsics import pose_matrix, transform, turn_extrinsics
from spatialvla.geometry.rotations import matrices
from spatialvla.serving.engine.client_inputs import ClientInputs
from spatialvla.serving.engine.client_keys import CameraKeys, StatePart
from spatialvla.serving.engine.client_mapping import ClientMapping
from spatialvla.serving.engine.message_values import array, entries, numbers, shown
from spatialvla.serving.guard.limits import require_sendable
from spatialvla.types import CameraImage, Observation

if TYPE_CHECKING:
    from spatialvla.serving.engine.service import Service

log = logging.getLogger(__name__)


class ClientInterface:
    """Reads the messages of a mapping's clients for one policy, and writes its actions for them.

    What a client sends beside the policy's inputs is not looked at. Raises InputError where the two do not fit: where
    the policy has to know where a camera stands and neither client nor calibration tells it, where the limits need the
    gripper's position, and where the client takes other actions, as far as both are known.
    """

    def __init__(self, mapping: ClientMapping, service: Service) -> None:
        self.mapping = mapping
        self.required = service.require_all
        policy = service.inputs
        found = ClientInputs(mapping, policy, service.calibration, service.require_all)
        if found.missing:
            log.warning(
                "The mapping %r says nothing of %s; the policy does without.",
                mapping.name,
                ", ".join(found.missing),
            )
        self.cameras, self._state_layout, self._calibration = found.cameras, found.state, found.calibration
        self._first, self.state_names = policy.cameras[0], policy.state_names
        self._needs_extrinsics = policy.needs_extrinsics
        mapping.check_actions(service.units, service.limits)

    def describe(self) -> dict[str, Any]:
        """What the policy looks at, for a server's metadata: each camera and the state, and what they are called."""
        cameras = [self._described(name, keys) for name, keys in self.cameras.items()]
        state = None
        if self.state_names:
            state = {
                "names": list(self.state_names),
                "keys": list(self._state_layout.keys) if self._state_layout else [],
                "required": self.required,
            }
        return {"cameras": cameras, "state": state, "needs_extrinsics": self._needs_extrinsics}

    def observation(self, message: Mapping[str, Any]) -> Observation:
        """What the policy sees. Raises InputError where a key is missing or holds something else."""
        carried = self._calibration is not None and self._calibration.moves
        pose = self._gripper_pose(message) if carried else None
        images = {
            name: self._camera_image(message, name, keys, pose)
            for name, keys in self.cameras.items()
            if name == self._first or self.required or message.get(keys.image) is not None
        }
        first = images.pop(self._first)
        prompt = self._needed(message, self.mapping.prompt)
        if not isinstance(prompt, str):
            raise InputError(f"{self.mapping.prompt!r} must be a string, got {type(prompt).__name__}.")
        return Observation(**vars(first), instruction=prompt, images=images, state=self._state(message))

    def lacking(self, seen: Observation) -> list[str]:
        """What the mapping has keys for and this observation lacks: names of cameras, "the arm's state"."""
        brought = seen.cameras(self._first)
        lacking = [name for name in self.cameras if name not in brought]
        return lacking + (["the arm's state"] if self._state_layout and seen.state is None else [])

    def gripper_position(self, message: Mapping[str, Any]) -> np.ndarray | None:
        """(3,) meters, None where the client does not tell it. Raises InputError for a pose without it."""
        gripper = self.mapping.gripper
        return None if gripper is None else entries(message, gripper.key, gripper.position)

    def fingertips(self, message: Mapping[str, Any]) -> np.ndarray | None:
        """(3,) meters in the robot's frame; None where that does not follow from the message.

        Raises InputError as `gripper_position`.
        """
        gripper = self.mapping.gripper
        if gripper is None or gripper.base is None:
            return None
        if gripper.fingertips is None:
            position = entries(message, gripper.key, gripper.position)
            return None if position is None else position - np.array(gripper.base)
        pose = self._gripper_pose(message)
        return None if pose is None else transform(pose, np.array([gripper.fingertips]))[0]

    def actions(self, actions: np.ndarray) -> np.ndarray:
        """(k, 7) as the policy says them (gripper 1 = open) -> as the client takes them.

        Raises UnsafeAction where one is not finite.
        """
        mapping, sent = self.mapping, actions.copy()
        sent[:, 6] = mapping.gripper_closed + (mapping.gripper_open - mapping.gripper_closed) * actions[:, 6]
        return require_sendable(sent)

    # ---------------------------------------------------------------- inside

    def _described(self, name: str, keys: CameraKeys) -> dict[str, Any]:
        calibrated = None if self._calibration is None else self._calibration.cameras.get(name)
        return {
            "name": name,
            "keys": keys.keys(),
            "mirrored": keys.mirrored or (calibrated is not None and calibrated.mirrored),
            "calibrated": calibrated is not None,
            "required": name == self._first or self.required,
        }

    def _camera_image(
        self, message: Mapping[str, Any], name: str, keys: CameraKeys, pose: np.ndarray | None
    ) -> CameraImage:
        image = self._needed(message, keys.image)
        if not isinstance(image, np.ndarray):
            raise InputError(
                f"{keys.image!r} must be an array (H, W, 3) of uint8, got {type(image).__name__}."
            )
        intrinsics, depth, extrinsics = (
            array(message, key) for key in (keys.intrinsics, keys.depth, keys.extrinsics)
        )
        if extrinsics is not None and extrinsics.shape != (4, 4):
            raise InputError(f"{keys.extrinsics!r} must be a 4x4 matrix, got shape {extrinsics.shape}.")
        seen = CameraImage(image, intrinsics, depth, extrinsics, keys.mirrored)
        if self._calibration is not None:
            seen = self._calibration.filled(name, seen, pose)
        return _turned(seen) if keys.rotate_180 else seen

    def _gripper_pose(self, message: Mapping[str, Any]) -> np.ndarray | None:
        """(4, 4) gripper -> robot base, in meters; None where that does not follow from the message."""
        gripper = self.mapping.gripper
        if gripper is None or gripper.base is None or not gripper.tells_pose:
            return None
        found = entries(message, gripper.key, (*gripper.position, *gripper.rotation))
        if found is None:
            return None
        position, rotation = found[:3] - np.array(gripper.base), found[3:]
        if gripper.notation == "quaternion_xyzw" and not 0.5 < np.linalg.norm(rotation) < 2:
            raise InputError(
                f"{gripper.key!r} has a quaternion that is no rotation; send x, y, z, w of length 1."
            )
        return pose_matrix(position, matrices(rotation[None], gripper.notation)[0])

    def _state(self, message: Mapping[str, Any]) -> np.ndarray | None:
        """(S,) the numbers of the state's parts, None where the policy has none or the client sends none."""
        layout = self._state_layout
        if layout is None:
            return None
        sent = {key: numbers(message, key) for key in layout.keys}
        missing = [key for key, found in sent.items() if found is None]
        if missing and (self.required or len(missing) < len(sent)):
            raise InputError(
                f"The observation lacks {', '.join(map(repr, missing))} of the arm's state; it has {shown(message)}."
            )
        if missing:
            return None
        parts = [_of_state(part, sent) for part in layout.parts]
        state = np.concatenate(parts)
        if len(state) != len(self.state_names):
            raise InputError(
                f"{' and '.join(map(repr, sent))} must be the policy's state of {len(self.state_names)} numbers, got "
                f"{len(state)}; send them as the data has them."
            )
        return state

    def _needed(self, message: Mapping[str, Any], key: str) -> Any:
        if key not in message:
            raise InputError(
                f"The observation lacks {key!r}; it has {shown(message)}. "
                f"The server's mapping is {self.mapping.name!r} (--mapping)."
            )
        return message[key]


def _of_state(part: StatePart, sent: Mapping[str, np.ndarray | None]) -> np.ndarray:
    """The numbers of one part. Raises InputError where its key has too few."""
    found = None if part.key is None else sent[part.key]
    if found is None:
        return np.zeros(1)
    if not part.indices:
        return found
    if len(found) <= max(part.indices):
        raise InputError(f"{part.key!r} has {len(found)} numbers, but its entries {part.indices} are needed.")
    return found[list(part.indices)]


def _turned(seen: CameraImage) -> CameraImage:
    """The same scene seen by a camera held the other way up."""
    image = np.asarray(seen.image)
    intrinsics = seen.intrinsics
    if intrinsics is not None and np.shape(intrinsics) == (3, 3) and image.ndim >= 2:
        intrinsics = turn_intrinsics(np.asarray(intrinsics), image.shape[:2])
    depth = None if seen.depth is None else seen.depth[::-1, ..., ::-1]
    extrinsics = None if seen.extrinsics is None else turn_extrinsics(seen.extrinsics)
    return replace(seen, image=image[::-1, ::-1], intrinsics=intrinsics, depth=depth, extrinsics=extrinsics)
