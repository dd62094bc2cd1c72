"""What a TFDS dataset announces in its two JSON files, and how each feature becomes arrays."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from spatialvla.common.budget import Budget
from spatialvla.common.json_files import parse_json
from spatialvla.common.pictures import open_picture
from spatialvla.common.rgb_files import read_rgb
from spatialvla.data.rlds.example import FeatureList
from spatialvla.data.rlds.records import Record
from spatialvla.errors import CheckpointError, InputError

Kind = Literal["tensor", "image", "text"]

_SPREAD, _SLACK = 100, 256 * 2**20
"""How many times its own bytes the packed tensors of an episode may take, and these; depth takes a tenth of it."""

_BLOCK = 2**20


@dataclass(frozen=True)
class DatasetInfo:
    """dataset_info.json. name, version: of the dataset. lengths: records of each shard by split, where it says so."""

    name: str | None
    lengths: Mapping[str, Sequence[int]]
    version: str | None = None


@dataclass(frozen=True)
class FeatureSpec:
    """One leaf of the tree of features.

    key: its path, as in the records ("steps/observation/image"). shape: of one item, None where it varies.
    encoding: "none", "bytes" or "zlib" of a tensor; "jpeg", "png" or "" of an image.
    depth: how many sequences it lies in, at most 2; a feature of `steps` in one.
    """

    key: str
    kind: Kind
    dtype: np.dtype
    shape: tuple[int | None, ...]
    encoding: str
    depth: int

    @property
    def is_of_steps(self) -> bool:
        """Whether each step has an item, or several."""
        return self.key.startswith("steps/")


def parse_info(data: bytes, source: str) -> DatasetInfo:
    """The content of dataset_info.json. Raises CheckpointError, naming `source`, for what cannot be read."""
    content = parse_json(data, source)
    try:
        lengths = {
            str(split["name"]): [int(length) for length in split["shardLengths"]]
            for split in content.get("splits", [])
            if "shardLengths" in split
        }
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise CheckpointError(
            f"{source} has splits that cannot be read ({error!r}); copy it again."
        ) from None
    name = content.get("name")
    version = content.get("version")
    return DatasetInfo(
        name if isinstance(name, str) else None, lengths, version if isinstance(version, str) else None
    )


def parse_features(data: bytes, source: str) -> Mapping[str, FeatureSpec]:
    """The leaves of features.json by key; those of kinds that are not read here, as Audio, are left out.

    Raises CheckpointError, naming `source`, for what cannot be read.
    """
    tree = parse_json(data, source)
    try:
        return {spec.key: spec for spec in _leaves(tree, "", 0)}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise CheckpointError(
            f"{source} is no description of TFDS features ({error}); copy it again, or convert the dataset "
            "with a TFDS version that writes 'featuresDict'."
        ) from error


def _leaves(node: Mapping[str, Any], key: str, depth: int) -> Iterator[FeatureSpec]:
    if depth > 2:
        return
    if "featuresDict" in node:
        for name, child in node["featuresDict"]["features"].items():
            yield from _leaves(child, f"{key}/{name}" if key else name, depth)
    elif "sequence" in node:
        yield from _leaves(node["sequence"]["feature"], key, depth + 1)
    elif "tensor" in node:
        tensor = node["tensor"]
        encoding = tensor.get("encoding", "none") or "none"
        text = tensor["dtype"] in ("string", "object")
        try:
            dtype = np.dtype(object if text else tensor["dtype"])
        except TypeError:  # such as bfloat16
            return
        if dtype.isbuiltin != 1:  # another package taught NumPy what it is
            return
        yield FeatureSpec(key, "text" if text else "tensor", dtype, _shape(tensor), encoding, depth)
    elif "image" in node:
        image = node["image"]
        dtype = np.dtype(image.get("dtype") or "uint8")
        yield FeatureSpec(key, "image", dtype, _shape(image), image.get("encodingFormat", ""), depth)
    elif "text" in node or "translation" in node:
        yield FeatureSpec(key, "text", np.dtype(object), (), "none", depth)
    elif "classLabel" in node:
        yield FeatureSpec(key, "tensor", np.dtype(np.int64), (), "none", depth)
    elif "boundingBox" in node:
        yield FeatureSpec(key, "tensor", np.dtype(np.float32), (4,), "none", depth)
    elif "pythonClassName" not in node:
        raise ValueError(f"'{key}' is of no kind")


def _shape(node: Mapping[str, Any]) -> tuple[int | None, ...]:
    sizes = [int(size) for size in node.get("shape", {}).get("dimensions", [])]
    return tuple(None if size < 0 else size for size in sizes)


def numbers(spec: FeatureSpec, record: Mapping[str, FeatureList]) -> np.ndarray | list[np.ndarray]:
    """A tensor: (*shape) outside of sequences, (items, *shape) in one; a list where the items' shapes differ.

    In a sequence of sequences each item of the outer one is an array (inner items, *shape).
    Raises CheckpointError where the numbers do not fill the shape.
    """
    stored = _stored(spec, record)
    if spec.encoding != "none":
        items = _decoded(spec, record, stored.items())
        return items[0] if spec.depth == 0 else _stacked(items, spec)
    flat = stored.floats() if spec.dtype.kind == "f" else stored.integers()
    flat = flat if flat.dtype == spec.dtype else flat.astype(spec.dtype)
    if spec.depth == 0:
        return _reshaped(spec, flat, spec.shape)
    if None in spec.shape:
        raise CheckpointError(f"'{spec.key}' varies in shape within a sequence, which is not supported")
    rows = _reshaped(spec, flat, (None, *spec.shape))
    return _split(spec, record, rows) if spec.depth == 2 else rows


def texts(spec: FeatureSpec, record: Mapping[str, FeatureList]) -> list[str]:
    """The items of a text, one outside of sequences; bytes that are no UTF-8 are replaced."""
    return [bytes(item).decode("utf-8", errors="replace") for item in _stored(spec, record).items()]


def files(spec: FeatureSpec, record: Record, steps: Sequence[int] | None = None) -> list[memoryview]:
    """The items of an image, still JPEG or PNG files; all unless steps are given."""
    return record.some(_stored_under(spec, record), steps)


def count(spec: FeatureSpec, record: Record) -> int:
    """The items of an image."""
    return record.count(_stored_under(spec, record))


def decode_image(spec: FeatureSpec, data: memoryview | bytes) -> np.ndarray:
    """(H, W, C) of one image file. Raises CheckpointError where it is none, or has another size."""
    try:
        is_color = spec.dtype == np.uint8 and spec.shape[-1:] == (3,)
        pixels = read_rgb(data) if is_color else np.asarray(open_picture(data))
    except InputError as error:
        raise CheckpointError(f"'{spec.key}' holds a file that is no image ({error})") from error
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if len(spec.shape) != pixels.ndim or any(
        want not in (None, got) for want, got in zip(spec.shape, pixels.shape, strict=True)
    ):
        raise CheckpointError(
            f"'{spec.key}' holds an image of shape {pixels.shape}, announced was {spec.shape}"
        )
    if pixels.dtype == spec.dtype:
        return pixels
    if spec.dtype == np.float32 and pixels.dtype == np.uint8 and pixels.shape[-1] == 4:
        return np.ascontiguousarray(pixels).view(
            "<f4"
        )  # TFDS stores a float image as the bytes of an RGBA one
    return pixels.astype(spec.dtype)


def _stored(spec: FeatureSpec, record: Mapping[str, FeatureList]) -> FeatureList:
    return record[_stored_under(spec, record)]


def _stored_under(spec: FeatureSpec, record: Mapping[str, FeatureList]) -> str:
    for key in (spec.key, f"{spec.key}/ragged_flat_values", f"{spec.key}/value"):
        if key in record:
            return key
    raise CheckpointError(f"lacks the feature '{spec.key}' that features.json announces")


def _decoded(
    spec: FeatureSpec, record: Mapping[str, FeatureList], items: list[memoryview]
) -> list[np.ndarray]:
    """Tensors stored as their bytes; where several sizes vary, the shape of each stands beside it."""
    shapes: list[tuple[int | None, ...]] = [spec.shape] * len(items)
    dtype = spec.dtype.newbyteorder("<")
    budget = Budget(2**63, _SPREAD * sum(map(len, items)) + _SLACK)
    try:
        if f"{spec.key}/shape" in record:
            stored = record[f"{spec.key}/shape"].integers()
            shapes = [tuple(shape) for shape in stored.reshape(len(items), len(spec.shape)).tolist()]
        raw = [_unpacked(item, budget) if spec.encoding == "zlib" else item for item in items]
        arrays = [np.frombuffer(data, dtype) for data in raw]
    except (zlib.error, ValueError) as error:
        raise CheckpointError(f"'{spec.key}' cannot be unpacked ({error})") from error
    return [_reshaped(spec, array, shape) for array, shape in zip(arrays, shapes, strict=True)]


def _unpacked(data: memoryview, budget: Budget) -> bytes:
    """The bytes of a zlib stream, counted as they come."""
    unpacker = zlib.decompressobj()
    blocks = []
    while not unpacker.eof:
        blocks.append(unpacker.decompress(data, _BLOCK))
        budget.spend(size=len(blocks[-1]))
        data = memoryview(unpacker.unconsumed_tail)
        if not blocks[-1] and not unpacker.eof:
            raise zlib.error("it ends too early")
    return b"".join(blocks)


def _stacked(items: list[np.ndarray], spec: FeatureSpec) -> np.ndarray | list[np.ndarray]:
    if not items:
        return np.zeros((0, *(size or 0 for size in spec.shape)), spec.dtype)
    return np.stack(items) if len({item.shape for item in items}) == 1 else items


def _split(spec: FeatureSpec, record: Mapping[str, FeatureList], items: np.ndarray) -> list[np.ndarray]:
    key = f"{spec.key}/ragged_row_lengths_0"
    if key not in record:
        raise CheckpointError(f"lacks the lengths '{key}' of a feature")
    lengths = record[key].integers()
    if lengths.sum() != len(items) or (lengths < 0).any():
        raise CheckpointError(f"'{spec.key}' has {len(items)} items, its rows {lengths.sum()}")
    return np.split(items, np.cumsum(lengths)[:-1])


def _reshaped(spec: FeatureSpec, flat: np.ndarray, shape: tuple[int | None, ...]) -> np.ndarray:
    try:
        return flat.reshape([-1 if size is None else size for size in shape])
    except ValueError as error:
        raise CheckpointError(
            f"'{spec.key}' has {flat.size} numbers, which do not make {spec.shape}"
        ) from error


def stored_key(key: str, features: Mapping[str, FeatureSpec]) -> str:
    """The full key of a step's feature, or else of the episode's."""
    return f"steps/{key}" if f"steps/{key}" in features else key
