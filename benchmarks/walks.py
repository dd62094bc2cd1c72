"""Ways through the house: the files that run from record to loss, from image to action, from message to reply.

    python benchmarks/walks.py             # the counts
    python benchmarks/walks.py --files     # and the files, in the order in which they are entered

Each way is walked once before it is traced, so that only what happens every time counts.
"""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

import spatialvla
from spatialvla import Observation, Policy

PACKAGE = Path(spatialvla.__file__).parent
TESTS = Path(__file__).parents[1] / "tests"

# Not on the way of any value: definitions of data, gauges, checksums and turns, which pass things on as they are, and
# what stands in for the network's layers on some processors.
ASIDE = (
    "types.py",
    "batch.py",
    "errors.py",
    "model/config.py",
    "training/config.py",
    "data/mapping_lines.py",
)
GAUGES = (
    "common/budget.py",
    "common/files.py",
    "common/seals.py",
    "serving/engine/counters.py",
    "serving/engine/fair_threads.py",
    "serving/engine/turns.py",
    "serving/guard/inbox.py",
    "serving/guard/traffic.py",
    "serving/guard/websocket.py",
    "serving/logs.py",
    "serving/websocket/client.py",
)
STAND_INS = "model/fast/"


@dataclass
class Trace:
    """Which files of the package run while it is on, in any thread started after `install`.

    calls: (caller, callee) of calls from one file into another.
    """

    on: bool = False
    files: dict[str, None] = field(default_factory=dict)
    calls: set[tuple[str, str]] = field(default_factory=set)

    def install(self) -> None:
        threading.setprofile(self._event)
        sys.setprofile(self._event)

    def __enter__(self) -> Trace:
        self.files, self.calls, self.on = {}, set(), True
        return self

    def __exit__(self, *_: object) -> None:
        self.on = False

    def _event(self, frame: FrameType, event: str, _: object) -> None:
        callee = _inside(frame) if self.on and event == "call" else None
        if callee is None:
            return
        self.files.setdefault(callee)
        above = frame.f_back
        while above is not None and _inside(above) is None:
            above = above.f_back
        caller = None if above is None else _inside(above)
        if above is not None and caller is not None and caller != callee:
            self.calls.add((f"{caller}:{above.f_code.co_qualname}", f"{callee}:{frame.f_code.co_qualname}"))


def _inside(frame: FrameType) -> str | None:
    """The file of a frame within the package, None for others' and those that are set aside."""
    path = Path(frame.f_code.co_filename)
    if PACKAGE not in path.parents:
        return None
    name = path.relative_to(PACKAGE).as_posix()
    return None if name in (*ASIDE, *GAUGES) or name.startswith(STAND_INS) else name


def image_to_action(trace: Trace) -> None:
    """`Policy.act` with the camera's intrinsics, each chunk drafted by the last one."""
    policy = Policy.from_pretrained("nano")
    image = np.random.default_rng(0).integers(0, 255, (224, 224, 3), dtype=np.uint8)
    intrinsics = np.array([[250.0, 0, 112], [0, 250, 112], [0, 0, 1]])
    observation = Observation(image, "pick up the black bowl", intrinsics)
    policy.act(observation)
    with trace:
        policy.act(observation)


def record_to_loss(trace: Trace, dataset: Path, mapping: Path | None = None) -> None:
    """A batch of one sample as a training run draws it, and the loss of the shipped model on it."""
    from spatialvla.training.config import DatasetConfig
    from spatialvla.training.feed.datasets import open_mixture
    from spatialvla.training.feed.rank_batches import Feed
    from spatialvla.training.parallel.world import join_world
    from spatialvla.training.recipes import finetune
    from spatialvla.training.run.progress import Progress
    from spatialvla.training.start.build import build, network_config

    with tempfile.TemporaryDirectory() as folder, join_world("cpu") as world:
        config = replace(
            finetune(),
            datasets=(DatasetConfig(str(dataset), mapping=mapping),),
            policy="nano",
            out=Path(folder) / "run",
            cache=Path(folder) / "cache",
            batch_size=1,
            workers=0,
        )
        progress = Progress(config, None)
        mixture = open_mixture(config, network_config(config), world, progress)
        model, processor = build(config, mixture)
        batches = Feed(config, mixture, model, processor, world, progress).training(0)
        model.training_loss(next(batches).batch)
        with trace:
            model.training_loss(next(batches).batch)


def message_to_reply(trace: Trace) -> None:
    """A message of openpi's stock client for LIBERO, answered over a real websocket."""
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    from spatialvla.cli.main import main

    image = np.random.default_rng(0).integers(0, 255, (224, 224, 3), dtype=np.uint8)
    message = {"observation/image": image, "observation/wrist_image": image}
    message |= {"observation/state": np.zeros(8), "prompt": "pick up the black bowl"}
    failures: list[BaseException] = []
    port = _free_port()

    def ask() -> None:
        sys.setprofile(None)
        try:
            _wait_for(port)
            client = WebsocketClientPolicy("127.0.0.1", port)
            client.infer(message)
            client.infer(message)
            with trace:
                client.infer(message)
        except BaseException as error:
            failures.append(error)
        signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=ask).start()
    # The same way on every machine, with kernels or without.
    served = ["--policy", "nano", "--mapping", "libero", "--device", "cpu", "--precision", "fp32"]
    main(["serve", *served, "--port", str(port)])
    if failures:
        raise failures[0]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"The server did not answer on port {port} within {seconds:.0f} s.")


WAYS: dict[str, Callable[[Trace], None]] = {
    "image -> action": image_to_action,
    "RLDS record -> loss": lambda trace: record_to_loss(trace, TESTS / "data/rlds/bridge_orig"),
    "LeRobot episode -> loss": lambda trace: record_to_loss(
        trace, TESTS / "data/lerobot_v3", TESTS.parent / "examples/my_robot.yaml"
    ),
    "openpi message -> reply": message_to_reply,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--files", action="store_true", help="also list the files")
    parser.add_argument("--way", choices=WAYS, help="only this one")
    options: Any = parser.parse_args()
    trace = Trace()
    trace.install()
    for name, walk in WAYS.items():
        if options.way in (None, name):
            walk(trace)
            print(f"{name}: {len(trace.files)} files, {len(trace.calls)} calls from one into another")
            if options.files:
                print(*(f"    {file}" for file in trace.files), sep="\n")


if __name__ == "__main__":
    main()
