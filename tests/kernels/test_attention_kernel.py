"""Attention of our own kernels: that of PyTorch, for any sizes, strides, masks and groups of heads."""

import pytest
import torch

from spatialvla.kernels import library
from spatialvla.kernels.attention import attention

pytestmark = pytest.mark.skipif(not library.available(), reason="this processor has no AVX-512 BF16")


def expected(q, k, v, bias, scale, softcap=None):
    """In float64, from the same bfloat16 numbers."""
    q, k, v = q.double(), k.double(), v.double()
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    scores = q @ k.mT * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if bias is not None:
        scores = scores + bias.double()
    return (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def close(y, wanted):
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous()
    torch.testing.assert_close(y.double(), wanted, atol=0.012, rtol=0.008)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("H", [1, 7, 16, 64, 72, 130])
@pytest.mark.parametrize(("T", "S"), [(1, 1), (1, 283), (5, 31), (13, 16), (70, 65), (97, 130)])
def test_any_size(T, S, H, softcap):
    q, k, v = drawn(2, 4, T, H), drawn(2, 4, S, H, seed=1), drawn(2, 4, S, H, seed=2)
    bias = drawn(1, 4, T, S, seed=3)
    close(attention(q, k, v, bias, H**-0.5, softcap), expected(q, k, v, bias, H**-0.5, softcap))


@pytest.mark.parametrize(("N", "K"), [(8, 4), (6, 1), (3, 3)])
def test_query_heads_share_key_heads(N, K):
    q, k, v = drawn(2, N, 9, 32), drawn(2, K, 40, 32, seed=1), drawn(2, K, 40, 32, seed=2)
    close(attention(q, k, v, None, 0.2), expected(q, k, v, None, 0.2))


def test_threads_share_one_head():
    q, k, v = drawn(1, 1, 301, 64), drawn(1, 1, 299, 64, seed=1), drawn(1, 1, 299, 64, seed=2)
    close(attention(q, k, v, None, 0.2), expected(q, k, v, None, 0.2))


def test_any_strides():
    every = drawn(2, 50, 3, 4, 24)
    q, k, v = every.permute(2, 0, 3, 1, 4)
    close(attention(q[:, :, :20], k, v, None, 0.2), expected(q[:, :, :20], k, v, None, 0.2))
    turned = (part.mT.contiguous().mT for part in (q, k, v))
    assert torch.equal(attention(*turned, None, 0.2), attention(q, k, v, None, 0.2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (2, 1, 1, 70), (70,), (1, 4, 5, 70), (2, 4, 5, 1), (2, 1, 5, 70)]
)
def test_a_bias_broadcasts(shape, dtype):
    q, k, v = drawn(2, 4, 5, 64), drawn(2, 2, 70, 64, seed=1), drawn(2, 2, 70, 64, seed=2)
    bias = torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    close(attention(q, k, v, bias, 0.1), expected(q, k, v, bias, 0.1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("softcap", [None, 50.0])
def test_hidden_keys_weigh_nothing(dtype, softcap):
    q, k, v = drawn(1, 2, 7, 64), drawn(1, 2, 45, 64, seed=1), drawn(1, 2, 45, 64, seed=2)
    hidden = torch.rand(7, 45, generator=torch.Generator().manual_seed(3)) < 0.5
    hidden[:, 44], hidden[0, :44] = True, False
    bias = torch.zeros(7, 45, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)
    seen = attention(q, k, v, bias, 0.125, softcap)
    close(seen, expected(q, k, v, bias, 0.125, softcap))
    k[:, :, 44], v[:, :, 44] = 100, -1e30
    assert torch.equal(attention(q, k, v, bias, 0.125, softcap), seen)
    # As in a product with a weight of zero: what is not a number shows.
    v[:, :, 44, 3] = torch.nan
    result = attention(q, k, v, bias, 0.125, softcap).view(7, 2, 64)
    assert result[..., 3].isnan().all()
    assert not result[..., :3].isnan().any()


def test_all_hidden_is_an_average():
    q, k, v = drawn(1, 1, 2, 64), drawn(1, 1, 20, 64, seed=1), drawn(1, 1, 20, 64, seed=2)
    bias = torch.full((1, 20), torch.finfo(torch.bfloat16).min, dtype=torch.bfloat16)
    close(attention(q, k, v, bias, 0.125), v.double().mean(dim=2).expand(1, 2, 64))


@pytest.mark.parametrize("softcap", [None, 50.0])
def test_large_scores(softcap):
    q, k, v = drawn(1, 2, 8, 64) * 30, drawn(1, 2, 100, 64, seed=1) * 30, drawn(1, 2, 100, 64, seed=2)
    close(attention(q, k, v, None, 0.125, softcap), expected(q, k, v, None, 0.125, softcap))


def test_not_a_number_stays_in_its_row():
    q, k, v = drawn(1, 2, 8, 64), drawn(1, 2, 100, 64, seed=1), drawn(1, 2, 100, 64, seed=2)
    q[0, 1, 3, 5] = torch.nan
    result = attention(q, k, v, None, 0.125, 30.0).view(8, 2, 64)
    assert result[3, 1].isnan().all()
    assert result.isnan().sum() == 64


def test_torch_compiles_around_it():
    q, k, v = drawn(2, 4, 5, 64), drawn(2, 2, 70, 64, seed=1), drawn(2, 2, 70, 64, seed=2)

    def function(q, k, v):
        return attention(q, k, v, None, 0.1) + 1

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(q, k, v), function(q, k, v))
