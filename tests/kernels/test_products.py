"""Products of the kernels beside PyTorch's, for all shapes that linear layers may have."""

import pytest
import torch

from spatialvla.kernels.library import available
from spatialvla.kernels.products import GROUP, bf16_product, int8_product, pack_bf16, pack_int8

pytestmark = pytest.mark.skipif(
    not available(), reason="needs AVX-512 with BF16 and VNNI, and a C++ compiler"
)
SHAPES = [(64, 96), (130, 2304), (33, 50), (5, 9216), (1, 8), (200, 3074)]
"""(N, K): whole panels and parts of one, more than a stretch of K, groups that K does not fill."""


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 12, 29, 1013])
@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16(rows, shape):
    torch.manual_seed(rows)
    x, weight, bias = (
        torch.randn(rows, shape[1]).bfloat16(),
        torch.randn(shape).bfloat16(),
        torch.randn(shape[0]),
    )
    expected = x.double() @ weight.double().T
    packed = pack_bf16(weight)
    product = bf16_product(x, packed, None, shape[0])
    torch.testing.assert_close(product.double(), expected, atol=2e-2, rtol=1e-2)
    product = bf16_product(x, packed, bias, shape[0])
    torch.testing.assert_close(product.double(), expected + bias, atol=2e-2, rtol=1e-2)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 29, 1013])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8(rows, shape, dtype):
    """16 bits of activations are as good as exact, beside the 8 of the weight; 8 bits are within half a step each."""
    torch.manual_seed(rows)
    N, K = shape
    x, weight, bias = torch.randn(rows, K).to(dtype), torch.randn(shape), torch.randn(N)
    packed, scales = pack_int8(weight)
    rounded = unpacked(packed, scales)[:N, :K].double()
    assert ((rounded - weight).abs() <= groups(weight).abs().amax(-1).max() / 254 * 1.001).all()
    expected = x.double() @ rounded.T + bias
    exact = int8_product(x, packed, scales, bias, N, 16).double()
    torch.testing.assert_close(exact, expected, atol=2e-2, rtol=1e-2 if dtype == torch.bfloat16 else 1e-3)
    eight = int8_product(x, packed, scales, bias, N, 8).double()
    step = groups(x.float()).abs().amax(-1).max() / 127
    # Rounding errors of K numbers, each half a step at most, add up at random.
    assert (
        (eight - expected).abs() <= 5 * step * rounded.norm(dim=1) / 3 + 1e-2 * expected.abs() + 1e-3
    ).all()


def groups(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(x, (0, -x.shape[1] % GROUP)).view(len(x), -1, GROUP)


def unpacked(packed: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The weight (N, K), padded, that packed numbers stand for."""
    panels, parts, panel, _ = packed.shape
    numbers = packed.float().transpose(1, 2).reshape(panels * panel, parts * 4) - 128
    scale = scales.transpose(1, 2).reshape(panels * panel, -1)
    return (numbers.view(len(numbers), -1, GROUP) * scale[:, :, None]).flatten(1)


def test_an_outlier_costs_its_group_alone():
    x, weight = torch.randn(3, 4 * GROUP), torch.randn(64, 4 * GROUP)
    x[:, 5] = 1e4
    without_group = weight.clone()
    without_group[:, :GROUP] = 0
    product = int8_product(x, *pack_int8(without_group), None, 64, 8)
    torch.testing.assert_close(product, x @ without_group.T, atol=1.5, rtol=0)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_stays_none(bits, bad):
    x = torch.randn(4, 200)
    x[2, 150] = bad
    weight = torch.randn(64, 200)
    eight = int8_product(x, *pack_int8(weight), None, 64, bits)
    assert not eight[2].isfinite().any()
    assert eight[[0, 1, 3]].isfinite().all()
    half = bf16_product(x.bfloat16(), pack_bf16(weight.bfloat16()), None, 64)
    assert not half[2].isfinite().any()


def test_zeros_stay_zeros():
    x, weight = torch.zeros(2, 130), torch.zeros(70, 130)
    assert not int8_product(x, *pack_int8(weight), None, 70, 8).any()


def test_more_dimensions_and_strided_input():
    weight, x = torch.randn(20, 40).bfloat16(), torch.randn(3, 2, 80).bfloat16()[:, :, ::2]
    torch.testing.assert_close(
        bf16_product(x, pack_bf16(weight), None, 20), torch.nn.functional.linear(x, weight)
    )


def test_what_would_be_misread_is_refused():
    x, weight = torch.randn(3, 40).bfloat16(), torch.randn(20, 40).bfloat16()
    half, eight = pack_bf16(weight), pack_int8(weight)
    with pytest.raises(ValueError, match="float32"):
        bf16_product(x.float(), half, None, 20)
    with pytest.raises(ValueError, match="float16"):
        int8_product(x.half(), *eight, None, 20, 8)
    for wrong, outputs in ((x[:, :30], 20), (x, 70)):
        with pytest.raises(ValueError, match="outputs"):
            bf16_product(wrong, half, None, outputs)
    with pytest.raises(ValueError, match="outputs"):
        int8_product(torch.randn(3, 200), *eight, None, 20, 8)


def test_operators_are_registered_correctly():
    """Shapes and dtypes for `torch.compile` are those that come out."""
    x, weight = torch.randn(3, 2, 40).bfloat16(), torch.randn(20, 40).bfloat16()
    checks = ("test_schema", "test_faketensor")
    for operator, arguments in [
        (torch.ops.spatialvla.bf16_product.default, (x, pack_bf16(weight), None, 20)),
        (torch.ops.spatialvla.int8_product.default, (x.float(), *pack_int8(weight), None, 20, 16)),
    ]:
        torch.library.opcheck(operator, arguments, test_utils=checks)
