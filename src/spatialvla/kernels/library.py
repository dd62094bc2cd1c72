"""The C++ sources beside this file as one library, compiled on first use, and its functions as operators.

The compiled library is kept in the user's cache folder. The compiler is the one that `torch.compile` uses,
too. Where there is none, or the processor lacks AVX-512 with BF16 and VNNI, there is no library, and
PyTorch's own operators do the work. Matrix units (AMX) are used where the compiler knows them and the
processor has them.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import ParamSpec, cast

import torch

from spatialvla.common.cache_folder import cache_folder

P = ParamSpec("P")

_SOURCES = sorted(Path(__file__).parent.glob("*.cpp"))
_HEADERS = sorted(Path(__file__).parent.glob("*.h"))
INSTRUCTION_SETS = ("fma", "avx2", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512bf16", "avx512vnni")
"""What of the processor the kernels use, as compilers call it."""
_TILE_FLAGS = ["-mamx-tile", "-mamx-bf16", "-mamx-int8"]
_FLAGS = ["-O3", "-std=c++17", "-shared", "-fPIC", "-fopenmp", *(f"-m{name}" for name in INSTRUCTION_SETS)]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Build:
    """The compiled kernels. library: None where there are none, for the reason that is told.

    compiler: the program that made the file.
    """

    library: ctypes.CDLL | None
    reason: str = ""
    compiler: str = ""
    file: Path | None = None

    @property
    def matrix_units(self) -> str:
        """Whether products of many rows go to matrix units (AMX), in words."""
        known = 0 if self.library is None else self.library.matrix_units()
        return {1: "used", 0: "not on this processor, or not allowed by its system"}.get(
            known, f"unknown to {self.compiler}"
        )


def available() -> bool:
    """Whether this processor and a C++ compiler at hand allow the kernels; the first call compiles them."""
    return library() is not None


def serve(tensor: torch.Tensor) -> bool:
    """Whether the kernels are there for this tensor: bfloat16, on a CPU that has them."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.bfloat16 and available()


def serve_on_gpu(tensor: torch.Tensor) -> bool:
    """Whether those in `spatialvla.kernels.gpu` are: 16 bits on a GPU, and Triton, which comes with its PyTorch."""
    half = tensor.dtype in (torch.bfloat16, torch.float16)
    return tensor.is_cuda and half and find_spec("triton") is not None


def library() -> ctypes.CDLL | None:
    """The compiled kernels, built if they are not yet; None where they cannot be."""
    return build().library


@cache
def build() -> Build:
    """The compiled kernels with how they were made; the first call compiles them where they are not cached."""
    found = _build()
    log.debug("kernels: %s", found.reason or f"{found.file}, compiled by {found.compiler}")
    return found


def _build(*more_flags: str) -> Build:
    if not (torch.cpu._is_avx512_bf16_supported() and torch.cpu._is_vnni_supported()):
        return Build(None, "this processor lacks AVX-512 with BF16 and VNNI")
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++"))), None)
    if compiler is None:
        return Build(None, "there is no C++ compiler, neither g++ nor clang++")
    flags = [*_FLAGS, *_TILE_FLAGS, *more_flags]
    texts = b"".join(source.read_bytes() for source in [*_SOURCES, *_HEADERS])
    key = hashlib.sha256(texts + " ".join([compiler, *flags]).encode()).hexdigest()[:16]
    folder = cache_folder("kernels")
    built = folder / f"kernels-{key}.so"
    try:
        if not built.exists():
            folder.mkdir(parents=True, exist_ok=True)
            try:
                _compile(compiler, flags, built)
            except subprocess.CalledProcessError:  # as by g++ 10, which does not know AMX
                _compile(compiler, [*_FLAGS, *more_flags], built)
        return Build(ctypes.CDLL(str(built)), "", compiler, built)
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").splitlines() or [str(error)]
        return Build(None, f"{compiler} cannot compile them ({lines[0]})", compiler)
    except (OSError, subprocess.SubprocessError) as error:
        return Build(None, f"they cannot be made or loaded ({error})", compiler)


def _compile(compiler: str, flags: list[str], built: Path) -> None:
    """Processes that compile at the same time each write a file of their own; the last one stays."""
    with tempfile.TemporaryDirectory(dir=built.parent) as scratch:
        result = Path(scratch) / built.name
        command = [compiler, *flags, *map(str, _SOURCES), "-o", str(result)]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        os.replace(result, built)


# `torch.library.custom_op` would take three times as long for each call.
_OPERATORS = torch.library.Library("spatialvla", "DEF")


def operator(
    schema: str, on_cpu: Callable[P, torch.Tensor], empty: Callable[..., torch.Tensor]
) -> Callable[P, torch.Tensor]:
    """Makes a function an operator of PyTorch, which `torch.compile` takes as it is.

    schema: its name, arguments and results as `torch.library` writes them. on_cpu: computes it.
    empty: for the same arguments a tensor of the result's shape and dtype.
    """
    name = schema.partition("(")[0]
    _OPERATORS.define(schema)
    _OPERATORS.impl(name, on_cpu, "CPU")
    torch.library.register_fake(f"spatialvla::{name}", empty, lib=_OPERATORS)
    return cast(Callable[P, torch.Tensor], getattr(torch.ops.spatialvla, name))


ADDRESS, SIZE, NUMBER, FLAG = ctypes.c_void_p, ctypes.c_long, ctypes.c_float, ctypes.c_int


def entry(name: str, *arguments: type) -> Callable[..., None]:
    """A function of the library with these types of arguments, looked up when it is first called."""

    @cache
    def found() -> Callable[..., None]:
        built = library()
        assert built is not None
        function = built[name]
        function.argtypes = arguments
        return function

    def call(*values: object) -> None:
        found()(*values)

    return call


def require(kept: bool, what: str) -> None:
    """Raises ValueError unless `kept`: the kernel would misread its memory."""
    if not kept:
        raise ValueError(f"A kernel was given what it does not take: {what}.")


def bfloat16(*tensors: torch.Tensor | None) -> None:
    """Raises ValueError unless all are bfloat16 on a CPU."""
    for tensor in tensors:
        if tensor is not None and (tensor.dtype != torch.bfloat16 or tensor.device.type != "cpu"):
            require(False, f"{tensor.dtype} on {tensor.device.type} in place of bfloat16 on a CPU")


def pointer(tensor: torch.Tensor | None) -> int | None:
    """Where a tensor's numbers begin; None for no tensor."""
    return None if tensor is None else tensor.data_ptr()
