"""What a policy takes of what a benchmark of vla-eval's has: cameras, their places, and the arm's state."""

from __future__ import annotations

import logging

from spatialvla.calibration.policy_calibration import PolicyCalibration
from spatialvla.errors import InputError
from spatialvla.serving.engine.service import Service
from spatialvla.serving.vla_eval.conventions import HarnessBenchmark, PolicyNeeds

log = logging.getLogger(__name__)


def calibration_for(service: Service) -> PolicyCalibration | None:
    """Of the service's robot, for the policy's cameras."""
    if service.calibration is None:
        return None
    policy = service.policy
    return PolicyCalibration(
        service.calibration, policy.camera_names, needs_extrinsics=policy.needs_extrinsics
    )


def needs_of(
    service: Service, benchmark: HarnessBenchmark, calibration: PolicyCalibration | None, own_cameras: bool
) -> PolicyNeeds:
    """What a benchmark is asked for. What it does not have is told in the log, and the policy does without.

    Raises InputError where all is required, and for a first camera whose place is needed and not known: the harness
    tells none.
    """
    policy = service.policy
    first, *others = policy.camera_names
    standing = (
        {name for name, camera in calibration.cameras.items() if not camera.moves} if calibration else set()
    )
    if policy.needs_extrinsics and first not in standing:
        raise InputError(
            "vla-eval's harness does not tell where the camera stands, which this policy has to know; give a "
            "--calibration of the benchmark's camera, choose a checkpoint that works in the camera's frame, or play "
            "with spatialvla evaluate."
        )
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
