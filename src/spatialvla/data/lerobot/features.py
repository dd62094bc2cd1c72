"""What a dataset holds for each frame, and how LeRobot v3.0 writes that in JSON, Arrow and `datasets`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spatialvla.data.lerobot.depth_video import DepthQuantization
from spatialvla.errors import InputError

_UNIT_METERS = {"mm": 1e-3, "m": 1.0}
_IMAGE_AXES = ("height", "width", "channels")
_NUMBERS = {
    "float32": pa.float32(),
    "float64": pa.float64(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint8": pa.uint8(),
    "uint16": pa.uint16(),
    "uint32": pa.uint32(),
    "uint64": pa.uint64(),
    "bool": pa.bool_(),
}
_MAX_ARRAY_DIMENSIONS = 5


@dataclass(frozen=True)
class Feature:
    """One named value of each frame.

    dtype: 'video' (RGB, lossy H.264), 'image' (RGB, lossless PNG), 'depth' (meters, stored in
        whole millimeters), 'depth_video' (meters, stored in 12 bits), or a NumPy number type such as
        'float32', 'int64', 'bool'.
    shape: of one frame: (H, W, 3) for 'video' and 'image', (H, W) for depth, otherwise 1 to 5 dimensions.
    names: of the entries of a vector, such as ('x', 'y', 'z').
    info: how the pixels are stored; known for what was read from a dataset. To write a 'depth_video' in other
        steps than LeRobot's own, give `DepthQuantization.to_info()`.

    Raises InputError for a dtype or shape that cannot be stored.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    names: Sequence[str] | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        if self.names is not None:
            object.__setattr__(self, "names", tuple(self.names))
        wanted = "(H, W, 3)" if self.is_rgb else "(H, W)" if self.is_depth else None
        if wanted is None and self.dtype not in (*_NUMBERS, "string"):
            raise InputError(
                f"Feature '{self.name}' has dtype '{self.dtype}'; use 'video', 'image', 'depth', "
                f"'depth_video' or one of {', '.join(_NUMBERS)}."
            )
        if wanted is None and not 1 <= len(self.shape) <= _MAX_ARRAY_DIMENSIONS:
            raise InputError(
                f"Feature '{self.name}' has shape {self.shape}; LeRobot stores 1 to 5 dimensions a frame."
            )
        rgb_misshapen = self.is_rgb and (len(self.shape) != 3 or self.shape[2] != 3)
        if rgb_misshapen or (self.is_depth and len(self.shape) != 2):
            raise InputError(
                f"Feature '{self.name}' of dtype '{self.dtype}' needs shape {wanted}, not {self.shape}."
            )
        if any(size < 1 for size in self.shape):
            raise InputError(
                f"Feature '{self.name}' has an empty shape {self.shape}; all sizes must be positive."
            )

    @property
    def is_rgb(self) -> bool:
        """Whether each frame is a color image."""
        return self.dtype in ("video", "image")

    @property
    def is_depth(self) -> bool:
        """Whether each frame is a depth map."""
        return self.dtype in ("depth", "depth_video")

    @property
    def is_video(self) -> bool:
        """Whether the frames are in a video file, and not in the parquet file."""
        return self.dtype in ("video", "depth_video")

    @property
    def is_encoded_image(self) -> bool:
        """Whether each frame is a PNG or TIFF file inside the parquet file."""
        return self.dtype in ("image", "depth")

    @property
    def is_number(self) -> bool:
        """Whether each frame is a number or an array of numbers."""
        return self.dtype in _NUMBERS

    @classmethod
    def from_json(cls, name: str, spec: Mapping[str, Any]) -> Feature | None:
        """Read an entry of `features` in info.json.

        None for what cannot be read here, and so is not there to be used: language, depth video that does not
        say how meters became codes, gray cameras, empty vectors.
        """
        info = spec.get("info") or spec.get("video_info") or {}
        dtype, shape, names = spec["dtype"], tuple(spec["shape"]), spec.get("names")
        if dtype in ("video", "image"):
            if info.get("is_depth_map") or info.get("video.is_depth_map"):
                if len(shape) not in (2, 3) or (
                    dtype == "video" and not DepthQuantization.is_described(info)
                ):
                    return None
                shape = shape[1:] if len(shape) == 3 and shape[0] == 1 != shape[2] else shape[:2]
                return cls(name, "depth" if dtype == "image" else "depth_video", shape, info=info)
            if shape[:1] == (3,) and shape[-1] != 3:  # some datasets name the channels first
                shape = (*shape[1:], 3)
            return cls(name, dtype, shape, info=info) if len(shape) == 3 and shape[2] == 3 else None
        if dtype not in (*_NUMBERS, "string") or len(shape) > _MAX_ARRAY_DIMENSIONS or 0 in shape:
            return None
        return cls(name, dtype, shape or (1,), _flat_names(names))

    def to_json(self) -> dict[str, Any]:
        """This feature as an entry of `features` in info.json."""
        if not (self.is_rgb or self.is_depth):
            names = None if self.names is None else list(self.names)
            return {"dtype": self.dtype, "shape": list(self.shape), "names": names}
        spec: dict[str, Any] = {
            "dtype": "video" if self.is_video else "image",
            "shape": [*self.shape, 1] if self.is_depth else list(self.shape),
            "names": list(_IMAGE_AXES),
        }
        info = {"is_depth_map": True, "depth_unit": "mm"} if self.dtype == "depth" else dict(self.info)
        return {**spec, "info": info} if info else spec

    @property
    def arrow_type(self) -> pa.DataType:
        """The type of this feature's parquet column; videos have none."""
        if self.is_encoded_image:
            return pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        number = _NUMBERS[self.dtype]
        if self.shape == (1,):
            return number
        if len(self.shape) == 1:
            return pa.list_(number, self.shape[0])
        for _ in self.shape:
            number = pa.list_(number)
        return number

    @property
    def hugging_face_type(self) -> dict[str, Any]:
        """The same type as the `datasets` library writes it into a parquet file's schema."""
        if self.is_encoded_image:
            return {"_type": "Image"}
        if self.shape == (1,):
            return {"dtype": self.dtype, "_type": "Value"}
        if len(self.shape) == 1:
            return {
                "feature": {"dtype": self.dtype, "_type": "Value"},
                "length": self.shape[0],
                "_type": "List",
            }
        return {"shape": list(self.shape), "dtype": self.dtype, "_type": f"Array{len(self.shape)}D"}

    def to_arrow(self, values: np.ndarray) -> pa.Array:
        """Numbers (T, *shape) as a column of `arrow_type`."""
        flat = pa.array(values.reshape(-1))
        if self.shape == (1,):
            return flat
        if len(self.shape) == 1:
            return pa.FixedSizeListArray.from_arrays(flat, self.shape[0])
        for size in reversed(self.shape):
            offsets = np.arange(0, len(flat) + 1, size, dtype=np.int32)
            flat = pa.ListArray.from_arrays(pa.array(offsets), flat)
        return flat

    def from_arrow(self, column: pa.ChunkedArray) -> np.ndarray:
        """A column as numbers: (T, *shape), or (T,) when shape is (1,), as LeRobot has it.

        Raises ValueError or ArrowException where a row holds something else.
        """
        values = column.combine_chunks()
        length = len(values)
        for size in self.shape:
            if not pa.types.is_nested(values.type):
                break
            lengths = pc.list_value_length(values).unique().to_pylist()
            if lengths not in ([size], []):
                raise ValueError(f"lists of {', '.join(map(str, lengths))} numbers in place of {size}")
            values = values.flatten()
        array: np.ndarray = values.to_numpy(zero_copy_only=False)
        if self.is_number and array.dtype.kind not in "biuf":
            raise ValueError(f"{values.type} in place of {self.dtype}")
        return array if self.shape == (1,) else array.reshape(length, *self.shape)


