"""LeRobot's unmodified robot client with a simulated arm. Runs in LeRobot's own environment, not in ours.

python lerobot_robot.py play ADDRESS STEPS THRESHOLD      prints what the arm was told, as JSON python
lerobot_robot.py record FOLDER                     writes the client's requests, the goldens of the tests
"""

import json
import sys
import threading
import time
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
from lerobot.async_inference.configs import RobotClientConfig
from lerobot.async_inference.robot_client import RobotClient
from lerobot.robots import Robot, RobotConfig

STATE = ("x", "y", "z", "roll", "pitch", "yaw")
ACTION = ("delta_x", "delta_y", "delta_z", "delta_roll", "delta_pitch", "delta_yaw", "gripper")


@RobotConfig.register_subclass("simulated_arm")
@dataclass
class SimulatedArmConfig(RobotConfig):
    """An arm that is told how its gripper moves."""


class SimulatedArm(Robot):
    """Its camera shows how many actions it has executed."""

    config_class = SimulatedArmConfig
    name = "simulated_arm"
    is_connected = is_calibrated = True

    def __init__(self, config):
        super().__init__(config)
        self.pose = np.zeros(6)
        self.told = []

    @property
    def observation_features(self):
        return {**dict.fromkeys(STATE, float), "front": (16, 16, 3)}

    @property
    def action_features(self):
        return dict.fromkeys(ACTION, float)

    def get_observation(self):
        image = np.full((16, 16, 3), len(self.told), np.uint8)
        return {**dict(zip(STATE, self.pose.tolist(), strict=True)), "front": image}

    def send_action(self, action):
        self.told.append([action[name] for name in ACTION])
        self.pose += self.told[-1][:6]
        return action

    def connect(self, calibrate=True):
        pass

    def disconnect(self):
        pass

    def calibrate(self):
        pass

    def configure(self):
        pass


def play(address, steps, threshold):
    """What the arm is told in its first `steps` actions."""
    config = RobotClientConfig(
        policy_type="act",
        pretrained_name_or_path="nano",
        robot=SimulatedArmConfig(),
        actions_per_chunk=4,
        task="pick up the bowl",
        server_address=address,
        fps=20,
        chunk_size_threshold=threshold,
        aggregate_fn_name="latest_only",
    )
    client = RobotClient(config)
    started = client.start()
    if started:
        receiver = threading.Thread(target=client.receive_actions, daemon=True)
        control = threading.Thread(target=client.control_loop, args=(config.task,), daemon=True)
        receiver.start()
        control.start()
        deadline = time.monotonic() + 20
        while len(client.robot.told) < steps and time.monotonic() < deadline:
            time.sleep(0.01)
        client.shutdown_event.set()
        control.join(5)
        receiver.join(5)
    client.stop()
    return {"started": started, "told": client.robot.told[:steps]}


def record(folder):
    """Answers the client with nothing, and keeps the bytes of its calls."""
    seen = {}

    def kept(name, request):
        parts = list(request) if not isinstance(request, bytes) else [request]
        for number, part in enumerate(parts):
            path = folder / f"{name}_{number}.bin"
            if part and name not in seen:
                path.write_bytes(part)
        seen[name] = len(parts)
        time.sleep(0.2 if name == "GetActions" else 0)
        return b""

    def handler(name, kind):
        return kind(lambda request, _: kept(name, request))

    unary, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_unary_rpc_method_handler
    calls = {"Ready": unary, "SendPolicyInstructions": unary, "GetActions": unary, "SendObservations": stream}
    server = grpc.server(futures.ThreadPoolExecutor(4))
    handlers = {name: handler(name, kind) for name, kind in calls.items()}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("transport.AsyncInference", handlers),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    threading.Thread(target=play, args=(f"127.0.0.1:{port}", 1, 0.0), daemon=True).start()
    deadline = time.monotonic() + 20
    while len(seen) < 4 and time.monotonic() < deadline:
        time.sleep(0.1)
    server.stop(0)
    return seen


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["play", address, steps, threshold]:
            print(json.dumps(play(address, int(steps), float(threshold))))
        case ["record", folder]:
            print(json.dumps(record(Path(folder))))
        case _:
            sys.exit(__doc__)
