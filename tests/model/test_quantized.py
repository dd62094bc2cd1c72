"""Checkpoints in 4 bits: quantized in memory, saved and loaded, the same; and what does not go with them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from spatialvla import Policy, Processor, SpatialVLA
from spatialvla.errors import CheckpointError, InputError
from spatialvla.kernels.library import available
from spatialvla.model.fast.options import Optimization
from spatialvla.model.folders import stored_dtype
from spatialvla.model.lora import adapter_parameters, add_lora, save_adapter
from spatialvla.model.lora_options import LoraOptions
from spatialvla.model.quantization.calibration import quantize_decoder
from spatialvla.model.quantization.correction import corrected
from spatialvla.model.quantization.linear import FourBitLinear
from spatialvla.model.quantization.network import quantize, widen
from spatialvla.model.quantization.rounding import rounded
from spatialvla.model.quantization_entry import Quantization

REFERENCE = Path(__file__).parent.parent / "goldens" / "reference"
CHECKPOINT = REFERENCE / "checkpoint"
IMAGES = [Image.open(path).convert("RGB") for path in sorted((REFERENCE / "images").glob("*.png"))]
KEY = "bridge_orig/1.0.0"
PROMPTS = ["open the drawer", "put the red block on the plate and then close the microwave door", "stop"]

processor = Processor.from_pretrained(CHECKPOINT)


def a_model() -> SpatialVLA:
    return SpatialVLA.from_pretrained(CHECKPOINT, dtype="bfloat16")


def a_batch(labels: bool = False):
    images = (IMAGES * 3)[:3]
    if not labels:
        return processor(images, PROMPTS)
    actions = np.random.default_rng(0).normal(0, 0.01, (3, processor.action_chunk_size, 7))
    return processor(images, PROMPTS, KEY, actions=actions)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A quantized checkpoint with its processor."""
    return write(tmp_path_factory.mktemp("four_bits"), Quantization())


def write(folder: Path, options: Quantization) -> Path:
    model = a_model()
    quantize(model, options)
    processor.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


WAYS = [None, Optimization(), Optimization(weights="int4"), Optimization(weights="int4", activations="int8")]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("options", [Quantization(), Quantization(towers=True, text_head=True)])
def test_what_is_loaded_acts_as_what_was_quantized_in_memory(tmp_path, way, options):
    if way is not None and way.activations and not available():
        pytest.skip("needs AVX-512 with BF16 and VNNI, and a C++ compiler")
    here, loaded = a_model(), SpatialVLA.from_pretrained(write(tmp_path, options), dtype="bfloat16")
    quantize(here, options)
    assert loaded.config.quantization == options
    states = [model.state_dict() for model in (here, loaded)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    if way is not None:
        here, loaded = here.optimize(way), loaded.optimize(way)
        assert loaded.optimization.weights == "int4"
    batch = a_batch()
    with torch.no_grad():
        assert torch.equal(here.embed(batch), loaded.embed(batch))
    assert torch.equal(here.decode(batch).ids, loaded.decode(batch).ids)


def test_half_of_8_bits_is_saved_and_text_is_forgotten(saved):
    tensors = load_file(saved / "model.safetensors")
    whole = load_file(CHECKPOINT / "model.safetensors")
    name = "language_model.model.layers.0.mlp.gate_proj"
    four_bits = tensors[f"{name}.numbers"].nbytes + tensors[f"{name}.scales"].nbytes
    N, K = whole[f"{name}.weight"].shape
    assert four_bits == N * -(-K // 128) * 68
    config = SpatialVLA.from_pretrained(saved).config
    assert len(tensors["language_model.lm_head.weight"]) == config.spatial_token_num
    policy = Policy.from_pretrained(saved, dtype="bfloat16", dataset=KEY)
    with pytest.raises(InputError, match="actions only"):
        policy.model.generate(a_batch(), constrained=False)
    assert stored_dtype(saved) == torch.bfloat16


def test_saved_again_it_stays_the_same(saved, tmp_path):
    SpatialVLA.from_pretrained(saved, dtype="bfloat16").save_pretrained(tmp_path)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / name).read_bytes() == (saved / name).read_bytes()


def test_what_does_not_go_with_4_bits(saved):
    model = SpatialVLA.from_pretrained(saved)
    with pytest.raises(InputError, match="cannot be trained"):
        model.train()
    with pytest.raises(InputError, match="already"):
        quantize(model, Quantization())
    with pytest.raises(InputError, match="in 4 bits"):
        model.optimize(Optimization(weights="int8"))


def test_adapters_want_a_base_that_can_end_a_chunk(saved, tmp_path):
    pytest.importorskip("peft")
    model = SpatialVLA.from_pretrained(CHECKPOINT)
    add_lora(model, CHECKPOINT, LoraOptions(rank=2))
    save_adapter(model, tmp_path)
    with pytest.raises(CheckpointError, match="again with --text-head"):
        SpatialVLA.from_pretrained(tmp_path, base=saved)


def trained_adapter(base: Path) -> SpatialVLA:
    """A network in 4 bits whose adapter does something."""
    pytest.importorskip("peft")
    model = SpatialVLA.from_pretrained(base)
    torch.manual_seed(0)
    add_lora(model, base, LoraOptions(rank=2))
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.train()


@pytest.mark.parametrize("towers", [False, True])
def test_adapters_on_4_bits_learn_as_on_the_same_weights_in_full(tmp_path, towers):
    base, batch = write(tmp_path, Quantization(towers=towers, text_head=True)), a_batch(labels=True)
    four_bits, full = trained_adapter(base), trained_adapter(base)
    widen(full)
    assert not any(isinstance(part, FourBitLinear) for part in full.modules())
    losses = [model.training_loss(batch).loss for model in (four_bits, full)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    gradients = [[p.grad for p in adapter_parameters(model).values()] for model in (four_bits, full)]
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])
    assert all(map(torch.equal, *gradients))


