"""Graphs for the edge: the policy's own tokens, run without PyTorch, or nothing at all is written."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spatialvla import CameraImage, Observation, Policy, Processor, SpatialVLA
from spatialvla.actions.state_statistics import StateStatistics
from spatialvla.cli.main import main
from spatialvla.edge.export import export_graphs
from spatialvla.edge.graphs import Step
from spatialvla.edge.runner import EdgePolicy
from spatialvla.errors import CheckpointError, InputError, NotFiniteError
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.growth import grow

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

GOLDENS = Path(__file__).parents[1] / "goldens" / "reference" / "checkpoint"
DATASET = "tiny_robot/0.1.0"
RNG = np.random.default_rng(1)
IMAGE, WRIST = (RNG.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(2))
DEPTH = np.linspace(0.4, 1.2, 48)[:, None].repeat(64, axis=1)
K = np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])
POSE = np.array([[1.0, 0, 0, 0.5], [0, -1, 0, 0], [0, 0, -1, 0.8], [0, 0, 0, 1]])


def tiny() -> Policy:
    return Policy.from_pretrained(GOLDENS, dataset=DATASET, speculate=False)


def grown() -> Policy:
    """A wrist camera and a state of three numbers, in the robot's frame; random weights where they are new."""
    torch.manual_seed(0)
    model, processor = SpatialVLA.from_pretrained(GOLDENS), Processor.from_pretrained(GOLDENS)
    grow(model, ("wrist",), 3)
    model.config = replace(model.config, ego3d_frame="robot")
    states = {DATASET: StateStatistics(np.full(3, -1.0), np.full(3, 1.0))}
    processor = replace(
        processor, camera_names=("image", "wrist"), state_names=("x", "y", "z"), state_statistics=states
    )
    return Policy(model, processor, dataset=DATASET, speculate=False)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("edge") / "graphs"
    command = ["export", "--policy", str(GOLDENS), "--action-key", DATASET, "--to", "onnx", "--out", str(out)]
    main([*command, "--prompt-tokens", "24"])
    return out


@pytest.mark.parametrize(
    "observation",
    [
        Observation(IMAGE, "Stop"),
        Observation(IMAGE, "pick up the bowl", K),
        Observation(IMAGE, "pick up the bowl", K, DEPTH),
        Observation(WRIST, "open it", depth=np.where(DEPTH > 1, 0, DEPTH)),
    ],
)
def test_the_runner_decides_as_the_policy(exported, observation):
    (wanted,) = tiny().predict([observation])
    found = EdgePolicy.load(exported).predict(observation)
    np.testing.assert_array_equal(found.tokens, wanted.tokens)
    np.testing.assert_array_equal(found.actions, wanted.actions)


