"""The kernels for matrix units (AMX): run over emulated tiles beside references, and compiled for the real ones.

What cannot be tested without such a processor is that its tiles give what `tiles.h` says that they give.
"""

import ctypes
import shutil
import subprocess

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spatialvla.kernels import library
from spatialvla.kernels.four_bits import FourBits, int4_product
from spatialvla.kernels.products import int8_product, pack_bf16, pack_int8

pytestmark = pytest.mark.skipif(
    not library.available(), reason="needs AVX-512 with BF16 and VNNI, and a C++ compiler"
)
STREAMED = 4
"""Rows that do not go to the matrix units, as in tile_products.h."""

sizes = {
    "rows": st.integers(STREAMED + 1, 130),
    "outputs": st.integers(1, 200),
    "inputs": st.integers(1, 700),
    "seed": st.integers(0, 1000),
}


@pytest.fixture(scope="module")
def emulated() -> ctypes.CDLL:
    built = library._build("-DEMULATED_TILES")
    assert built.library is not None, built.reason
    assert built.matrix_units == "used"
    return built.library


def call(function, tensors, *numbers: int) -> None:
    pointers = [None if part is None else ctypes.c_void_p(part.data_ptr()) for part in tensors]
    function(*pointers, *map(ctypes.c_long, numbers))


def tiled_bf16(emulated, x, packed, bias, outputs):
    y = torch.full((len(x), outputs), torch.nan, dtype=torch.bfloat16)
    call(emulated.bf16_product, (x, packed, bias, y), len(x), outputs, x.shape[1], 1)
    return y


@settings(max_examples=40, deadline=None)
@given(**sizes)
def test_bfloat16(emulated, rows, outputs, inputs, seed):
    torch.manual_seed(seed)
    inputs += inputs % 2
    x, weight = torch.randn(rows, inputs).bfloat16(), torch.randn(outputs, inputs).bfloat16()
    bias = torch.randn(outputs) if seed % 2 else None
    expected = x.double() @ weight.double().T + (0 if bias is None else bias)
    product = tiled_bf16(emulated, x, pack_bf16(weight), bias, outputs)
    torch.testing.assert_close(product.double(), expected, atol=2e-2, rtol=1e-2)


@pytest.mark.parametrize("rows", [5, 16, 17, 32, 48, 513, 560])
def test_bfloat16_is_exact_where_sums_are(emulated, rows):
    """Whole numbers so small that float32 and bfloat16 hold every sum: the order of adding does not matter."""
    torch.manual_seed(rows)
    x, weight = (torch.randint(-1, 2, (size, 1100)).bfloat16() for size in (rows, 70))
    weight[:, 64:] = 0
    weight[:, -3:] = 1
    product = tiled_bf16(emulated, x, pack_bf16(weight), None, 70)
    assert torch.equal(product.double(), x.double() @ weight.double().T)


def test_many_rows_really_take_the_tiles(emulated):
    """Of sums that cancel what was rounded on the way is left, and that depends on the order of adding."""
    half, its_weight = torch.randn(64, 1500).bfloat16(), torch.randn(64, 1500).bfloat16()
    x, packed = torch.cat([half, half], dim=1), pack_bf16(torch.cat([its_weight, -its_weight], dim=1))
    of_vectors = torch.ops.spatialvla.bf16_product(x, packed, None, 64)
    of_tiles = tiled_bf16(emulated, x, packed, None, 64)
    assert of_tiles.abs().max() < 1e-2
    assert not torch.equal(of_tiles, of_vectors)


def test_denormal_numbers_are_zero(emulated):
    x, weight = torch.full((20, 64), 1e-39).bfloat16(), torch.full((64, 64), 1e30).bfloat16()
    assert x.count_nonzero() == x.numel()
    assert not tiled_bf16(emulated, x, pack_bf16(weight), None, 64).any()


def test_few_rows_are_streamed_to_the_same_bits(emulated):
    x, weight = torch.randn(STREAMED, 300).bfloat16(), torch.randn(100, 300).bfloat16()
    packed = pack_bf16(weight)
    expected = torch.ops.spatialvla.bf16_product(x, packed, None, 100)
    assert torch.equal(tiled_bf16(emulated, x, packed, None, 100), expected)


