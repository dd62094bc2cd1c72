"""What `spatialvla serve` hands to a protocol: the engine, who is let in, what a robot and a client may do."""

from __future__ import annotations

from dataclasses import dataclass, field

from spatialvla.policy import Policy
from spatialvla.serving.engine.batching import Engine, EngineSettings
from spatialvla.serving.engine.preparation import Preparation
from spatialvla.serving.engine.session import EpisodeExecutor, Session
from spatialvla.serving.guard.access import Security
from spatialvla.serving.guard.limits import Limits
from spatialvla.serving.guard.traffic import TrafficLimits


@dataclass(frozen=True)
class Service:
    """A protocol is a module with `run(service, …)`, which serves until SIGTERM or SIGINT and then drains the engine.

    policy, engine: the model, and the queue in front of it. chunk: steps the policy predicts. name: of the checkpoint.
    """

    policy: Policy
    engine: Engine
    chunk: int
    name: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    limits: Limits = field(default_factory=Limits)
    security: Security = field(default_factory=Security)
    traffic: TrafficLimits = field(default_factory=TrafficLimits)

    @property
    def horizon(self) -> int:
        """Steps of a chunk that are sent."""
        match self.policy.execution.mode:
            case "receding":
                return min(self.policy.execution.steps, self.chunk)
            case "ensemble":
                return 1
        return self.chunk

    def session(self, executor: EpisodeExecutor | None = None) -> Session:
        """State for one more connection. executor: what is executed of its chunks, the policy's way unless given."""
        speculate = self.policy.speculate and self.policy.temperature == 0
        return Session(self.engine, executor or self.policy.new_executor(), self.limits, speculate=speculate)


def service_for(
    policy: Policy,
    *,
    name: str = "",
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits | None = None,
    security: Security | None = None,
    traffic: TrafficLimits | None = None,
    settings: EngineSettings | None = None,
) -> Service:
    """The service of a policy, warmed up and accepting requests."""
    traffic = traffic or TrafficLimits()
    preparation = Preparation.of(policy, traffic.max_image)
    engine = Engine(policy, prepare=preparation, settings=settings or EngineSettings())
    engine.start([preparation.dummy()])
    return Service(
        policy=policy,
        engine=engine,
        chunk=policy.processor.action_chunk_size,
        name=name,
        host=host,
        port=port,
        limits=limits or Limits(),
        security=security or Security(),
        traffic=traffic,
    )
