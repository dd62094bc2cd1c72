"""Read the pickled dictionaries in RH20T's .npy files without letting a pickle call anything.

`numpy.load(allow_pickle=True)` runs whatever a file asks for. Here a pickle may name nothing but the few functions
that NumPy writes for arrays and scalars, and in their place stand inert objects of this file: no function of NumPy
or of Python is called with what the file holds, except `numpy.frombuffer` with plain number and text types.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from spatialvla.errors import CheckpointError

_KINDS = frozenset("biufUS")
_DEEPEST = 50  # containers in containers


def read_dictionary(path: Path) -> dict[Any, Any]:
    """The dictionary in a .npy file, of plain containers, numbers, text and arrays.

    Raises CheckpointError, naming the file, where it is missing, broken, or holds anything else.
    """
    try:
        with open(path, "rb") as file:
            shape, _, dtype = _header(file)
            if dtype != np.dtype(object) or shape != ():
                raise ValueError(f"holds an array of {dtype}, no dictionary")
            content = _plain(_Unpickler(file).load())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; copy the whole folder.") from error
    except Exception as error:  # whatever broken bytes lead to: they are not ours
        raise CheckpointError(f"{path} cannot be read ({error}); copy it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no dictionary; copy it again.")
    return content


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(
        version
    )
    if read is None:
        raise ValueError(f"has version {version} of the format")
    return read(file)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        maker = _MAKERS.get((module.replace("numpy.core.", "numpy._core."), name))
        if maker is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not allowed")
        return maker()

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside of itself")


class _Name:
    """What a pickle may name. Has no attributes to set, and no state to be given."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it gives a state to a function")

    def __call__(self, *arguments: Any) -> Any:
        raise pickle.UnpicklingError("it calls what is no function")


class _DType:
    """A type of numbers or text: its code, such as f8, and the order of its bytes."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("<", ">", "=", "|") or any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("it holds a compound type")
        self.order = state[1]

    @property
    def is_object(self) -> bool:
        return self.code in ("O", "O8")

    def array(self, data: Any) -> np.ndarray:
        dtype = np.dtype(self.order.replace("|", "=") + self.code)
        if dtype.kind not in _KINDS or dtype.itemsize == 0:
            raise pickle.UnpicklingError(f"it holds an array of {self.code!r}")
        if not isinstance(data, bytes | bytearray):
            raise pickle.UnpicklingError("it holds an array without bytes")
        return np.frombuffer(data, dtype)


class _Array:
    """An array in the making: its state comes after it."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: Any = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        if not isinstance(dtype, _DType):
            raise pickle.UnpicklingError("it holds an array without a type")
        if dtype.is_object:
            if not isinstance(data, list):
                raise pickle.UnpicklingError("it holds pointers")
            self.value = data[0] if shape == () and len(data) == 1 else data
        else:
            self.value = dtype.array(data).reshape(shape, order="F" if is_fortran else "C").copy()


class _DTypeMaker(_Name):
    __slots__ = ()

    def __call__(self, *arguments: Any) -> _DType:
        if not arguments or not isinstance(arguments[0], str):
            raise pickle.UnpicklingError("it holds a compound type")
        return _DType(arguments[0])


class _ArrayMaker(_Name):
    __slots__ = ()

    def __call__(self, *arguments: Any) -> _Array:
        return _Array()


class _ScalarMaker(_Name):
    __slots__ = ()

    def __call__(self, *arguments: Any) -> Any:
        dtype, data = arguments
        return dtype.array(data)[0].item() if isinstance(dtype, _DType) else _refused()


class _BufferMaker(_Name):
    __slots__ = ()

    def __call__(self, *arguments: Any) -> Any:
        data, dtype, shape, order = arguments
        return (
            dtype.array(data).reshape(shape, order=order).copy() if isinstance(dtype, _DType) else _refused()
        )


_MAKERS: dict[tuple[str, str], type[_Name]] = {
    ("numpy", "ndarray"): _Name,
    ("numpy", "dtype"): _DTypeMaker,
    ("numpy._core.multiarray", "_reconstruct"): _ArrayMaker,
    ("numpy._core.multiarray", "scalar"): _ScalarMaker,
    ("numpy._core.numeric", "_frombuffer"): _BufferMaker,
}


def _refused() -> Any:
    raise pickle.UnpicklingError("it holds numbers without a type")


def _plain(value: Any, depth: int = 0) -> Any:
    """The same with arrays in place of arrays in the making."""
    if depth > _DEEPEST:
        raise ValueError("holds containers in containers without end")
    if isinstance(value, _Array):
        return _plain(value.value, depth + 1)
    if isinstance(value, dict):
        return {key: _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    if value is None or isinstance(value, bool | int | float | str | bytes | np.ndarray):
        return value
    raise ValueError(f"holds a {type(value).__name__.strip('_')}")
