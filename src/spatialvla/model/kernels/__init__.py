"""Kernels for a CPU with AVX-512 BF16: few rows times a large weight at the speed of the memory.

A decode step multiplies one row, or a few, with every weight of the decoder. oneDNN and MKL reach a third of the
memory's bandwidth at that (docs/performance.md). The kernels are a page of C++, compiled on first use by the compiler
that `torch.compile` uses, too, and kept in the user's cache folder.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

MAX_ROWS = 16
"""Up to so many rows the kernels beat oneDNN."""

_SOURCE = Path(__file__).parent / "rows.cpp"
_FLAGS = [
    *("-O3", "-std=c++17", "-shared", "-fPIC", "-fopenmp", "-mfma", "-mavx2", "-mavx512f", "-mavx512bw"),
    *("-mavx512vl", "-mavx512dq", "-mavx512bf16"),
]


def available() -> bool:
    """Whether this processor and a C++ compiler at hand allow the kernels; the first call compiles them."""
    return _library() is not None


@cache
def _library() -> ctypes.CDLL | None:
    if not torch.cpu._is_avx512_bf16_supported():
        return None
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))), None)
    if compiler is None:
        return None
    key = hashlib.sha256(_SOURCE.read_bytes() + " ".join([compiler, *_FLAGS]).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spatialvla" / "kernels"
    built = folder / f"rows-{key}.so"
    try:
        if not built.exists():
            folder.mkdir(parents=True, exist_ok=True)
            _compile(compiler, built)
        library = ctypes.CDLL(str(built))
    except (OSError, subprocess.SubprocessError):
        return None
    pointer, size = ctypes.c_void_p, ctypes.c_long
    library.bf16_rows.argtypes = [pointer] * 3 + [size] * 3 + [ctypes.c_int]
    library.int8_rows.argtypes = [pointer] * 4 + [size] * 3 + [ctypes.c_int]
    return library


def _compile(compiler: str, built: Path) -> None:
    """Processes that compile at the same time each write a file of their own; the last one stays."""
    with tempfile.TemporaryDirectory(dir=built.parent) as scratch:
        result = Path(scratch) / built.name
        command = [compiler, *_FLAGS, str(_SOURCE), "-o", str(result)]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        os.replace(result, built)


@torch.library.custom_op("spatialvla::bf16_rows", mutates_args=(), device_types="cpu")
def bf16_rows(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(…, K) times (N, K) transposed: (…, N), all bfloat16, for a handful of rows."""
    library = _library()
    assert library is not None
    x = x.contiguous()
    (N, K), M = weight.shape, x.numel() // x.shape[-1]
    y = x.new_empty(*x.shape[:-1], N)
    threads = torch.get_num_threads()
    library.bf16_rows(x.data_ptr(), weight.data_ptr(), y.data_ptr(), M, N, K, threads)
    return y


@torch.library.custom_op("spatialvla::int8_rows", mutates_args=(), device_types="cpu")
def int8_rows(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The same for an int8 weight (N, K) with a float32 scale (N,) of its rows; x is bfloat16."""
    library = _library()
    assert library is not None
    x = x.contiguous()
    (N, K), M = weight.shape, x.numel() // x.shape[-1]
    y = x.new_empty(*x.shape[:-1], N)
    threads = torch.get_num_threads()
    library.int8_rows(x.data_ptr(), weight.data_ptr(), scale.data_ptr(), y.data_ptr(), M, N, K, threads)
    return y


@bf16_rows.register_fake
def _(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


@int8_rows.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])