def test_an_adapter_on_4_bits_is_saved_alone_and_loaded_merged(tmp_path):
    base, batch = write(tmp_path / "base", Quantization(text_head=True)), a_batch(labels=True)
    model = trained_adapter(base)
    save_adapter(model, tmp_path / "adapter")
    assert (tmp_path / "adapter/adapter_model.safetensors").stat().st_size < 0.2 * size_of(base)
    merged = SpatialVLA.from_pretrained(tmp_path / "adapter")
    assert merged.config.quantization is None
    with torch.no_grad():
        logits = [network.training_loss(batch).logits for network in (merged, model)]
    torch.testing.assert_close(*logits, atol=1e-3, rtol=1e-3)
    merged.save_pretrained(tmp_path / "merged")
    again = SpatialVLA.from_pretrained(tmp_path / "merged")
    assert all(map(torch.equal, merged.state_dict().values(), again.state_dict().values()))


def size_of(folder: Path) -> int:
    return (folder / "model.safetensors").stat().st_size


def test_the_gradient_keeps_the_weight_in_4_bits():
    layer = FourBitLinear(rounded(torch.randn(96, 300)), 300, torch.randn(96))
    x = torch.randn(5, 300, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.dtype) or t, lambda t: t):
        y = layer(x)
    y.sum().backward()
    assert set(kept) == {torch.uint8, torch.int32}
    assert torch.equal(x.grad, torch.ones(5, 96) @ layer.four_bits.widened(torch.float32, 300))
    assert torch.equal(layer.widened(torch.float32)(x), y)


def spoiled(saved: Path, folder: Path, **changes: object) -> Path:
    tensors = load_file(saved / "model.safetensors")
    processor.save_pretrained(folder)
    save_file({**tensors, **changes}, folder / "model.safetensors")
    (folder / "config.json").write_text((saved / "config.json").read_text())
    return folder


def test_broken_files_are_refused(saved, tmp_path):
    name = "language_model.model.layers.0.mlp.gate_proj"
    scales = load_file(saved / "model.safetensors")[f"{name}.scales"]
    infinite = scales.clone()
    infinite[0, 0] = 0x7F80 << 16
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        SpatialVLA.from_pretrained(spoiled(saved, tmp_path, **{f"{name}.scales": infinite}))
    with pytest.raises(CheckpointError, match="float32"):
        SpatialVLA.from_pretrained(spoiled(saved, tmp_path, **{f"{name}.scales": scales.float()}))


@pytest.mark.parametrize(
    ("entry", "message"),
    [({"quant_method": "awq"}, "awq"), ({"quant_method": "spatialvla_int4", "rank": 3}, "newer version")],
)
def test_other_quantizations_are_refused(saved, tmp_path, entry, message):
    folder = spoiled(saved, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": entry}))
    with pytest.raises(CheckpointError, match=message):
        SpatialVLA.from_pretrained(folder)


def test_a_loader_that_knows_nothing_of_4_bits_refuses(saved, tmp_path):
    """As versions before this format read the folder."""
    folder = spoiled(saved, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"does not have|asks for"):
        SpatialVLA.from_pretrained(folder)


def test_correction_changes_products_least():
    """Inputs that depend on each other let errors be made up for, by a third and more, and the same each time."""
    torch.manual_seed(0)
    weight, x = (
        torch.randn(60, 300),
        torch.randn(2000, 40) @ torch.randn(40, 300) + 0.1 * torch.randn(2000, 300),
    )
    hessian = x.T @ x
    errors = []
    for four in (rounded(weight), corrected(weight, hessian)):
        errors.append((x @ (four.widened(torch.float32, 300) - weight).T).norm())
    assert errors[1] < errors[0] / 1.5
    again = corrected(weight, hessian)
    assert torch.equal(again.numbers, four.numbers)
    assert torch.equal(again.scales, four.scales)


def test_correction_bears_inputs_that_never_were():
    x = torch.randn(500, 130)
    x[:, 7] = 0
    four = corrected(torch.randn(9, 130), x.T @ x)
    assert four.widened(torch.float32, 130).isfinite().all()
    four = corrected(torch.randn(9, 130), torch.zeros(130, 130))
    assert four.widened(torch.float32, 130).isfinite().all()


def test_a_calibrated_decoder_is_closer_than_a_rounded_one():
    batch = a_batch(labels=True)
    plain = SpatialVLA.from_pretrained(CHECKPOINT)
    errors = []
    with torch.no_grad():
        expected = plain.hidden_states(batch, "prefix")[batch.attention_mask]
        for calibrated in (False, True):
            model = SpatialVLA.from_pretrained(CHECKPOINT)
            layers = []
            if calibrated:
                quantize_decoder(model, [batch], layers.append)
                assert layers == list(range(1, model.config.text.num_hidden_layers + 1))
            quantize(model, Quantization())
            hidden = model.hidden_states(batch, "prefix")[batch.attention_mask]
            errors.append(float((hidden - expected).norm() / expected.norm()))
    assert errors[1] < errors[0] / 1.5
