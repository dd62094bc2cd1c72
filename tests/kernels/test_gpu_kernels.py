"""Kernels of a GPU's decode step hold what the layers as written compute; without a GPU Triton interprets them."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from spatialvla.model.config import Gemma2Config
from spatialvla.model.fast.decoder import FusedAttention
from spatialvla.model.fast.linear import ScaledLinear
from spatialvla.model.gemma2 import LayerCache, RMSNorm, attention_bias, rotary_angles

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton")
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32
"""The interpreter's products know no bfloat16."""

attention = pytest.importorskip("spatialvla.kernels.gpu.attention")
norms = pytest.importorskip("spatialvla.kernels.gpu.norms")
products = pytest.importorskip("spatialvla.kernels.gpu.products")


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, DTYPE)


def close(y, wanted):
    assert y.dtype == DTYPE
    assert relative(y, wanted) < (0.01 if torch.bfloat16 == DTYPE else 1e-5)


def relative(a, b):
    return float((a - b).double().norm() / b.double().norm())


@pytest.mark.parametrize(("N", "K"), [(40, 96), (64, 256), (3, 50)])
@pytest.mark.parametrize("rows", [1, 2, 16])
def test_product(rows, N, K):
    x, weight = drawn(rows, K), drawn(N, K, seed=1)
    close(products.product(x, weight), x @ weight.T)


@pytest.mark.parametrize("rows", [1, 5])
def test_gated_product(rows):
    x, weight = drawn(rows, 96), drawn(80, 96, seed=1) / 8
    gate, up = (x @ weight.T).chunk(2, dim=1)
    close(products.product(x, weight, gated=True), F.gelu(gate, approximate="tanh") * up)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("rows", [1, 5])
def test_product_with_8_bit_weights(rows, gated):
    x, layer = drawn(rows, 96), ScaledLinear(drawn(80, 96, seed=1) / 8, None, torch.int8)
    wanted = layer(x)
    if gated:
        gate, up = wanted.chunk(2, dim=1)
        wanted = F.gelu(gate, approximate="tanh") * up
    close(products.product(x, layer.weight, layer.scale, gated), wanted)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 5])
def test_norms(rows):
    x, added = drawn(rows, 96), drawn(rows, 96, seed=1)
    first, second = RMSNorm(96, 1e-6).to(DEVICE, DTYPE), RMSNorm(96, 1e-6).to(DEVICE, DTYPE)
    first.weight.copy_(drawn(96, seed=2))
    second.weight.copy_(drawn(96, seed=3))
    close(norms.norm(x, first.weight, 1e-6), first(x))
    total, normed = norms.add_norm(x, added, first.weight, second.weight, 1e-6)
    close(total, x + first(added))
    close(normed, second(x + first(added)))


@torch.no_grad()
@pytest.mark.parametrize(
    ("B", "T", "S", "H"), [(1, 1, 70, 32), (2, 1, 32, 24), (1, 5, 72, 24), (2, 7, 100, 32)]
)
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_attention_over_a_cache(B, T, S, H, softcap):
    config = Gemma2Config(
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=H,
        query_pre_attn_scalar=H,
        attn_logit_softcapping=softcap,
    )
    written = FusedAttention(config, nn.Identity(), nn.Identity())
    kernel = attention.CacheAttention(4, 2, H, written.scale, softcap)
    qkv, keys, values = drawn(B, T, 8 * H) * 2, drawn(B, 2, S, H, seed=1), drawn(B, 2, S, H, seed=2)
    slots = torch.arange(S - T - 3, S - 3, device=DEVICE)
    rotary = rotary_angles(slots.expand(B, -1), H, 1e4, DTYPE)
    visible = torch.rand(B, T, S, generator=torch.Generator().manual_seed(3)).to(DEVICE) > 0.3
    bias = attention_bias(visible | (torch.arange(S, device=DEVICE) == 0), DTYPE)
    cache = LayerCache(keys.clone(), values.clone())
    wanted = written(qkv, rotary, bias, cache, slots)
    for _ in range(2):  # what its programs count is as before
        close(kernel(qkv, rotary, bias, keys, values, slots), wanted)
    close(keys, cache.keys)
    close(values, cache.values)
