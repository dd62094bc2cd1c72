"""What a policy takes of what a benchmark of vla-eval's has: cameras, their places, and the arm's state."""

from __future__ import annotations

import logging

from spatialvla.calibration.policy_calibration import PolicyCalibration
from spatialvla.errors import InputError
from spatialvla.serving.engine.policy_inputs import PolicyInputs
from spatialvla.serving.engine.service import PlannedService, Service
from spatialvla.serving.vla_eval.conventions import HarnessBenchmark, PolicyNeeds

log = logging.getLogger(__name__)


def calibration_for(service: Service | PlannedService) -> PolicyCalibration | None:
    """Of the service's robot, for the policy's cameras."""
    if service.calibration is None:
        return None
    policy = service.inputs
    return PolicyCalibration(service.calibration, policy.cameras, needs_extrinsics=policy.needs_extrinsics)


def standing_cameras(policy: PolicyInputs, calibration: PolicyCalibration | None) -> set[str]:
    """The policy's cameras that stand still, and where is known.

    Raises InputError where the first one's place is needed and not known: the harness tells none.
    """
    known = calibration.cameras if calibration else {}
    standing = {name for name, camera in known.items() if not camera.moves}
    if policy.needs_extrinsics and policy.cameras[0] not in standing:
        raise InputError(
            "vla-eval's harness does not tell where the camera stands, which this policy has to know; give a "
            "--calibration of the benchmark's camera, choose a checkpoint that works in the camera's frame, or play "
            "with spatialvla evaluate."
        )
    return standing


def needs_of(
    service: Service, benchmark: HarnessBenchmark, calibration: PolicyCalibration | None, own_cameras: bool
) -> PolicyNeeds:
    """What a benchmark is asked for. What it does not have is told in the log, and the policy does without.

    Raises InputError where all is required, and as `standing_cameras` does.
    """
    policy = service.inputs
    first, *others = policy.cameras
    standing = standing_cameras(policy, calibration)
    cameras = tuple(
        name
        for name in others
        if name in benchmark.cameras and (name in standing or not policy.needs_extrinsics)
    )
    state = benchmark.state_for(policy.state_names)
    missing = [name for name in others if name not in cameras]
    missing += ["state"] if policy.state_names and state is None else []
    if missing and service.require_all:
        raise InputError(
            f"{benchmark.name} lacks what the policy has to have: {', '.join(missing)}; leave out --require-all."
        )
    if missing:
        log.warning("%s lacks %s; the policy does without.", benchmark.name, ", ".join(missing))
    return PolicyNeeds(first, cameras, state, own_cameras, service.require_all)
