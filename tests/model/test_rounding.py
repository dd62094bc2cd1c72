"""Rounding to 4 bits: what can be kept exactly is, the rest within half a step, and outliers stay among themselves."""

import pytest
import torch

from spatialvla.kernels.four_bits import PART
from spatialvla.kernels.products import GROUP
from spatialvla.model.quantization.linear import FourBitLinear, joined
from spatialvla.model.quantization.rounding import fitting_steps, rounded


def relative_error(weight: torch.Tensor) -> torch.Tensor:
    wide = rounded(weight).widened(torch.float32, weight.shape[1])
    return (wide - weight).norm(dim=1) / weight.norm(dim=1)


@pytest.mark.parametrize("sign", [1, -1])
def test_what_is_on_a_grid_stays(sign):
    """Both signs: the level that only one side of zero has is on the side that needs it."""
    levels = torch.arange(-8, 8).repeat(9, GROUP // 16).float()
    multipliers = torch.tensor([15.0, 8, 5, 1]).repeat_interleave(PART)
    weight = sign * levels * multipliers * 2.0 ** torch.arange(-4, 5)[:, None]
    assert torch.equal(rounded(weight).widened(torch.float32, GROUP), weight)


def test_normal_weights_round_as_well_as_16_levels_allow():
    torch.manual_seed(0)
    assert (relative_error(torch.randn(20, 1000)) < 0.1).all()
    assert (relative_error(torch.randn(20, 1000) * torch.logspace(-12, 12, 20)[:, None]) < 0.1).all()


def test_an_outlier_costs_its_neighbors_alone():
    torch.manual_seed(0)
    weight = torch.randn(8, 4 * GROUP)
    weight[:, 5] = 12
    wide = rounded(weight).widened(torch.float32, weight.shape[1])
    error = (wide - weight).abs()
    assert error[:, PART:].max() < 1
    assert (error[:, GROUP:].norm() / weight[:, GROUP:].norm()) < 0.1


def test_zeros_stay_zeros_and_do_not_disturb():
    weight = torch.randn(4, 3 * GROUP)
    weight[0], weight[1, :GROUP], weight[2, PART : 2 * PART] = 0, 0, 0
    wide = rounded(weight).widened(torch.float32, weight.shape[1])
    assert wide.isfinite().all()
    assert not wide[weight == 0].any()


def test_steps_follow_what_matters():
    """An input that counts for nothing may be as wrong as it likes."""
    torch.manual_seed(0)
    weight = torch.randn(50, GROUP)
    weight[:, 0] = 20
    importance = torch.ones(GROUP)
    importance[0] = 0
    steps = [fitting_steps(weight, which).expanded(GROUP).abs() for which in (None, importance)]
    assert (steps[1][:, 1:PART].mean() < steps[0][:, 1:PART].mean() / 1.2).all()


def test_layers_join():
    layers = [FourBitLinear(rounded(weight), 200) for weight in (torch.randn(3, 200), torch.randn(70, 200))]
    x = torch.randn(2, 5, 200)
    expected = torch.cat([layer(x) for layer in layers], dim=-1)
    torch.testing.assert_close(joined(layers)(x), expected, atol=1e-5, rtol=1e-5)
    empty = FourBitLinear.empty(200, 73)
    empty.load_state_dict(joined(layers).state_dict())
    assert torch.equal(empty(x), joined(layers)(x))
