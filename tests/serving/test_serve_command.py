"""`spatialvla serve` as a process of its own, with the shipped model and openpi's client."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from websockets.exceptions import ConnectionClosed

from spatialvla import Observation, Policy, Processor
from spatialvla.actions.units import LIBERO
from spatialvla.cli.main import main
from spatialvla.errors import InputError
from spatialvla.model.folders import resolve_folder
from spatialvla.model.spatialvla import SpatialVLA

CHECKPOINT = Path(__file__).parents[1] / "goldens" / "reference" / "checkpoint"
IMAGE = np.random.default_rng(0).integers(0, 255, (224, 224, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[subprocess.Popen, int, int]]:
    """The process, its port, and that of its page."""
    command = [sys.executable, "-m", "spatialvla", "serve", "--policy", "nano", "--mapping", "libero"]
    command += ["--pad-chunk", "hold", "--port", "0", "--device", "cpu"]
    command += ["--log-format", "json", "--dashboard", "--dashboard-port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        ready = process.stdout.readline() + process.stdout.readline()
        found = re.fullmatch(
            r"Dashboard on http://127\.0\.0\.1:(\d+)\nReady on ws://127\.0\.0\.1:(\d+)\n", ready
        )
        assert found, ready + (process.stderr.read() if process.poll() is not None else "")
        yield process, int(found[2]), int(found[1])
    finally:
        process.kill()
        process.wait()


def message(image: np.ndarray) -> dict:
    return {
        "observation/image": image,
        "observation/wrist_image": image,
        "observation/state": np.zeros(8),
        "prompt": "pick up the black bowl on the stove and place it on the plate",
    }


def test_openpis_client_gets_what_the_policy_says(server):
    _, port, _ = server
    client = WebsocketClientPolicy("127.0.0.1", port)
    result = client.infer(message(IMAGE))
    (chunk,) = Policy.from_pretrained("nano").predict([Observation(IMAGE, message(IMAGE)["prompt"])])
    assert result["actions"].shape == (5, 7), "LIBERO's stock client wants five steps"
    assert np.allclose(result["actions"][:4, :6], chunk.actions[:, :6])
    assert np.allclose(result["actions"][:4, 6], 1 - 2 * chunk.actions[:, 6])


def test_the_page_shows_what_the_client_asked(server):
    _, port, page = server

    def shown(path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{page}{path}") as answer:
            return answer.read()

    assert b"actions 1 = 0.05 m, 0.5 rad" in shown("/")
    shown("/live")
    WebsocketClientPolicy("127.0.0.1", port).infer(message(IMAGE))
    live = shown("/live").decode()
    (robot,) = re.findall(r'id="robot-(\d+)"', live)[-1:]
    assert message(IMAGE)["prompt"] in live
    assert "depth, estimated" in live, "nano's own, while somebody watches"
    for part in ("image", "depth"):
        assert shown(f"/robot/{robot}/0/{part}.jpg").startswith(b"\xff\xd8")


def test_sigterm_answers_what_is_under_way_and_ends(server):
    process, port, _ = server
    idle, busy = WebsocketClientPolicy("127.0.0.1", port), WebsocketClientPolicy("127.0.0.1", port)
    results: list[dict] = []
    codes: list[int | None] = []

    def ask() -> None:
        try:
            while True:
                results.append(busy.infer(message(IMAGE)))
        except ConnectionClosed as closed:
            codes.append(closed.rcvd.code if closed.rcvd else None)

    thread = threading.Thread(target=ask)
    thread.start()
    while not results:
        pass
    process.send_signal(signal.SIGTERM)
    thread.join(30)
    assert process.wait(30) == 0
    assert codes == [1001]
    assert all(result["actions"].shape == (5, 7) for result in results)
    told = process.stderr.read()
    assert "Traceback" not in told
    entries = [json.loads(line) for line in told.splitlines() if not line.startswith("Limits: ")]
    assert {entry["event"] for entry in entries} == {"connected", "gone"}
    assert max(entry.get("answers", 0) for entry in entries) == len(results)
    with pytest.raises(ConnectionClosed):
        idle.infer(message(IMAGE))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--host", "0.0.0.0"], "whoever reaches it moves the robot"),
        (["--dashboard", "--dashboard-host", "0.0.0.0"], "0.0.0.0 can be reached from other machines"),
        (["--dashboard", "--dashboard-port", "70000"], "--dashboard-port is 70000"),
        (["--mapping", "aloha"], "nor a shipped mapping called 'aloha'; choose from"),
        (["--limits", "fetch"], "nor a shipped set of limits called 'fetch'"),
        (["--limits", ""], "nor a shipped set of limits called ''"),
        (["--calibration", "absent.yaml"], "absent.yaml does not exist"),
        (["--pad-chunk", "hold", "--execution.mode", "ensemble"], "Only whole chunks are padded"),
        (["--pad-chunk", "hold"], "say --pad-to"),
        (["--protocol", "vla-eval", "--pad-chunk", "hold"], "for openpi clients"),
        (["--execution.mode", "async"], "asks for whole chunks"),
        (["--pad-to", "5"], "add --pad-chunk hold"),
        (["--protocol", "vla-eval", "--mapping", "simpler_widowx"], "say --benchmark simpler_widowx"),
        (["--protocol", "vla-eval", "--benchmark", "aloha"], "no benchmark 'aloha'"),
        (["--benchmark", "libero"], "for vla-eval's clients"),
        (["--traffic.rate", "0"], "rate must be positive"),
        (["--batching.max-batch", "0"], "max_batch must be at least 1"),
        (["--threads", "0"], "--threads must be at least 1, not 0"),
        (
            ["--metrics-port", "8765", "--port", "8765"],
            "--metrics-port 8765 cannot be listened on at 127.0.0.1",
        ),
    ],
)
def test_options_that_do_not_fit_are_one_line(options, sentence, capsys, monkeypatch):
    monkeypatch.delenv("SPATIALVLA_API_KEY", raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--policy", "no/such/checkpoint", *options])
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


def test_a_port_that_is_taken_is_refused_before_the_policy_is_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for option in ("--port", "--metrics-port", "--dashboard-port"):
            with pytest.raises(SystemExit) as ended:
                main(["serve", "--policy", "no/such/checkpoint", "--port", "0", "--dashboard", option, port])
            assert ended.value.code == 2
            assert f"{option} {port} cannot be listened on at 127.0.0.1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--dataset", "absent"], "knows no dataset 'absent'"),
        (["--stop-above.mm", "5"], "add --uncertainty"),
        (["--limits", "franka"], "other actions than the policy's: meters a unit 1, not 0.05"),
        (["--policy", "unsaid"], "Nobody says the meters, radians, rotation, frame"),
        (["--policy", "nano-wrist", "--mapping", "lerobot"], "has to know where its cameras stand"),
        (["--policy", "nano-wrist", "--protocol", "lerobot"], "has to know where its cameras stand"),
        (
            ["--policy", "nano-wrist", "--protocol", "vla-eval"],
            "harness does not tell where the camera stands",
        ),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_before_its_weights_are_loaded(
    options, sentence, capsys, tmp_path, monkeypatch
):
    def load(*arguments, **options):
        raise AssertionError("the weights are loaded")

    monkeypatch.chdir(tmp_path)
    changed_nano("unsaid", None)
    monkeypatch.setattr(SpatialVLA, "from_pretrained", load)
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--policy", "nano", "--port", "0", *options])
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("protocol", ["lerobot", "vla-eval"])
def test_keys_that_a_client_cannot_send_are_refused_before_weights_are_loaded(protocol, capsys, monkeypatch):
    monkeypatch.setenv("SPATIALVLA_API_KEY", "k" * 32)
    monkeypatch.setattr(SpatialVLA, "from_pretrained", lambda *_, **__: pytest.fail("the weights are loaded"))
    with pytest.raises(SystemExit):
        main(["serve", "--policy", "nano", "--port", "0", "--protocol", protocol])
    assert "client knows neither API keys nor TLS" in capsys.readouterr().err


def test_the_processor_is_read_once(monkeypatch):
    """The published one's tokenizer alone takes seconds."""
    read, from_pretrained = [], Processor.from_pretrained

    def counted(*arguments, **options):
        read.append(arguments)
        return from_pretrained(*arguments, **options)

    def load(*arguments, **options):
        raise InputError("The weights are loaded.")

    monkeypatch.setattr(Processor, "from_pretrained", counted)
    monkeypatch.setattr(SpatialVLA, "from_pretrained", load)
    with pytest.raises(SystemExit):
        main(["serve", "--policy", "nano", "--port", "0", "--device", "cpu"])
    assert len(read) == 1


