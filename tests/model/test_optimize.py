"""Optimized models: the same actions as before, close to them in few bits, never saved or trained by mistake."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.siglip.modeling_siglip import SiglipEncoder

from spatialvla import Policy, Processor, SpatialVLA
from spatialvla.errors import InputError
from spatialvla.kernels import library
from spatialvla.kernels.library import available
from spatialvla.model.fast import compiled, zoedepth
from spatialvla.model.fast import linear as precision
from spatialvla.model.fast.decoder import KernelAttention
from spatialvla.model.fast.linear import ScaledLinear, quantize
from spatialvla.model.fast.options import Optimization
from spatialvla.model.quantization.linear import FourBitLinear

REFERENCE = Path(__file__).parent.parent / "goldens" / "reference"
IMAGES = [Image.open(path).convert("RGB") for path in sorted((REFERENCE / "images").glob("*.png"))]
PROMPTS = ["open the drawer", "put the red block on the plate and then close the microwave door", "stop"]

processor = Processor.from_pretrained(REFERENCE / "checkpoint")


def a_model(dtype: torch.dtype = torch.float32) -> SpatialVLA:
    return SpatialVLA.from_pretrained(REFERENCE / "checkpoint", dtype=dtype)


def a_batch(rows: int, multiple: int = 1):
    images = [IMAGES[row % len(IMAGES)] for row in range(rows)]
    return processor(images, [PROMPTS[row % 3] for row in range(rows)], pad_to_multiple_of=multiple)


plain = a_model()


@pytest.mark.parametrize("options", [Optimization(), Optimization(text_head=False)])
@pytest.mark.parametrize("rows", [1, 3])
def test_fused_float32_changes_nothing(options, rows):
    fast = a_model().optimize(options)
    batch = a_batch(rows)
    expected = plain.decode(batch).ids
    assert torch.equal(fast.decode(batch).ids, expected)
    assert torch.equal(fast.decode(batch, draft_ids=expected).ids, expected)
    with torch.no_grad():
        torch.testing.assert_close(fast.depth(batch), plain.depth(batch), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(fast.embed(batch), plain.embed(batch), atol=1e-5, rtol=1e-5)
        rows_of_actions = slice(plain.config.action_token_begin_idx, plain.config.text.vocab_size)
        logits = [
            model.language_model.logits(model.hidden_states(batch, "prefix"), rows_of_actions)
            for model in (fast, plain)
        ]
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not available(), reason="needs AVX-512 with BF16 and VNNI, and a C++ compiler")
def test_depth_with_a_gpus_convolutions():
    """As on a GPU, but for the kernels of the same operators: maps through them, convolutions as they are."""
    batch, other = a_batch(3), a_model(torch.bfloat16)
    depth = other.vision_zoe_model
    zoedepth._replace_children(depth, depth.config.num_relative_features, packing=False)
    assert {zoedepth.AttractorLayer, zoedepth.FusionLayer} <= {type(part) for part in depth.modules()}
    with torch.no_grad():
        assert relative(other.depth(batch), plain.depth(batch)) < 0.02


def test_bfloat16_stays_close():
    batch = a_batch(3)
    fast = a_model(torch.bfloat16).optimize()
    slow = a_model(torch.bfloat16)
    with torch.no_grad():
        hidden = [model.hidden_states(batch, "prefix")[batch.attention_mask] for model in (fast, slow)]
    assert relative(*hidden) < 0.02


def test_int8_weights_stay_close():
    batch = a_batch(3)
    eight = a_model().optimize(Optimization(weights="int8"))
    with torch.no_grad():
        hidden = [model.hidden_states(batch, "prefix")[batch.attention_mask] for model in (eight, plain)]
    assert 0 < relative(*hidden) < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int4_weights_stay_close_with_kernels_and_without(dtype, monkeypatch):
    batch = a_batch(3)
    hidden = []
    with torch.no_grad():
        for built in (library.library(), None):
            monkeypatch.setattr(library, "library", lambda built=built: built)
            four = a_model(dtype).optimize(Optimization(weights="int4"))
            assert built or any(isinstance(part, FourBitLinear) for part in four.modules())
            hidden.append(four.hidden_states(batch, "prefix")[batch.attention_mask])
        hidden.append(plain.hidden_states(batch, "prefix")[batch.attention_mask])
    assert relative(hidden[0], hidden[1]) < (0.03 if dtype == torch.bfloat16 else 1e-3)
    assert 0.01 < relative(hidden[0], hidden[2]) < 0.2


def siglip_layers(model):
    (found,) = (part for part in model.vision_tower.modules() if isinstance(part, SiglipEncoder))
    return found


@pytest.mark.skipif(not available(), reason="needs AVX-512 with BF16 and VNNI, and a C++ compiler")
def test_int4_with_8_bits_of_activations_stays_close():
    batch = a_batch(3)
    four = a_model().optimize(Optimization(weights="int4", activations="int8"))
    assert not any(type(part) is torch.nn.Linear for part in siglip_layers(four).modules())
    with torch.no_grad():
        hidden = [model.hidden_states(batch, "prefix")[batch.attention_mask] for model in (four, plain)]
    assert 0 < relative(*hidden) < 0.2


@pytest.mark.skipif(not available(), reason="needs AVX-512 with BF16 and VNNI, and a C++ compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_activations_stay_close(dtype):
    batch = a_batch(3)
    eight = a_model(dtype).optimize(Optimization(weights="int8", activations="int8"))
    assert not any(type(part) is torch.nn.Linear for part in siglip_layers(eight).modules())
    with torch.no_grad():
        hidden = [model.hidden_states(batch, "prefix")[batch.attention_mask] for model in (eight, plain)]
        depth = [model.depth(batch) for model in (eight, plain)]
    assert 0 < relative(*hidden) < 0.06
    assert 0 < relative(*depth) < 0.06


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).float().norm() / b.float().norm())


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantized_weights_are_within_half_a_step(dtype):
    weight = torch.randn(7, 96) * torch.logspace(-6, 6, 7)[:, None]
    weight[3] = 0
    narrow, scale = quantize(weight, dtype)
    error = (narrow.float() * scale[:, None] - weight).abs()
    # int8 has 127 steps up to the largest number of a row; float8 three bits of mantissa.
    bound = weight.abs().amax(dim=1, keepdim=True) / 254 if dtype == torch.int8 else weight.abs() / 15
    assert (error <= bound * 1.01 + weight.abs().amax(dim=1, keepdim=True) * 1e-4).all()
    assert (narrow[3] == 0).all()


def test_8_bit_activations_need_the_kernels(monkeypatch):
    monkeypatch.setattr(library, "library", lambda: None)
    with pytest.raises(InputError, match="AVX-512"):
        a_model().optimize(Optimization(weights="int8", activations="int8"))


def test_without_kernels_the_same_comes_out(monkeypatch):
    batch = a_batch(2)
    packed = a_model(torch.bfloat16).optimize(Optimization(weights="int8"))
    monkeypatch.setattr(library, "library", lambda: None)
    plain_torch = a_model(torch.bfloat16).optimize(Optimization(weights="int8"))
    kinds = {type(part) for part in plain_torch.modules()}
    assert ScaledLinear in kinds
    assert KernelAttention not in kinds
    with torch.no_grad():
        hidden = [
            model.hidden_states(batch, "prefix")[batch.attention_mask] for model in (packed, plain_torch)
        ]
    assert relative(*hidden) < 0.03


@pytest.mark.skipif(not available(), reason="needs AVX-512 with BF16 and VNNI, and a C++ compiler")
def test_matrix_units_take_many_rows(monkeypatch):
    """As if this processor had AMX: prefill and vision by PyTorch, decode steps by the kernels, the same result."""
    batch = a_batch(2)
    vectors = a_model(torch.bfloat16).optimize()
    monkeypatch.setattr(precision, "has_matrix_units", lambda: True)
    both = a_model(torch.bfloat16).optimize()
    assert not any(isinstance(part, precision.PackedLinear) for part in both.vision_tower.modules())
    rows = []
    kernel = precision.bf16_product
    monkeypatch.setattr(
        precision, "bf16_product", lambda x, *rest: rows.append(x.shape[1]) or kernel(x, *rest)
    )
    with torch.no_grad():
        hidden = [model.hidden_states(batch, "prefix")[batch.attention_mask] for model in (both, vectors)]
        assert relative(*hidden) < 0.02
        rows.clear()
        both.decode(batch)
    assert set(rows) == {1}


def test_an_optimized_model_cannot_be_saved_or_trained(tmp_path):
    fast = a_model().optimize()
    with pytest.raises(InputError, match="cannot be saved"):
        fast.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="cannot be trained"):
        fast.train()
    assert not fast.eval().training
    with pytest.raises(InputError, match="already"):
        fast.optimize()
    assert not any(parameter.requires_grad for parameter in fast.parameters())


def test_bad_requests():
    with pytest.raises(InputError, match="fp8"):
        a_model().optimize(Optimization(weights="fp8"))
    with pytest.raises(InputError, match="int3"):
        Optimization(weights="int3")
    with pytest.raises(InputError, match="both"):
        Optimization(activations="int8")
    with pytest.raises(InputError, match="Unknown activations"):
        Optimization(weights="int8", activations="fp8")
    silent = a_model().optimize(Optimization(text_head=False))
    with pytest.raises(InputError, match="actions only"):
        silent.generate(a_batch(1), constrained=False)


def test_a_policy_is_optimized_on_load():
    image = np.asarray(IMAGES[0])
    from spatialvla import Observation

    options = {"dataset": "bridge_orig/1.0.0"}
    fast = Policy.from_pretrained(REFERENCE / "checkpoint", optimization=Optimization(), **options)
    slow = Policy.from_pretrained(REFERENCE / "checkpoint", **options)
    seen = Observation(image, "open the drawer")
    assert np.array_equal(fast.act(seen).tokens, slow.act(seen).tokens)


@pytest.mark.slow
def test_compiled_equals_eager_and_compiles_once_a_bucket():
    """Other pictures, other words, shorter prompts: nothing is compiled again within a bucket."""
    from torch._dynamo.utils import counters

    options = Optimization(compile=True, batch_sizes=(2,), text_tokens=(16,))
    fast = a_model().optimize(options)
    multiple = fast.passes.prompt_multiple
    batch = processor(IMAGES[:2], ["open the drawer", "put it down"], pad_to_multiple_of=multiple)
    graphs = counters["stats"]["unique_graphs"]
    torch.testing.assert_close(fast.depth(batch), plain.depth(batch), atol=1e-4, rtol=1e-4)
    expected = plain.decode(batch).ids
    assert torch.equal(fast.decode(batch).ids, expected)
    assert torch.equal(fast.decode(batch, draft_ids=expected).ids, expected)
    wrong = expected.flip(0)
    assert torch.equal(fast.decode(batch, draft_ids=wrong).ids, plain.decode(batch, draft_ids=wrong).ids)
    others = processor(IMAGES[:2], ["stop", "go"], pad_to_multiple_of=multiple)
    shifted = replace(others, pixel_values=others.pixel_values.flip(3))
    assert torch.equal(fast.decode(shifted).ids, plain.decode(shifted).ids)
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.slow
def test_8_bit_weights_compile():
    """A product of 8 bits that the compiler has for CPUs alone would fail here, where it is given three dimensions."""
    layer = ScaledLinear(torch.randn(48, 64), None, torch.int8)
    x = torch.randn(1, 4, 64, dtype=torch.bfloat16)
    fast = torch.compile(layer, fullgraph=True, dynamic=False)
    torch.testing.assert_close(fast(x), layer(x), atol=0.1, rtol=0.02)


class PretendedGraph:
    """Replays by calling: what a recorded graph does, apart from its speed."""

    def __init__(self, function, inputs, output) -> None:
        self.function, self.inputs, self.output = function, inputs, output

    def replay(self) -> None:
        self.output.copy_(self.function(*self.inputs))


def test_graphs_are_fed_and_read_as_they_should(monkeypatch):
    """All of the way on a GPU but the recording: inputs copied in, results out, one cache for all chunks."""
    recorded = []

    def record(self, function, arguments):
        recorded.append(function)
        inputs = [argument.clone() for argument in arguments]
        output = function(*inputs)
        return PretendedGraph(function, inputs, output), inputs, output

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(compiled.CudaGraphs, "_record", record)
    fast = a_model().optimize()
    fast.passes = compiled.CompiledPasses(fast, compiled.CudaGraphs())
    for batch in (a_batch(2, 16), a_batch(3, 16), a_batch(2, 16), a_batch(2, 32)):
        expected = plain.decode(batch).ids
        assert torch.equal(fast.decode(batch).ids, expected)
        assert torch.equal(fast.decode(batch, draft_ids=expected.flip(0)).ids, expected)
    count = len(recorded)
    other = replace(a_batch(2, 16), pixel_values=torch.rand(2, 3, *[plain.config.image_size] * 2))
    assert torch.equal(fast.decode(other).ids, plain.decode(other).ids)
    assert len(recorded) == count
    # Depth from a sensor, and from a source that may do anything, so that it runs outside the graph.
    meters = torch.full((2, plain.config.image_size, plain.config.image_size), 1.5)
    expected = plain.decode(replace(other, depth=meters)).ids
    assert torch.equal(fast.decode(replace(other, depth=meters)).ids, expected)
    fast.depth_source = lambda pixels: meters
    assert torch.equal(fast.decode(other).ids, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("weights", [None, "int8", "fp8"])
def test_cuda_graphs_replay_what_eager_computes(weights):
    options = Optimization(weights=weights, compile=True, batch_sizes=(2,), text_tokens=(16,))
    fast = a_model(torch.bfloat16).to("cuda").optimize(options)
    slow = a_model(torch.bfloat16).to("cuda").optimize(replace(options, compile=False))
    for multiple in (16, 16, 32):
        batch = a_batch(2, multiple).to("cuda")
        with torch.no_grad():
            assert relative(fast.passes.embed(batch), slow.passes.embed(batch)) < 0.02
            torch.testing.assert_close(fast.depth(batch), slow.depth(batch), atol=0.05, rtol=0.05)
        once, again = fast.decode(batch).ids, fast.decode(batch).ids
        assert torch.equal(once, again)
        assert torch.equal(fast.decode(batch, draft_ids=once).ids[:, :1], once[:, :1])
