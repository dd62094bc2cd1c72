"""What a protocol's server is given: the engine, who is let in, what a robot and a client may do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from spatialvla.actions.fitting import check_fit
from spatialvla.actions.units import STANDARD_GRIPPER, UNKNOWN, ActionUnits
from spatialvla.errors import InputError
from spatialvla.execution import Executor
from spatialvla.geometry.robot_calibration import RobotCalibration
from spatialvla.policy import Policy
from spatialvla.processor import Processor
from spatialvla.serving.engine.batching import Engine
from spatialvla.serving.engine.client_mapping import ClientMapping
from spatialvla.serving.engine.policy_inputs import PolicyInputs
from spatialvla.serving.engine.requests import PolicyRequest
from spatialvla.serving.engine.session import Session
from spatialvla.serving.engine.settings import EngineSettings
from spatialvla.serving.engine.watching import Watcher
from spatialvla.serving.guard.access import Access
from spatialvla.serving.guard.limits import Limits
from spatialvla.serving.guard.sureness import GO_ON, StopAbove
from spatialvla.serving.guard.traffic import TrafficLimits
from spatialvla.serving.logs import ClientLog
from spatialvla.types import CameraImage, Observation


@dataclass(frozen=True)
class ProtocolOptions:
    """What a protocol's `run(service, options)` is told beside the service; each takes what its clients need.

    mapping: what openpi's and LeRobot's clients call their inputs.
    benchmark: whose conventions vla-eval's clients have.
    pad_to: steps that an openpi client wants at least; missing ones stand still.
    unknown_units: whether vla-eval's robots may be moved though nobody says what 1 in the actions is.
    """

    mapping: ClientMapping
    benchmark: str = "libero"
    pad_to: int = 0
    unknown_units: bool = False

    def __post_init__(self) -> None:
        if self.pad_to < 0:
            raise InputError(f"pad_to must be 0 or more steps, got {self.pad_to}.")


@dataclass(frozen=True)
class PlannedService:
    """What is known of a service before the policy's weights are loaded; see `Service`."""

    inputs: PolicyInputs
    units: ActionUnits
    limits: Limits
    access: Access
    calibration: RobotCalibration | None = None
    require_all: bool = False


@dataclass(frozen=True)
class Service:
    """A policy that is served. A protocol's `run(service, options)` does so until SIGTERM or SIGINT.

    policy, engine: the model, and the queue in front of it. chunk: steps the policy predicts.
    name: of the checkpoint. limits: what the robot may be told in one step. units: of the policy's actions, as
    the checkpoint and the limits say.
    access: who is let in. clients: where their coming and going is told.
    calibration: of the robot's cameras, for what clients do not send. require_all: refuse observations without a part
    of the policy's input, in place of going on without it. watchers: are told of each decision.
    stop_above: how unsure the policy may become.
    """

    policy: Policy
    engine: Engine
    chunk: int
    name: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    limits: Limits = field(default_factory=Limits)
    units: ActionUnits = UNKNOWN
    access: Access = field(default_factory=Access)
    traffic: TrafficLimits = field(default_factory=TrafficLimits)
    clients: ClientLog = field(default_factory=ClientLog)
    calibration: RobotCalibration | None = None
    require_all: bool = False
    watchers: Sequence[Watcher] = ()
    stop_above: StopAbove = GO_ON

    def refused(self, reason: str, client: str, sentence: str = "") -> None:
        """Counts and tells a connection that was not let in, or was thrown out. reason: a word; sentence: if any."""
        self.engine.metrics.refused(reason)
        self.clients.refused(client, reason, sentence)

    @property
    def inputs(self) -> PolicyInputs:
        """What the policy looks at."""
        policy = self.policy
        return PolicyInputs(policy.camera_names, policy.state_names, policy.needs_extrinsics)

    @property
    def horizon(self) -> int:
        """Steps of a chunk that are sent."""
        match self.policy.execution.mode:
            case "receding":
                return min(self.policy.execution.steps, self.chunk)
            case "ensemble" | "temporal":
                return 1
        return self.chunk

    def session(self, executor: Executor | None = None, *, address: str = "") -> Session:
        """State for one more connection.

        executor: of its episode, by default the policy's own kind. address: of the client's machine.
        """
        executor = executor or self.policy.new_executor()
        first = self.policy.camera_names[0]
        return Session(self.engine, executor, self.limits, first, address, self.watchers, self.stop_above)


def checked_limits(
    processor: Processor, dataset: str | None, limits: Limits, stop_above: StopAbove, tells: bool
) -> Limits:
    """The limits in the units of a policy's actions, for which its weights are not needed.

    tells: whether the policy tells how sure it is. Raises InputError as `service_for`.
    """
    units = processor.action_units(dataset)
    check_fit(
        units,
        ActionUnits(gripper=STANDARD_GRIPPER),
        "The server",
        statistics=processor.dataset_statistics(dataset),
        unknown_units=True,
    )
    stop_above.check_policy(tells, units)
    return limits.in_units(units)


def service_for(
    policy: Policy,
    *,
    name: str = "",
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits | None = None,
    access: Access | None = None,
    traffic: TrafficLimits | None = None,
    settings: EngineSettings | None = None,
    calibration: RobotCalibration | None = None,
    require_all: bool = False,
    stop_above: StopAbove = GO_ON,
) -> Service:
    """The service of a policy, warmed up and accepting requests.

    Raises InputError for limits in other units than the policy's actions have, and for a gripper that does not
    go from 0 (closed) to 1 (open), which is what limits and mappings take, and for a `stop_above` that the policy
    does not tell.
    """
    limits = checked_limits(
        policy.processor, policy.dataset, limits or Limits(), stop_above, policy.uncertainty
    )
    traffic = traffic or TrafficLimits()
    engine = Engine(policy, check=traffic.check, settings=settings)
    engine.start([PolicyRequest(_in_the_dark(policy), policy.new_executor())])
    return Service(
        policy=policy,
        engine=engine,
        chunk=policy.processor.action_chunk_size,
        name=name,
        host=host,
        port=port,
        limits=limits,
        units=limits.units.filled(policy.units),
        access=access or Access(),
        traffic=traffic,
        calibration=calibration,
        require_all=require_all,
        stop_above=stop_above,
    )


def _in_the_dark(policy: Policy) -> Observation:
    """Black pictures of all of a policy's cameras, and a state of zeros."""
    side = policy.processor.image_size
    K = np.array([[side, 0, side / 2], [0, side, side / 2], [0, 0, 1.0]])
    black = CameraImage(
        np.zeros((side, side, 3), np.uint8), K, extrinsics=np.eye(4) if policy.needs_extrinsics else None
    )
    return Observation(
        instruction="pick up the black bowl and place it on the plate",
        images=dict.fromkeys(policy.camera_names, black),
        state=np.zeros(len(policy.state_names)) if policy.state_names else None,
    )
