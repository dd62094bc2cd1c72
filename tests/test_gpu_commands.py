"""The commands for a GPU run through without one, on the small model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spatialvla import Policy

GPU = Path(__file__).parent.parent / "benchmarks/gpu"
RUN = GPU / "run.sh"


@pytest.mark.slow
def test_all_parts_run_on_a_cpu(tmp_path):
    ran = subprocess.run(
        ["bash", RUN, tmp_path, "3000", "cpu"], capture_output=True, text=True, check=False, timeout=3000
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "left out" not in ran.stdout
    for part in ("alone", "beside", "int8", "batch"):
        (case,) = json.loads((tmp_path / part / "nano.json").read_text())["batches"]
        assert case["measured"]["ours"]["wall"]
        assert (case["same_tokens"] is not None) == (part == "beside")
    drafts = json.loads((tmp_path / "alone/nano.json").read_text())["batches"][0]["passes_with_drafts"]
    assert 1 <= drafts <= 12
    assert "training step" in (tmp_path / "training.log").read_text()


@pytest.mark.slow
@pytest.mark.sim
def test_demonstrations_are_recorded_and_learned_from_in_a_given_time(tmp_path):
    options = (
        "--seconds 240 --record 0.35 --suites libero_spatial --tasks 3 --processes 1 --workers 0 --device cpu"
    )
    options += " --drivers expert nano --policies nano --batch-size 16"
    command = [sys.executable, GPU / "in_time.py", "--out", tmp_path / "run", *options.split()]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1500)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "libero_spatial/3: " in ran.stdout
    assert " of the policy, " in ran.stdout
    learned, shipped = (Policy.from_pretrained(path) for path in (tmp_path / "run" / "nano", "nano"))
    assert list(learned.processor.statistics)[-1] == "libero_spatial/3"
    after, before = learned.model.state_dict(), shipped.model.state_dict()
    same = {name: torch.equal(after[name], tensor) for name, tensor in before.items()}
    assert all(same[name] for name in before if name.startswith("vision_zoe_model"))
    assert not any(same[name] for name in before if name.endswith("mlp.up_proj.weight"))
