"""A mapping's limits hold whatever protocol the robot speaks: the same file, asked through each protocol's server."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import grpc
import numpy as np
import pytest
import torch
from lerobot_stand_in import TimedObservation, lerobot
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from vla_eval.connection import Connection

from spatialvla.cli.main import main
from spatialvla.serving.lerobot.uploads import END
from spatialvla.serving.lerobot.wire import Actions, ObservationPart

__all__ = ["lerobot"]  # a fixture
pytestmark = pytest.mark.usefixtures("lerobot")

IMAGE = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
TEXT = "pick up the black bowl and place it on the plate"
LONGEST = 0.01


def through_openpi(port: int) -> np.ndarray:
    return WebsocketClientPolicy("127.0.0.1", port).infer({"front": IMAGE, "task": TEXT})["actions"][0]


def through_lerobot(port: int) -> np.ndarray:
    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    data = pickle.dumps(TimedObservation(1.0, 0, {"front": IMAGE, "task": TEXT}, True))
    part = ObservationPart(transfer_state=END, data=data).SerializeToString()
    channel.stream_unary("/transport.AsyncInference/SendObservations")(iter([part]), timeout=20)
    reply = channel.unary_unary("/transport.AsyncInference/GetActions")(b"", timeout=20)
    channel.close()
    return pickle.loads(Actions.FromString(reply).data)[0].action.numpy()


def through_vla_eval(port: int) -> np.ndarray:
    async def play() -> np.ndarray:
        async with Connection(f"ws://127.0.0.1:{port}") as connection:
            await connection.start_episode({"task": {"suite": "libero_spatial"}})
            seen = {"images": {"agentview": IMAGE}, "task_description": TEXT}
            return np.asarray((await connection.act(seen))["actions"])

    return anyio.run(play)


def wait_for(port: int, ended: threading.Event) -> None:
    """Until something listens on the port. Raises RuntimeError where the server has ended before."""
    while not ended.wait(0.1):
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
    raise RuntimeError("the server has not started")


def served(protocol: str, ask: Callable[[int], np.ndarray], *options: str) -> np.ndarray:
    """The first action of `spatialvla serve --protocol …` for one message."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["serve", "--policy", "nano", "--device", "cpu", "--protocol", protocol, "--port", str(port)]
    command += ["--batching.max-batch", "1", "--threads", str(torch.get_num_threads())]
    ended = threading.Event()

    def ask_and_stop() -> np.ndarray:
        wait_for(port, ended)
        try:
            return ask(port)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    with ThreadPoolExecutor() as threads:
        asked = threads.submit(ask_and_stop)
        try:
            main([*command, *options])
        finally:
            ended.set()
        return asked.result(10)


@pytest.mark.parametrize(
    ("protocol", "ask"),
    [("openpi", through_openpi), ("lerobot", through_lerobot), ("vla-eval", through_vla_eval)],
)
def test_the_limits_of_a_mapping_hold(
    protocol: str, ask: Callable[[int], np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "careful.yaml").write_text(f"translation: {LONGEST}\nrotation: {LONGEST}\n")
    mapping = tmp_path / "robot.yaml"
    mapping.write_text("image: front\nprompt: task\n")
    free = served(protocol, ask, "--mapping", str(mapping))
    assert "Limits: NONE" in capsys.readouterr().err
    mapping.write_text("image: front\nprompt: task\nlimits: careful.yaml\n")
    limited = served(protocol, ask, "--mapping", str(mapping))
    assert "Limits: at most 0.01 m a step, 0.01 rad a step" in capsys.readouterr().err
    # The limits are in meters and radians, nano's actions in units of LIBERO's controller.
    for part, unit in ((slice(0, 3), 0.05), (slice(3, 6), 0.5)):
        length = np.linalg.norm(free[part]) * unit
        assert length > LONGEST, "the policy asks for more than the limits allow"
        assert np.allclose(limited[part], free[part] * LONGEST / length, atol=1e-6)
