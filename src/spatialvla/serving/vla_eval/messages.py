"""Messages of vla-eval's harness, read without trust: nothing is decoded but what is looked at."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import msgpack
import numpy as np
from PIL import Image

from spatialvla.errors import InputError

_DTYPE = re.compile(r"[<>|=]?([biu]1|[iuf][248])")
_MOST_CONTAINERS = 1024
_MOST_ENTRIES = 4096


@dataclass(frozen=True)
class EncodedPicture:
    """A PNG or JPEG file as it came."""

    data: bytes

    def decoded(self, height: int, width: int) -> np.ndarray:
        """(height, width, channels) as the file has them. Raises InputError for a picture of another size.

        The size is read first: a file of half a megabyte may stand for two gigabytes.
        """
        try:
            with Image.open(BytesIO(self.data), formats=("PNG", "JPEG")) as picture:
                if picture.size == (width, height):
                    return np.asarray(picture)
                size = picture.size
        except Exception as error:  # Pillow's decoders raise whatever comes up in damaged data
            raise InputError(
                f"A picture cannot be decoded ({type(error).__name__}); send PNG or JPEG."
            ) from None
        raise InputError(
            f"A picture has {size[1]} times {size[0]} pixels, but the benchmark's have {height} times {width}; "
            "the camera's intrinsics would not fit."
        )


@dataclass(frozen=True)
class HarnessMessage:
    """What the harness sent. number: comes back with the answer."""

    kind: str
    payload: dict[str, Any]
    number: int


def read(data: str | bytes) -> HarnessMessage:
    """A message; its pictures are `EncodedPicture`, or arrays where they came as such.

    Raises InputError for bytes that are none.
    """
    if isinstance(data, str):
        raise InputError("Messages are binary, this one is text.")
    containers = 0

    def counted(container: Any) -> Any:
        nonlocal containers
        containers += 1
        if containers > _MOST_CONTAINERS:
            raise InputError(f"The message holds more than {_MOST_CONTAINERS} lists and maps.")
        return _value(container) if isinstance(container, dict) else container

    try:
        content = msgpack.unpackb(
            data,
            raw=False,
            object_hook=counted,
            list_hook=counted,
            max_array_len=_MOST_ENTRIES,
            max_map_len=_MOST_ENTRIES,
            max_ext_len=0,
        )
    except InputError:
        raise
    except Exception as error:  # msgpack raises many kinds of errors for broken bytes
        raise InputError(f"The message is no msgpack ({type(error).__name__}).") from None
    match content:
        case {"type": str(kind), "payload": dict(payload), "seq": int(number)}:
            return HarnessMessage(kind, payload, number)
    raise InputError("The message lacks its type, payload or seq.")


def with_pictures(payload: Mapping[str, Any], sizes: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """An observation with some of its pictures decoded, and without the others that would have to be.

    sizes: height and width of those that are looked at, by name. Raises InputError where one has another size.
    """
    images = payload.get("images")
    if not isinstance(images, Mapping):
        return dict(payload)
    looked_at = {}
    for name, picture in images.items():
        if not isinstance(picture, EncodedPicture):
            looked_at[name] = picture
        elif name in sizes:
            looked_at[name] = picture.decoded(*sizes[name])
    return {**payload, "images": looked_at}


def _value(content: dict[Any, Any]) -> Any:
    """What a map of the harness's stands for."""
    if "__image__" in content and content.get("format") in ("png", "jpeg"):
        data = content.get("data")
        if not isinstance(data, bytes):
            raise InputError("A picture in the message has no bytes.")
        return EncodedPicture(data)
    if "__image__" in content or "__ndarray__" in content:
        return _array(content)
    return content


def _array(content: dict[Any, Any]) -> np.ndarray:
    dtype, data, shape = content.get("dtype"), content.get("data"), content.get("shape")
    if not isinstance(dtype, str) or not _DTYPE.fullmatch(dtype) or not isinstance(data, bytes):
        raise InputError("An array in the message has no bytes, or another type than numbers.")
    kind = np.dtype(dtype)
    if (
        not isinstance(shape, list)
        or len(shape) > 4
        or not all(type(side) is int and side >= 0 for side in shape)
        or math.prod(shape) * kind.itemsize != len(data)
    ):
        raise InputError("An array in the message has a shape that does not fit its bytes.")
    return np.frombuffer(data, kind).reshape(shape)
