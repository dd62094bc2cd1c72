"""`spatialvla export --precision int4`: calibrated or rounded, the same each time, loaded by --policy."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from spatialvla import SpatialVLA
from spatialvla.cli.main import main
from spatialvla.cli.policy_options import PolicyOptions
from spatialvla.model.quantization_entry import Quantization

TESTS = Path(__file__).parents[1]
CHECKPOINT = TESTS / "goldens" / "reference" / "checkpoint"
BRIDGE = TESTS / "data" / "rlds" / "bridge_orig"
EXPORT = ["export", "--policy", str(CHECKPOINT), "--precision", "int4"]


def test_calibrated_export(tmp_path):
    options = ["--dataset", str(BRIDGE), "--samples", "8"]
    for name in ("once", "again"):
        main([*EXPORT, *options, "--out", str(tmp_path / name)])
    main([*EXPORT, "--out", str(tmp_path / "rounded")])
    once, again, rounded = (
        load_file(tmp_path / n / "model.safetensors") for n in ("once", "again", "rounded")
    )
    assert all((once[name] == again[name]).all() for name in once)
    numbers = [name for name in once if name.endswith(".numbers")]
    assert numbers
    assert all((once[name] != rounded[name]).any() for name in numbers)
    for precision in ("auto", "int4"):
        policy = PolicyOptions(
            str(tmp_path / "once"), dataset="bridge_orig/1.0.0", device="cpu", precision=precision
        )
        assert str(policy.load().model.dtype) == "torch.bfloat16"


def test_towers_and_text(tmp_path):
    main([*EXPORT, "--towers", "--text-head", "--dtype", "fp32", "--out", str(tmp_path)])
    model = SpatialVLA.from_pretrained(tmp_path)
    assert model.config.quantization == Quantization(towers=True, text_head=True)
    assert len(model.language_model.lm_head.weight) == model.config.text.vocab_size
    assert any(
        name.startswith("vision_zoe_model") and name.endswith("numbers") for name in model.state_dict()
    )


def test_what_is_for_4_bits_alone(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["export", "--policy", str(CHECKPOINT), "--towers", "--out", str(tmp_path)])
    assert "add --precision int4" in capsys.readouterr().err
