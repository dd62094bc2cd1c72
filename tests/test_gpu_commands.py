"""The commands for a GPU run through without one, on the small model."""

import json
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parent.parent / "benchmarks/gpu/run.sh"


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
