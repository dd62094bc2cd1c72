"""The decoder in one call of the kernels: bit for bit what its layers compute one by one."""

from copy import deepcopy

import pytest
import torch

from spatialvla.kernels.library import available
from spatialvla.model.config import Gemma2Config
from spatialvla.model.fast.cpu_decoder import CPUDecoder, fits_one_call
from spatialvla.model.fast.decoder import fuse_layer, replace_norms
from spatialvla.model.gemma2 import Gemma2Decoder, Gemma2ForCausalLM, KVCache

pytestmark = pytest.mark.skipif(
    not available(), reason="needs AVX-512 with BF16 and VNNI, and a C++ compiler"
)
SLOTS, WINDOW = 40, 9


def a_decoder(bits=None, activation_bits=16, softcap: float | None = 50.0) -> CPUDecoder:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=8,
        hidden_size=72,
        intermediate_size=100,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=20,
        query_pre_attn_scalar=20,
        sliding_window=WINDOW,
        attn_logit_softcapping=softcap,
    )
    model = Gemma2ForCausalLM(config).requires_grad_(False)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    model.bfloat16()
    for layer in model.model.layers:
        fuse_layer(layer, config, bits, activation_bits, kernels=True)
    replace_norms(model)
    assert fits_one_call(model.model)
    return CPUDecoder(model.model)


def a_cache(decoder: CPUDecoder, rows: int) -> KVCache:
    config = decoder.config
    shape = (rows, config.num_key_value_heads, SLOTS, config.head_dim)
    keys, values = (tuple(torch.zeros(shape, dtype=torch.bfloat16) for _ in decoder.layers) for _ in range(2))
    return KVCache(keys, values)


def passes(decoder: Gemma2Decoder, run, rows: int, wanted: int | None):
    """A prompt, three more tokens, and one over them: hidden states and what the cache holds afterwards."""
    draw = torch.Generator().manual_seed(1)
    cache = a_cache(decoder, rows)
    padding = torch.arange(SLOTS) >= torch.arange(rows)[:, None]
    results = []
    for first, tokens in ((0, 30), (30, 3), (31, 1)):
        slots = torch.arange(first, first + tokens)
        visible = (torch.arange(SLOTS) <= slots.clamp(min=29)[:, None]) & padding[:, None]
        x = torch.randn(rows, tokens, decoder.config.hidden_size, generator=draw).bfloat16()
        positions = slots.expand(rows, -1)
        decoder.run_layers = lambda *given: run(decoder, *given)
        last = None if wanted is None else min(wanted, tokens)
        results.append(decoder(x, positions, visible, cache, slots, last))
    del decoder.run_layers
    return [*results, *cache.keys, *cache.values]


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("wanted", [None, 1, 3])
@pytest.mark.parametrize("bits", [(None, 16), ("int8", 8), ("int8", 16), ("int4", 8)])
def test_one_call_gives_the_bits_of_many(rows, wanted, bits):
    decoder = a_decoder(*bits)
    at_once = passes(decoder, CPUDecoder.run_layers, rows, wanted)
    one_by_one = passes(decoder, Gemma2Decoder.run_layers, rows, wanted)
    assert all(torch.equal(a, b) for a, b in zip(at_once, one_by_one, strict=True))
    assert all(part.isfinite().all() and part.any() for part in at_once)


def test_no_soft_cap():
    decoder = a_decoder(softcap=None)
    at_once = passes(decoder, CPUDecoder.run_layers, 1, None)
    one_by_one = passes(decoder, Gemma2Decoder.run_layers, 1, None)
    assert all(torch.equal(a, b) for a, b in zip(at_once, one_by_one, strict=True))


def test_a_copy_has_weights_of_its_own():
    decoder = a_decoder()
    expected = passes(decoder, CPUDecoder.run_layers, 1, None)
    other = deepcopy(decoder)
    for part in decoder.decoder.layers[0].tensors():
        part.zero_()
    assert torch.equal(passes(other, CPUDecoder.run_layers, 1, None)[0], expected[0])
    assert not torch.equal(passes(decoder, CPUDecoder.run_layers, 1, None)[0], expected[0])


def test_what_would_be_misread_is_refused():
    decoder = a_decoder()
    cache = a_cache(decoder, 1)
    x = torch.randn(1, 2, 72).bfloat16()
    rotary = (torch.ones(1, 1, 2, 20).bfloat16(),) * 2
    biases = [torch.zeros(1, 1, 2, SLOTS).bfloat16()] * 3
    slots = torch.arange(2)
    decoder.decoder(x, rotary, biases, cache.keys, cache.values, slots)
    for wrong in (
        (x.float(), rotary, biases, slots),
        (x[..., :70], rotary, biases, slots),
        (x, rotary, [bias[..., 1:] for bias in biases], slots),
        (x, rotary, biases, slots + SLOTS - 1),
        (x, rotary, biases, slots - 1),
        (x, rotary, biases, slots.int()),
    ):
        with pytest.raises(ValueError, match="A kernel was given"):
            decoder.decoder(*wrong[:3], cache.keys, cache.values, wrong[3])