def depth_feature(name: str, size: tuple[int, ...], quantization: DepthQuantization | None) -> Feature:
    """Depth of (height, width) pixels as video in these steps, or as images in whole millimeters for None."""
    if quantization is None:
        return Feature(name, "depth", size)
    return Feature(name, "depth_video", size, info=quantization.to_info())


def meters_of_unit(info: Mapping[str, Any]) -> float:
    """What 1 in depth images is, by the feature's `info`: millimeters unless it says something else.

    Raises InputError for units that LeRobot does not have.
    """
    unit = info.get("depth_unit", "mm")
    if not isinstance(unit, str) or unit not in _UNIT_METERS:
        raise InputError(f"info.json says depth_unit = {unit}; correct it to 'm' or 'mm'.")
    return _UNIT_METERS[unit]


def _flat_names(names: Any) -> Sequence[str] | None:
    """The names of a vector's entries, which some datasets put into a dictionary of one kind ('motors')."""
    if isinstance(names, Mapping):
        names = next(iter(names.values()), None) if len(names) == 1 else None
    return names if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names) else None


BOOKKEEPING = (
    Feature("timestamp", "float32", (1,)),
    Feature("frame_index", "int64", (1,)),
    Feature("episode_index", "int64", (1,)),
    Feature("index", "int64", (1,)),
    Feature("task_index", "int64", (1,)),
)
"""Columns LeRobot adds to each frame; timestamp is in seconds since the episode began."""


def data_schema(features: Sequence[Feature]) -> pa.Schema:
    """The schema of the data files, with the metadata that the `datasets` library looks for."""
    stored = [feature for feature in features if not feature.is_video]
    hugging_face = {feature.name: feature.hugging_face_type for feature in stored}
    metadata = {"huggingface": json.dumps({"info": {"features": hugging_face}})}
    return pa.schema([(feature.name, feature.arrow_type) for feature in stored], metadata=metadata)
