"""Which of a policy's inputs a mapping's clients bring, and what a calibration tells of its cameras."""

from __future__ import annotations

from spatialvla.calibration.policy_calibration import PolicyCalibration
from spatialvla.errors import InputError
from spatialvla.geometry.robot_calibration import RobotCalibration
from spatialvla.serving.engine.client_mapping import ClientMapping
from spatialvla.serving.engine.policy_inputs import PolicyInputs


class ClientInputs:
    """A policy's inputs as one kind of client has them; the policy's weights are not needed.

    cameras: the client's keys by the policy's names. state: its layout, None where it has none for the policy.
    missing: what the mapping says nothing of. calibration: of the policy's cameras, where the robot's is given.
    """

    def __init__(
        self,
        mapping: ClientMapping,
        policy: PolicyInputs,
        calibration: RobotCalibration | None = None,
        require_all: bool = False,
    ) -> None:
        """Raises InputError where mapping and calibration contradict each other, where something is missing and all
        is required, and where the policy has to know where a camera stands and neither client nor calibration tells.
        """
        first, *others = policy.cameras
        self.cameras = {first: mapping.first}
        self.cameras |= {name: keys for name in others if (keys := mapping.camera(name)) is not None}
        self.state = mapping.state_for(policy.state_names) if policy.state_names else None
        self.calibration = None
        if calibration is not None:
            called = {
                name: keys.calibrated for name, keys in self.cameras.items() if keys.calibrated is not None
            }
            self.calibration = PolicyCalibration(
                calibration, policy.cameras, needs_extrinsics=policy.needs_extrinsics, called=called
            )
        self.missing = [name for name in policy.cameras if name not in self.cameras]
        if policy.state_names and self.state is None:
            self.missing.append(_told_state(mapping, policy))
        if self.missing and require_all:
            raise InputError(
                f"All of the policy's input is required, but the mapping {mapping.name!r} says nothing of "
                f"{', '.join(self.missing)}; add the keys that the client sends, or leave out --require-all."
            )
        self._check_mirrored(mapping)
        if policy.needs_extrinsics:
            self._check_places(mapping)

    def _check_mirrored(self, mapping: ClientMapping) -> None:
        calibrated = self.calibration.cameras if self.calibration else {}
        for name, keys in self.cameras.items():
            if keys.mirrored and name in calibrated and not calibrated[name].mirrored:
                raise InputError(
                    f"The mapping {mapping.name!r} says that pictures of the camera {name} are mirrored, and the "
                    "calibration that they are not; correct one of them."
                )

    def _check_places(self, mapping: ClientMapping) -> None:
        calibrated = self.calibration.cameras if self.calibration else {}
        untold = [name for name, keys in self.cameras.items() if not keys.extrinsics]
        unknown = [name for name in untold if name not in calibrated]
        if unknown:
            raise InputError(
                f"The policy has to know where its cameras stand, but the mapping {mapping.name!r} does not say under "
                f"which key the client sends it for {', '.join(unknown)}; add extrinsics to it (4x4, camera -> robot "
                "base, meters), or give a --calibration of the robot."
            )
        carried = [name for name in untold if calibrated[name].moves]
        if carried and not (mapping.gripper is not None and mapping.gripper.tells_pose):
            raise InputError(
                f"The gripper carries the camera {', '.join(carried)}, so its place follows from the gripper's pose in "
                f"the robot's frame, which the mapping {mapping.name!r} does not tell; add position, rotation and, "
                "where the position is in another frame, base to it."
            )


def _told_state(mapping: ClientMapping, policy: PolicyInputs) -> str:
    """The policy's state, where the client's is another."""
    others = [", ".join(layout.names) for layout in mapping.states]
    names = ", ".join(policy.state_names)
    return f"a state of {names} (only of {'; '.join(others)})" if others else "the state"