def changed_nano(folder: str, units: dict | None) -> None:
    """nano in a folder, with something else said of its units."""
    shutil.copytree(resolve_folder("nano"), folder, ignore=shutil.ignore_patterns("SHA256SUMS"))
    file = Path(folder) / "processor_config.json"
    said = {"action_units": {"libero_spatial": units}}
    file.write_text(json.dumps(json.loads(file.read_text()) | said))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--policy", "unsaid"], "Nobody says the meters, radians, rotation, frame"),
        (["--policy", "unsaid", "--protocol", "lerobot"], "or say --unknown-units"),
        (["--policy", "unsaid", "--protocol", "vla-eval"], "or say --unknown-units"),
        (["--policy", "unsaid", "--limits", "lengths.yaml"], "Nobody says the rotation, frame"),
        (
            ["--policy", "unsaid", "--limits", "metric.yaml"],
            "neither they nor the checkpoint say what 1 in an",
        ),
        (
            ["--policy", "reversed"],
            "other actions than the policy's: gripper closed and open 1 and 0, not 0 and 1",
        ),
        (
            ["--policy", str(CHECKPOINT), "--dataset", "tiny_robot/0.1.0"],
            "on grippers from -0.0590457 to 0.05",
        ),
        (
            ["--policy", "nano", "--limits", "franka"],
            "other actions than the policy's: meters a unit 1, not 0.05",
        ),
        (
            ["--policy", "nano", "--mapping", "bridge", "--limits", "libero"],
            "mapping 'bridge' takes other actions",
        ),
        (["--policy", "nano", "--mapping", "droid", "--limits", "libero"], "meters a unit 0.05, not 0.075"),
        (["--policy", "tool", "--limits", "boxed.yaml"], "the actions' frame is gripper"),
        (["--policy", "nano", "--limits", "boxed.yaml", "--mapping", "blind.yaml"], "add state and position"),
        (["--policy", "nano", "--limits", "boxed.yaml", "--protocol", "lerobot"], "add state and position"),
        (
            ["--policy", "nano", "--limits", "boxed.yaml", "--protocol", "vla-eval"],
            "no workspace can be kept",
        ),
        (
            ["--policy", "nano", "--protocol", "vla-eval", "--benchmark", "simpler_widowx"],
            "simpler_widowx takes other actions than the policy's",
        ),
        (["--policy", "nano", "--stop-above.mm", "5"], "add --uncertainty"),
        (
            ["--policy", "unsaid", "--uncertainty", "--stop-above.mm", "5", "--unknown-units"],
            "use --stop-above.bits",
        ),
    ],
)
def test_no_robot_is_moved_in_units_or_limits_that_nobody_can_keep(
    options, sentence, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "metric.yaml").write_text("translation: 0.02\n")
    (tmp_path / "lengths.yaml").write_text("meters_per_unit: 1\nradians_per_unit: 1\n")
    changed_nano("unsaid", None)
    monkeypatch.setattr(SpatialVLA, "from_pretrained", lambda *_, **__: pytest.fail("the weights are loaded"))
    changed_nano("reversed", vars(LIBERO) | {"gripper": [1, 0]})
    changed_nano("tool", vars(LIBERO) | {"frame": "gripper", "gripper": None})
    (tmp_path / "boxed.yaml").write_text("workspace: {low: [0, 0, 0], high: [1, 1, 1]}\n")
    (tmp_path / "blind.yaml").write_text("image: image\nprompt: prompt\n")
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--device", "cpu", "--port", "0", *options])
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err
