"""The presets have the sizes they claim, and the large one fits the memory it should."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from spatialvla import CameraImage, Observation, Policy, SpatialVLA
from spatialvla.errors import InputError
from spatialvla.model.presets import preset

BUILD_AND_PREDICT = """
import resource, torch
from spatialvla import Batch, SpatialVLA, SpatialVLAConfig
torch.manual_seed(0)
config = preset("4b")
model = SpatialVLA.from_config(config, dtype=torch.bfloat16).eval()
parameters = sum(p.numel() for p in model.parameters())
ids = torch.full((1, config.image_token_num + 8), 1000)
ids[:, : config.image_token_num] = config.image_token_index
intrinsics = torch.tensor([[[218.0, 0, 112], [0, 291, 112], [0, 0, 1]]])
batch = Batch(ids, torch.ones_like(ids, dtype=torch.bool), torch.rand(1, 3, 224, 224), intrinsics)
tokens = model.generate(batch)[0].tolist()
for slot, token in enumerate(tokens):
    rows = config.grammar[slot % 3]
    assert rows.start <= token < rows.stop
print(parameters, len(tokens), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_the_published_size_predicts_in_bfloat16_within_12_gb():
    run = subprocess.run([sys.executable, "-c", BUILD_AND_PREDICT], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    parameters, tokens, peak = map(int, run.stdout.split())
    assert parameters == pytest.approx(4.03e9, rel=0.01)
    assert tokens == 12
    assert peak < 12e9


def test_nano_is_small_and_shipped():
    parameters = sum(p.numel() for p in SpatialVLA(preset("nano")).parameters())
    assert 3e6 < parameters < 12e6
    policy = Policy.from_pretrained("nano")
    chunk = policy.act(Observation(np.zeros((128, 128, 3), np.uint8), "pick up the black bowl"))
    assert chunk.actions.shape == (4, 7)
    assert np.isfinite(chunk.actions).all()


def test_nano_wrist_looks_through_the_hands_camera_and_acts_without_it():
    policy = Policy.from_pretrained("nano-wrist")
    assert policy.camera_names == ("image", "wrist")
    assert policy.needs_extrinsics
    rng = np.random.default_rng(0)
    image, noise = rng.integers(0, 256, (2, 128, 128, 3), np.uint8)
    black, white = np.zeros_like(image), np.full_like(image, 255)
    half = np.where(np.arange(128)[:, None, None] < 64, black, white)
    hand = np.diag([1.0, -1.0, -1.0, 1.0])

    def acts(wrist: np.ndarray | None, state: np.ndarray | None = None) -> np.ndarray:
        others = {} if wrist is None else {"wrist": CameraImage(wrist, extrinsics=hand)}
        told = "pick up the milk and place it in the basket"
        seen = Observation(image, told, extrinsics=np.eye(4), images=others, state=state)
        actions = policy.act(seen).actions
        assert actions.shape == (4, 7)
        assert np.isfinite(actions).all()
        return actions

    assert len(np.unique([acts(wrist) for wrist in (noise, black, white, half, half[::-1])], axis=0)) > 1
    assert any(not np.array_equal(acts(wrist), acts(None)) for wrist in (noise, black, white, half))
    states = [np.array([x, 0, z, 2.2, 2.2, 0, 0.04, -0.04]) for x in (-0.3, 0.1) for z in (0.1, 0.9, 1.2)]
    assert len(np.unique([acts(noise, state) for state in states], axis=0)) > 1


def test_random_weights_take_the_dtype_and_leave_the_default_alone():
    model = SpatialVLA.from_config(preset("nano"), dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32
    assert model.language_model.model.embed_tokens.weight.detach().float().std() == pytest.approx(
        0.02, rel=0.1
    )


def test_unknown_presets_name_the_known():
    with pytest.raises(InputError, match="4b, nano"):
        preset("7b")
