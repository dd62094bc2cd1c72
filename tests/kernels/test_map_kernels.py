"""Maps of our own kernels: resized as by PyTorch, and ZoeDepth's bins moved and weighed as in transformers."""

import pytest
import torch
from torch.nn import functional as F
from transformers.models.zoedepth.modeling_zoedepth import LogBinomialSoftmax, inv_attractor, log_binom

from spatialvla.kernels import library
from spatialvla.kernels.maps import attract, expected_bin, resize

pytestmark = pytest.mark.skipif(not library.available(), reason="this processor has no AVX-512 BF16")

SIZES = [((5, 7), (10, 14)), ((12, 12), (24, 24)), ((9, 4), (3, 11)), ((1, 6), (5, 1)), ((8, 8), (8, 8))]


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def interpolated(x, size, align_corners=True):
    return F.interpolate(x.double(), size, mode="bilinear", align_corners=align_corners)


def close(y, wanted):
    torch.testing.assert_close(y.double(), wanted, atol=1e-4, rtol=0.005)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("channels", [1, 16, 40, 67])
@pytest.mark.parametrize(("size", "to"), SIZES)
def test_resizes_as_interpolate(size, to, channels, align_corners):
    x, plus = drawn(2, channels, *size), drawn(2, channels, *to, seed=1)
    wanted = interpolated(x, to, align_corners)
    for given in (x, x.contiguous(memory_format=torch.channels_last), x.mT.contiguous().mT):
        y = resize(given, *to, align_corners)
        assert y.is_contiguous(memory_format=torch.channels_last)
        close(y, wanted)
    close(resize(x, *to, align_corners, plus), wanted + plus.double())


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize(("bins", "attractors"), [(64, 16), (64, 1), (8, 3), (50, 4)])
def test_attractors_move_bins(bins, attractors, mean):
    before, targets = drawn(2, bins, 5, 6), drawn(2, attractors, 10, 11, seed=1)
    wide = interpolated(before, (10, 11))
    moves = inv_attractor(targets.double()[:, :, None] - wide[:, None], alpha=300, gamma=2)
    wanted = wide + (moves.mean(dim=1) if mean else moves.sum(dim=1))
    y = attract(before, targets, 300.0, mean)
    assert y.is_contiguous(memory_format=torch.channels_last)
    close(y, wanted)


@pytest.mark.parametrize("bins", [2, 8, 50, 64])
@pytest.mark.parametrize("temperature", [0.03, 1.0, 50.0])
def test_expects_the_bin_of_a_log_binomial(bins, temperature):
    centers = drawn(2, bins, 5, 6).abs()
    generator = torch.Generator().manual_seed(1)
    p = torch.rand(2, 10, 11, generator=generator, dtype=torch.float64).clamp(1e-4, 1 - 1e-4)
    temperatures = torch.full_like(p, temperature)
    weights = LogBinomialSoftmax(bins)(p, temperatures[:, None])
    wanted = (weights * interpolated(centers, (10, 11))).sum(dim=1)
    constants = log_binom(torch.tensor(bins - 1.0), torch.arange(bins).float())
    found = expected_bin(centers, constants, torch.logit(p).float(), 1 / temperatures.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, atol=1e-3, rtol=2e-3)


def test_torch_compiles_around_them():
    x, targets, flat = drawn(1, 8, 5, 6), drawn(1, 3, 10, 11, seed=1), torch.rand(1, 10, 11)

    def function(x, targets, flat):
        bins = attract(resize(x, 7, 7, True), targets, 300.0, True)
        return expected_bin(bins, flat[0, 0, :8], flat, flat) + 1

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x, targets, flat), function(x, targets, flat))
