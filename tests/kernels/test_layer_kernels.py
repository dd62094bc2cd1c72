"""Norms, rotary positions and gated activations of the kernels beside the decoder's own."""

import pytest
import torch
from torch.nn import functional as F

from spatialvla.kernels import layers
from spatialvla.kernels.library import available
from spatialvla.model.gemma2 import RMSNorm, rotary_angles, rotate

pytestmark = pytest.mark.skipif(
    not available(), reason="needs AVX-512 with BF16 and VNNI, and a C++ compiler"
)
# Half a step of bfloat16 and a little, where both sides round differently.
CLOSE = {"atol": 1e-2, "rtol": 1e-2}


@pytest.mark.parametrize("shape", [(1, 1, 2304), (2, 3, 50), (1, 1), (40, 1000)])
def test_norm(shape):
    x, norm = torch.randn(shape).bfloat16() * 30, RMSNorm(shape[-1], 1e-6).bfloat16()
    torch.nn.init.normal_(norm.weight)
    expected = norm.float()(x.float())
    torch.testing.assert_close(layers.rms_norm(x, norm.weight.bfloat16(), 1e-6).float(), expected, **CLOSE)


@pytest.mark.parametrize("shape", [(1, 1, 2 * 9216), (2, 3, 50), (1, 2), (300, 200)])
def test_gated_activation(shape):
    x = torch.randn(shape).bfloat16() * 5
    gate, up = x.float().chunk(2, dim=-1)
    torch.testing.assert_close(layers.geglu(x).float(), F.gelu(gate, approximate="tanh") * up, **CLOSE)


@pytest.mark.parametrize("shape", [(1,), (3, 5, 7), (256, 1000)])
def test_activation(shape):
    x = torch.randn(shape).bfloat16() * 5
    expected = F.gelu(x.float(), approximate="tanh")
    torch.testing.assert_close(layers.gelu_tanh(x).float(), expected, **CLOSE)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38, -3e38])
def test_gated_activation_of_extremes(bad):
    x = torch.tensor([[bad, 1.0, 1.0, 2.0]]).bfloat16()
    gate, up = x.chunk(2, dim=-1)
    expected = F.gelu(gate, approximate="tanh") * up
    torch.testing.assert_close(layers.geglu(x), expected, equal_nan=True, **CLOSE)


@pytest.mark.parametrize(("heads", "tokens", "size"), [(8, 1, 256), (3, 5, 36), (2, 300, 64)])
def test_rotation(heads, tokens, size):
    x = torch.randn(2, tokens, heads + 1, size).bfloat16()[:, :, 1:].transpose(1, 2)
    angles = rotary_angles(torch.arange(tokens).repeat(2, 1) + 7, size, 1e4, torch.bfloat16)
    expected = rotate(x.float(), *(part.float() for part in angles))
    torch.testing.assert_close(layers.rotate(x, *angles).float(), expected, **CLOSE)


def test_operators_are_registered_correctly():
    x, row = torch.randn(2, 3, 4, 8).bfloat16(), torch.randn(2, 1, 4, 8).bfloat16()
    for operator, arguments in [
        (torch.ops.spatialvla.rms_norm.default, (x, x[0, 0, 0], 1e-6)),
        (torch.ops.spatialvla.gelu_tanh.default, (x,)),
        (torch.ops.spatialvla.geglu.default, (x,)),
        (torch.ops.spatialvla.rotate.default, (x, row, row)),
    ]:
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))
