"""msgpack with NumPy arrays, as openpi writes it; reading is safe for messages from anyone.

An array is a map with the bytes keys `__ndarray__` (true), `data`, `dtype` and `shape`; a NumPy scalar is a
map with `__npgeneric__` (true), `data` and `dtype`. Arrays hold numbers or booleans only, so reading never
runs code, and a message takes no more memory than a few times its own size.
"""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np

_WRITTEN = ("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8")
_READ = {name: np.dtype(name) for name in (*_WRITTEN, *(name.replace("<", ">") for name in _WRITTEN[3:]))}
_MOST_DIMENSIONS = 4
_MOST_CONTAINERS = 256
_MOST_ENTRIES = 1024
"""Limits of a message; without them, sixteen megabytes of empty maps would take a gigabyte of memory."""


class CodecError(ValueError):
    """Bytes that are no message, or a value that cannot be sent."""


def pack(message: dict[str, Any]) -> bytes:
    """The bytes of a message: numbers, strings, bytes, lists, maps, NumPy arrays and scalars.

    Raises CodecError for anything else.
    """
    try:
        packed: bytes = msgpack.packb(message, default=_to_map)
        return packed
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError(f"The message cannot be sent: {error}") from None


def unpack(data: bytes) -> dict[str, Any]:
    """The message in some bytes, its arrays read-only. Raises CodecError for bytes that are no message."""
    containers = 0

    def counted(container: Any) -> Any:
        nonlocal containers
        containers += 1
        if containers > _MOST_CONTAINERS:
            raise CodecError(f"The message holds more than {_MOST_CONTAINERS} lists and maps; send arrays.")
        return _from_map(container) if isinstance(container, dict) else container

    try:
        message = msgpack.unpackb(
            data,
            object_hook=counted,
            list_hook=counted,
            ext_hook=_refuse_extension,
            max_array_len=_MOST_ENTRIES,
            max_map_len=_MOST_ENTRIES,
            max_ext_len=0,
        )
    except CodecError:
        raise
    except Exception as error:  # msgpack raises many kinds of errors for broken bytes
        raise CodecError(f"The message is no msgpack ({type(error).__name__}).") from None
    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        raise CodecError("The message is no map from names to values.")
    return message


def _to_map(value: Any) -> dict[bytes, Any]:
    if isinstance(value, np.ndarray):
        dtype = _sent_as(value.dtype)
        return {
            b"__ndarray__": True,
            b"data": np.ascontiguousarray(value, dtype).tobytes(),
            b"dtype": dtype.str,
            b"shape": value.shape,
        }
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": _sent_as(value.dtype).str}
    raise TypeError(f"a {type(value).__name__} is neither a number, a string nor an array")


def _sent_as(dtype: np.dtype) -> np.dtype:
    """The little-endian form of a dtype that may be sent."""
    little = dtype.newbyteorder("<")
    if little.str not in _WRITTEN:
        raise TypeError(f"arrays of {dtype} are not sent")
    return little


def _from_map(content: dict[Any, Any]) -> Any:
    if b"__ndarray__" in content:
        return _array(content)
    if b"__npgeneric__" in content:
        dtype, value = _dtype(content), content.get(b"data")
        if not isinstance(value, bool | int | float):
            raise CodecError("A scalar in the message has no number.")
        try:
            return dtype.type(value)
        except (OverflowError, ValueError):
            raise CodecError(f"A scalar in the message does not fit {dtype}.") from None
    return content


def _array(content: dict[Any, Any]) -> np.ndarray:
    dtype, data, shape = _dtype(content), content.get(b"data"), content.get(b"shape")
    if not isinstance(data, bytes):
        raise CodecError("An array in the message has no bytes.")
    if (
        not isinstance(shape, list)
        or len(shape) > _MOST_DIMENSIONS
        or not all(type(side) is int and side >= 0 for side in shape)
    ):
        raise CodecError(f"An array in the message has no shape of up to {_MOST_DIMENSIONS} sides.")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise CodecError(
            f"An array in the message says {dtype} of shape {tuple(shape)[:4]} and has {len(data)} bytes."
        )
    try:
        return np.ndarray(shape, dtype, data)
    except ValueError:  # an empty array with sides too large for NumPy
        raise CodecError("An array in the message has an impossible shape.") from None


def _dtype(content: dict[Any, Any]) -> np.dtype:
    name = content.get(b"dtype")
    found = _READ.get(name) if isinstance(name, str) else None
    if found is None:
        raise CodecError(f"Arrays in a message are one of {', '.join(_WRITTEN)}.")
    return found


def _refuse_extension(code: int, data: bytes) -> Any:
    raise CodecError("The message holds an extension type; send numbers, strings and arrays.")
