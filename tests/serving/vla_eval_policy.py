"""A policy behind vla-eval's protocol, and observations of its harness."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
from fake_policy import FakePolicy, expected
from running import fake_service, running

from spatialvla.actions.published_units import published_units
from spatialvla.execution import WHOLE_CHUNKS, Execution
from spatialvla.geometry.robot_calibration import RobotCalibration
from spatialvla.serving.engine.watching import Watcher
from spatialvla.serving.guard.sureness import GO_ON, StopAbove
from spatialvla.serving.guard.traffic import TrafficLimits
from spatialvla.serving.vla_eval import server as protocol
from spatialvla.serving.vla_eval.conventions import LIBERO, HarnessBenchmark
from spatialvla.serving.vla_eval.model_server import VlaEvalServer
from spatialvla.types import Observation

DATASETS = {"libero": "libero_spatial", "simpler_widowx": "bridge_orig/1.0.0"}
EPISODE = {"task": {"suite": "libero_spatial", "name": "pick", "task_id": 0}}


class RobotPolicy(FakePolicy):
    """A fake with a dataset, a camera and a way of execution."""

    def __init__(self, dataset: str, seconds: float = 0.0, own_camera: bool = True, **more: Any) -> None:
        super().__init__(seconds, **more)
        self.dataset = dataset
        self.execution: Execution = WHOLE_CHUNKS
        self.processor = SimpleNamespace(cameras={"default": None, dataset if own_camera else "other": None})
        self.intrinsics: list[Any] = []

    def prepare(self, observation: Observation, committed: np.ndarray | None = None) -> Any:
        self.intrinsics.append(observation.intrinsics)
        return super().prepare(observation, committed)


def policy_for(benchmark: HarnessBenchmark, **more: Any) -> RobotPolicy:
    return RobotPolicy(DATASETS.get(benchmark.name, "fractal20220817_data/0.1.0"), **more)


@contextmanager
def served(
    benchmark: HarnessBenchmark = LIBERO,
    policy: RobotPolicy | None = None,
    traffic: TrafficLimits | None = None,
    calibration: RobotCalibration | None = None,
    watchers: Sequence[Watcher] = (),
    stop_above: StopAbove = GO_ON,
) -> Iterator[Any]:
    """Yields the server's address and the policy behind it."""
    policy = policy or policy_for(benchmark)
    units = published_units(policy.dataset)
    service = fake_service(
        policy,
        traffic=traffic,
        units=units,
        calibration=calibration,
        watchers=watchers,
        stop_above=stop_above,
    )
    model = VlaEvalServer(service, benchmark)
    with running(service, protocol.websocket_server(service, model)) as found:
        yield SimpleNamespace(
            url=found.url, port=found.port, policy=policy, service=service, value=found.value
        )


def message(benchmark: HarnessBenchmark, shade: int = 0, text: str = "pick it up") -> dict[str, Any]:
    """An observation in the benchmark's format, its picture of one color."""
    image = np.full((benchmark.camera.height, benchmark.camera.width, 3), shade, np.uint8)
    return {"images": {benchmark.image: image}, "task_description": text}


def answer(shade: int, text: str = "pick it up") -> np.ndarray:
    """(4, 7) what the fake policy says of such a picture."""
    return expected(Observation(np.full((1, 1, 3), shade, np.uint8), text))
