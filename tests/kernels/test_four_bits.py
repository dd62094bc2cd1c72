"""Weights in 4 bits: their format, and products with them beside those with the same weights in 8 bits."""

import pytest
import torch

from spatialvla.kernels.four_bits import PART, ZERO, FourBits, int4_product
from spatialvla.kernels.library import available
from spatialvla.kernels.products import GROUP, PANEL, int8_product

with_kernels = pytest.mark.skipif(
    not available(), reason="needs AVX-512 with BF16 and VNNI, and a C++ compiler"
)
SHAPES = [(64, 128), (130, 2304), (33, 50), (5, 9216), (1, 8), (200, 3074)]
"""(N, K): whole panels and parts of one, groups and parts of groups that K does not fill."""


def drawn(N: int, K: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Numbers and multipliers of all values, and scales of 1 and 2, both signs."""
    numbers = torch.randint(0, 16, (N, K))
    multipliers = torch.randint(0, 16, (N, -(-K // PART)))
    sizes, signs = torch.randint(1, 3, (N, -(-K // GROUP))), torch.randint(0, 2, (N, -(-K // GROUP)))
    return numbers, multipliers, ((1 - 2 * signs) * sizes).bfloat16()


def meant(numbers: torch.Tensor, multipliers: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The weight in float64, element by element."""
    K = numbers.shape[1]
    steps = multipliers.double().repeat_interleave(PART, 1)[:, :K]
    return (numbers.double() - ZERO) * steps * scales.double().repeat_interleave(GROUP, 1)[:, :K]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_format_keeps_every_number(shape):
    parts = drawn(*shape)
    weight = FourBits.of(*parts)
    assert weight.numbers.nbytes + weight.scales.nbytes <= (GROUP / 2 + 4) * -(-shape[1] // GROUP) * shape[0]
    assert torch.equal(weight.widened(torch.float64, shape[1]), meant(*parts))
    assert weight.integers()[:, shape[1] :].count_nonzero() == 0


@with_kernels
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 11])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_exact_where_numbers_are(rows, shape):
    """Activations that 8 bits hold, few of them large: no sum is too large for float32 to be exact."""
    torch.manual_seed(rows)
    N, K = shape
    parts = drawn(N, K)
    x = torch.randint(-3, 4, (rows, K)).float()
    x[:, ::GROUP] = 127
    bias = torch.randint(-8, 8, (N,)).float()
    product = int4_product(x, FourBits.of(*parts).packed(), bias, N, 8)
    assert torch.equal(product.double(), x.double() @ meant(*parts).T + bias)


@with_kernels
@pytest.mark.parametrize("rows", [1, 2, 4, 5, 11, 300])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_few_and_many_rows_give_the_bits_of_a_weight_in_8_bits(rows, bits, dtype):
    N, K = 200, 1000
    numbers, multipliers, _ = drawn(N, K)
    weight = FourBits.of(numbers, multipliers, torch.randn(N, -(-K // GROUP)).bfloat16())
    x, bias = torch.randn(rows, K).to(dtype), torch.randn(N)
    eight, scales = in_8_bits(weight)
    expected = int8_product(x, eight, scales, bias, N, bits)
    assert torch.equal(int4_product(x, weight.packed(), bias, N, bits), expected)


def in_8_bits(weight: FourBits) -> tuple[torch.Tensor, torch.Tensor]:
    """The same weight as `pack_int8` would lay it out."""
    padding = (0, 0, 0, -len(weight.numbers) % PANEL)
    integers = torch.nn.functional.pad(weight.integers(), padding)
    numbers = (integers.int() + 128).to(torch.uint8)
    scales = torch.nn.functional.pad(weight.group_scales().float(), padding)
    return (
        numbers.view(-1, PANEL, numbers.shape[1] // 4, 4).transpose(1, 2).contiguous(),
        scales.view(-1, PANEL, scales.shape[1]).transpose(1, 2).contiguous(),
    )


@with_kernels
@pytest.mark.parametrize("bits", [8, 16])
def test_what_is_no_number_stays_none(bits):
    x = torch.randn(4, 200)
    x[2, 150] = float("nan")
    product = int4_product(x, FourBits.of(*drawn(64, 200)).packed(), None, 64, bits)
    assert not product[2].isfinite().any()
    assert product[[0, 1, 3]].isfinite().all()


@with_kernels
def test_what_would_be_misread_is_refused():
    packed = FourBits.of(*drawn(20, 200)).packed()
    with pytest.raises(ValueError, match="float16"):
        int4_product(torch.randn(3, 200).half(), packed, None, 20, 8)
    for inputs, outputs in ((300, 20), (200, 70)):
        with pytest.raises(ValueError, match="outputs"):
            int4_product(torch.randn(3, inputs), packed, None, outputs, 8)


@with_kernels
def test_the_operator_is_registered_correctly():
    arguments = (torch.randn(3, 2, 200), FourBits.of(*drawn(20, 200)).packed(), None, 20, 8)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.spatialvla.int4_product.default, arguments, test_utils=checks)
