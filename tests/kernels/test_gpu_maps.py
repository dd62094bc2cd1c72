"""Maps on a GPU: resized as by PyTorch, bins moved and weighed as in transformers; interpreted without a GPU."""

import pytest
import torch
from torch.nn import functional as F
from transformers.models.zoedepth.modeling_zoedepth import LogBinomialSoftmax, inv_attractor, log_binom

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton")
maps = pytest.importorskip("spatialvla.kernels.gpu.maps")

SIZES = [((5, 7), (10, 14)), ((9, 4), (3, 11)), ((1, 6), (5, 1)), ((8, 8), (8, 8))]


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16().to(DEVICE)


def interpolated(x, size, align_corners=True):
    return F.interpolate(x.double(), size, mode="bilinear", align_corners=align_corners)


def close(y, wanted):
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)
    # The interpreter cuts numbers off where a GPU rounds them.
    torch.testing.assert_close(y.double(), wanted, atol=1e-4, rtol=0.005 if DEVICE == "cuda" else 0.009)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("channels", [1, 67])
@pytest.mark.parametrize(("size", "to"), SIZES)
def test_resizes_as_interpolate(size, to, channels, align_corners):
    x, plus = drawn(2, channels, *size), drawn(2, channels, *to, seed=1)
    wanted = interpolated(x, to, align_corners)
    close(maps.resize(x, None, *to, align_corners), wanted)
    close(maps.resize(x, plus, *to, align_corners), wanted + plus.double())


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize(("bins", "attractors"), [(64, 16), (50, 1)])
def test_attractors_move_bins(bins, attractors, mean):
    before, targets = drawn(2, bins, 5, 6), drawn(2, attractors, 10, 11, seed=1)
    wide = interpolated(before, (10, 11))
    moves = inv_attractor(targets.double()[:, :, None] - wide[:, None], alpha=300, gamma=2)
    close(
        maps.attract(before, targets, 300.0, mean), wide + (moves.mean(dim=1) if mean else moves.sum(dim=1))
    )


@pytest.mark.parametrize("bins", [2, 50, 64])
@pytest.mark.parametrize("temperature", [0.03, 1.0, 50.0])
def test_expects_the_bin_of_a_log_binomial(bins, temperature):
    centers = drawn(2, bins, 5, 6).abs()
    p = torch.rand(2, 10, 11, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    p = p.clamp(1e-4, 1 - 1e-4).to(DEVICE)
    temperatures = torch.full_like(p, temperature)
    weights = LogBinomialSoftmax(bins).to(DEVICE)(p, temperatures[:, None])
    wanted = (weights * interpolated(centers, (10, 11))).sum(dim=1)
    constants = log_binom(torch.tensor(bins - 1.0), torch.arange(bins).float()).to(DEVICE)
    found = maps.expected_bin(centers, constants, torch.logit(p).float(), 1 / temperatures.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, atol=1e-3, rtol=2e-3)