def test_the_runner_needs_no_pytorch(exported, tmp_path):
    np.save(tmp_path / "image.npy", IMAGE)
    script = f"""
import sys
for name in ("torch", "transformers"):
    sys.modules[name] = None  # an import of it fails
import numpy as np
from spatialvla.edge.runner import EdgePolicy
from spatialvla.types import Observation
policy = EdgePolicy.load({str(exported)!r})
np.save("actions.npy", policy.predict(Observation(np.load("image.npy"), "stop")).actions)
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    (wanted,) = tiny().predict([Observation(IMAGE, "stop")])
    np.testing.assert_array_equal(np.load(tmp_path / "actions.npy"), wanted.actions)


def test_weights_that_graphs_share_are_in_the_file_once(exported):
    weight = tiny().model.language_model.model.layers[0].mlp.up_proj.weight.detach().numpy()
    layouts = weight.tobytes(), weight.T.tobytes()  # of prefill and of step
    files = {path.name: path.read_bytes() for path in exported.iterdir()}
    found = {name: sum(map(data.count, layouts)) for name, data in files.items()}
    assert {name: count for name, count in found.items() if count} == {"weights.bin": 1}
    assert "weights.bin" in (exported / "SHA256SUMS").read_text()


@pytest.mark.parametrize(
    ("observation", "sentence"),
    [
        (
            Observation(IMAGE, "word " * 30),
            "the graphs have room for 24; export again with more --prompt-tokens",
        ),
        (Observation(IMAGE, " "), "A prompt is empty"),
        (Observation(IMAGE, "go <image>"), "contains a reserved token"),
        (Observation(images={}, instruction="go"), "that of image is missing"),
    ],
)
def test_what_the_graphs_do_not_take_is_said(exported, observation, sentence):
    with pytest.raises(InputError) as error:
        EdgePolicy.load(exported).predict(observation)
    assert sentence in str(error.value)


def test_a_network_that_says_nothing_is_an_error(exported):
    edge = EdgePolicy.load(exported)
    step = edge._parts["step"]
    edge._parts = {**edge._parts, "step": lambda arrays: step({**arrays, "keys": arrays["keys"] * np.nan})}
    with pytest.raises(NotFiniteError, match="NaN or infinity"):
        edge.predict(Observation(IMAGE, "stop"))


def test_graphs_that_decide_otherwise_are_not_written(tmp_path, monkeypatch):
    forward = Step.forward

    def other(self, token, index, attention_mask, keys, values):
        chosen, key, value = forward(self, token, index, attention_mask, keys, values)
        return chosen, key * 1.5 + 1, value

    monkeypatch.setattr(Step, "forward", other)
    with pytest.raises(
        CheckpointError, match=r"decide otherwise than the policy \(\d+ of \d+ tokens differ\)"
    ):
        export_graphs(tiny(), tmp_path / "graphs", "torch-export")
    assert not list(tmp_path.iterdir())


def test_exports_that_cannot_be_are_refused(tmp_path, exported, capsys):
    command = ["export", "--policy", str(GOLDENS), "--action-key", DATASET, "--out", str(tmp_path / "x")]
    with pytest.raises(SystemExit):
        main([*command, "--to", "onnx", "--dtype", "bf16"])
    assert "writes graphs in fp32" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command[:-1], str(exported), "--to", "onnx"])
    assert "is not empty" in capsys.readouterr().err
    half = Policy.from_pretrained(GOLDENS, dataset=DATASET, dtype=torch.bfloat16)
    with pytest.raises(InputError, match="in float32"):
        export_graphs(half, tmp_path / "x", "onnx")
    with pytest.raises(InputError, match="at least 8"):
        export_graphs(tiny(), tmp_path / "x", "onnx", prompt_tokens=2)
    assert not (tmp_path / "x").exists()
    settings = json.loads((exported / "edge.json").read_text())
    (tmp_path / "edge.json").write_text(json.dumps(settings | {"schema": "other"}))
    with pytest.raises(CheckpointError, match="export again"):
        EdgePolicy.load(tmp_path)


@pytest.mark.slow
def test_several_cameras_a_state_and_the_robots_frame_are_exported_too(tmp_path):
    policy = grown()
    assert isinstance(policy.model.config, SpatialVLAConfig)
    assert policy.needs_extrinsics
    wrist = CameraImage(WRIST, K, DEPTH, POSE, mirrored=True)
    observation = Observation(
        IMAGE, "stop", K, extrinsics=POSE, images={"wrist": wrist}, state=np.array([0.1, -0.3, 0.7])
    )
    (wanted,) = policy.predict([observation])
    assert export_graphs(policy, tmp_path / "graphs", "onnx").chunks == 6
    edge = EdgePolicy.load(tmp_path / "graphs")
    np.testing.assert_array_equal(edge.predict(observation).actions, wanted.actions)
    for lacking, sentence in (
        (replace(observation, state=None), "take the arm's state"),
        (replace(observation, images={}), "that of wrist is missing"),
        (
            replace(observation, images={"wrist": replace(wrist, intrinsics=None)}),
            "Give the intrinsics of .* 'wrist'",
        ),
        (replace(observation, extrinsics=None), "give extrinsics of the camera 'image'"),
    ):
        with pytest.raises(InputError, match=sentence):
            edge.predict(lacking)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "torch-export"])
def test_nano_is_exported_with_its_own_tokens(tmp_path, kind):
    policy = Policy.from_pretrained("nano", speculate=False)
    assert export_graphs(policy, tmp_path / "graphs", kind).tokens == 72