@settings(max_examples=40, deadline=None)
@given(**sizes, bits=st.sampled_from([8, 16]), wide=st.booleans())
def test_8_bits_are_those_of_the_vector_units(emulated, rows, outputs, inputs, seed, bits, wide):
    torch.manual_seed(seed)
    x = torch.randn(rows, inputs).to(torch.float32 if wide else torch.bfloat16)
    bias = torch.randn(outputs) if seed % 2 else None
    packed, scales = pack_int8(torch.randn(outputs, inputs))
    y = x.new_full((rows, outputs), torch.nan)
    numbers = (rows, outputs, inputs, bits // 8, wide, 1)
    call(emulated.int8_product, (x, packed, scales, bias, y), *numbers)
    assert torch.equal(y, int8_product(x, packed, scales, bias, outputs, bits))


@settings(max_examples=20, deadline=None)
@given(**sizes, bits=st.sampled_from([8, 16]))
def test_4_bits_are_those_of_the_vector_units(emulated, rows, outputs, inputs, seed, bits):
    torch.manual_seed(seed)
    parts, groups = -(-inputs // 32), -(-inputs // 128)
    weight = FourBits.of(
        torch.randint(0, 16, (outputs, inputs)),
        torch.randint(0, 16, (outputs, parts)),
        torch.randn(outputs, groups).bfloat16(),
    )
    x, packed = torch.randn(rows, inputs), weight.packed()
    y = x.new_full((rows, outputs), torch.nan)
    call(emulated.int4_product, (x, packed, None, y), rows, outputs, inputs, bits // 8, 1, 1)
    assert torch.equal(y, int4_product(x, packed, None, outputs, bits))


@pytest.mark.parametrize("rows", [6, 600])
def test_threads_share_the_work(emulated, rows):
    x, weight = torch.randn(rows, 260), torch.randn(500, 260)
    packed, scales = pack_int8(weight)
    y = torch.full((rows, 500), torch.nan)
    call(emulated.int8_product, (x, packed, scales, None, y), rows, 500, 260, 1, 1, 3)
    assert torch.equal(y, int8_product(x, packed, scales, None, 500, 8))
    half, its_packed = x.bfloat16(), pack_bf16(weight.bfloat16())
    z = torch.empty(rows, 500, dtype=torch.bfloat16)
    call(emulated.bf16_product, (half, its_packed, None, z), rows, 500, 260, 3)
    assert torch.equal(z, tiled_bf16(emulated, half, its_packed, None, 500))


def test_what_is_no_number_stays_none(emulated):
    x, weight = torch.randn(20, 200), torch.randn(64, 200)
    x[2, 150] = torch.nan
    packed, scales = pack_int8(weight)
    y = torch.empty(20, 64)
    call(emulated.int8_product, (x, packed, scales, None, y), 20, 64, 200, 1, 1, 1)
    others = [row for row in range(20) if row != 2]
    half = tiled_bf16(emulated, x.bfloat16(), pack_bf16(weight.bfloat16()), None, 64)
    for product in (y, half):
        assert not product[2].isfinite().any()
        assert product[others].isfinite().all()


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
def test_the_real_instructions_are_compiled():
    built = library.build()
    if built.matrix_units.startswith("unknown"):
        pytest.skip("this compiler does not know AMX")
    command = ["objdump", "-d", "--no-show-raw-insn", str(built.file)]
    code = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for instruction in (
        *("ldtilecfg", "tileloadd", "tilestored", "tilezero", "tilerelease"),
        *("tdpbf16ps", "tdpbsud"),
    ):
        assert instruction in code


def test_a_compiler_that_does_not_know_them_leaves_them_out(monkeypatch):
    """As g++ 10: it refuses the flags, and what it makes without them says so."""
    monkeypatch.setattr(library, "_TILE_FLAGS", ["-mno-such-units"])
    built = library._build("-O1")
    assert built.library is not None
    assert built.matrix_units.startswith("unknown to")
