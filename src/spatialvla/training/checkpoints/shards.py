"""Storage for torch.distributed.checkpoint: safetensors files, each chunk with its offsets, nothing pickled."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import google_crc32c
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from spatialvla.common.json_files import parse_value
from spatialvla.errors import CheckpointError

T = TypeVar("T")

FILE_BYTES = 4 * 1024**3
"""A rank's tensors are copied to the CPU and written so many bytes at a time."""

_BLOCK = 16 * 1024**2
_PLACES = "places"


@dataclass(frozen=True)
class FileRecord:
    """What a file must be to be whole. crc32c: of all its bytes."""

    name: str
    bytes: int
    crc32c: int

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        """Of a file as it is now."""
        checksum = 0
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                checksum = google_crc32c.extend(checksum, block)
            return cls(path.name, file.tell(), checksum)

    def check(self, folder: Path) -> None:
        """Raises CheckpointError where the folder's file is missing or another."""
        path = folder / self.name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        if (size := path.stat().st_size) != self.bytes:
            raise CheckpointError(f"{path} has {size} bytes instead of {self.bytes}")
        if FileRecord.of(path) != self:
            raise CheckpointError(f"{path} has other contents than were written")


@dataclass(frozen=True)
class Chunk:
    """A block of a tensor in a file: where it begins in the tensor, and its sizes."""

    file: Path
    key: str
    name: str
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    dtype: torch.dtype


class ShardWriter(StorageWriter):
    """Writes rank R's chunks to shard_R_I.safetensors in `folder`; `files`, on rank 0, lists all ranks'.

    A tensor written whole keeps its name as its key, so that a checkpoint of one process is plain
    safetensors.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder = folder
        self.rank = rank
        self.files: list[FileRecord] = []

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """No file is written yet."""
        self.files = []

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """The folder is there already."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Each rank writes what it is asked to."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """No rank depends on another: each has files of its own."""
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Writes and flushes this rank's chunks. Raises OSError, naming the file, where that fails."""
        results: list[WriteResult] = []
        for number, items in enumerate(_portions(plan.items)):
            tensors: dict[str, torch.Tensor] = {}
            places: dict[str, tuple[str, tuple[int, ...]]] = {}
            for item in items:
                key, offsets = _place(item)
                tensor = planner.resolve_data(item)
                assert isinstance(tensor, torch.Tensor)
                tensors[key] = tensor.detach().to("cpu", copy=True).contiguous()
                places[key] = (item.index.fqn, offsets)
            path = self.folder / f"shard_{self.rank:05d}_{number:03d}.safetensors"
            try:
                save_file(tensors, path, metadata={_PLACES: json.dumps(places)})
            except SafetensorError as error:
                raise OSError(f"{path} cannot be written: {error}") from error
            flush(path)
            record = FileRecord.of(path)
            results += [WriteResult(item.index, _size(item), record) for item in items]
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Lists the files of all ranks in `files`; called on rank 0."""
        self.files = sorted(
            {result.storage_data for part in results for result in part}, key=lambda file: file.name
        )

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Any; the folder is the constructor's."""
        return True


class ShardReader(StorageReader):
    """Reads what any number of `ShardWriter` wrote into `folder`."""

    def __init__(self, folder: Path, files: Iterable[str]) -> None:
        """files: names of the files of the checkpoint.

        Raises CheckpointError where one cannot be read, or the chunks of a tensor do not make it whole.
        """
        self.chunks: dict[MetadataIndex, Chunk] = {}
        for name in files:
            for chunk in _chunks(folder / name):
                self.chunks[MetadataIndex(chunk.name, chunk.offsets)] = chunk
        for name, entry in self.tensors().items():
            if sum(chunk.sizes.numel() for chunk in entry.chunks) != entry.size.numel():
                raise CheckpointError(f"{folder} holds {name} in part only")

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept between reads."""

    def tensors(self) -> dict[str, TensorStorageMetadata]:
        """What the files hold, by name. Sizes follow from where the chunks end."""
        tensors: dict[str, TensorStorageMetadata] = {}
        for chunk in self.chunks.values():
            ends = [offset + size for offset, size in zip(chunk.offsets, chunk.sizes, strict=True)]
            entry = tensors.setdefault(
                chunk.name, TensorStorageMetadata(TensorProperties(chunk.dtype), torch.Size(ends), [])
            )
            entry.size = torch.Size(map(max, entry.size, ends))
            entry.chunks.append(ChunkStorageMetadata(torch.Size(chunk.offsets), torch.Size(chunk.sizes)))
        return tensors

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """From the headers of the files alone."""
        return Metadata(dict(self.tensors()), storage_data=self.chunks)

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        """The chunks are known from the constructor on."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Each rank reads what it is asked to."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """No rank depends on another."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Copies the wanted part of each chunk into the tensor that waits for it."""
        for path, items in _by_file(plan.items, lambda item: self.chunks[item.storage_index].file):
            with safe_open(path, "pt") as file:
                for item in items:
                    part = _slices(item.storage_offsets, item.lengths)
                    key = self.chunks[item.storage_index].key
                    target = planner.resolve_tensor(item).detach()
                    target.copy_(file.get_slice(key)[part] if part else file.get_tensor(key))
                    planner.commit_tensor(item, target)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Any; the folder is the constructor's."""
        return True

    def whole(self, prefix: str) -> dict[str, torch.Tensor]:
        """All tensors whose name begins so, put together on the CPU, without the prefix."""
        tensors = {
            name: torch.empty(entry.size, dtype=entry.properties.dtype)
            for name, entry in self.tensors().items()
            if name.startswith(prefix)
        }
        wanted = [chunk for chunk in self.chunks.values() if chunk.name in tensors]
        for path, chunks in _by_file(wanted, lambda chunk: chunk.file):
            with safe_open(path, "pt") as file:
                for chunk in chunks:
                    part = _slices(chunk.offsets, chunk.sizes)
                    tensors[chunk.name][part] = file.get_tensor(chunk.key)
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _by_file(items: Iterable[T], file: Callable[[T], Path]) -> Iterator[tuple[Path, list[T]]]:
    for path, group in groupby(sorted(items, key=file), file):
        yield path, list(group)


def _slices(offsets: Sequence[int], sizes: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(offset, offset + size) for offset, size in zip(offsets, sizes, strict=True))


def flush(path: Path) -> None:
    """Returns once a file, or a folder's list of files, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _portions(items: Iterable[WriteItem]) -> Iterator[list[WriteItem]]:
    """Items that fit a file; a rank has nothing to write of a tensor with fewer rows than there are ranks."""
    portion: list[WriteItem] = []
    used = 0
    for item in items:
        size = _size(item)
        if size == 0:
            continue
        if portion and used + size > FILE_BYTES:
            yield portion
            portion, used = [], 0
        portion.append(item)
        used += size
    if portion:
        yield portion


def _size(item: WriteItem) -> int:
    assert item.tensor_data is not None
    return item.tensor_data.chunk.sizes.numel() * item.tensor_data.properties.dtype.itemsize


def _place(item: WriteItem) -> tuple[str, tuple[int, ...]]:
    """The chunk's key in its file, and where it begins in the tensor."""
    assert item.tensor_data is not None
    chunk = item.tensor_data.chunk
    offsets = tuple(chunk.offsets)
    if chunk.sizes == item.tensor_data.size:
        return item.index.fqn, offsets
    return f"{item.index.fqn}@{','.join(map(str, offsets))}", offsets


def _chunks(path: Path) -> Iterator[Chunk]:
    try:
        with safe_open(path, "pt") as file:
            places = parse_value((file.metadata() or {})[_PLACES])
            for key in file.keys():  # noqa: SIM118  (not a mapping)
                name, offsets = places[key]
                view = file.get_slice(key)
                sizes = tuple(view.get_shape())
                if len(offsets) != len(sizes) or not all(type(o) is int and o >= 0 for o in offsets):
                    raise ValueError(f"{key} is said to begin at {offsets}")
                yield Chunk(path, key, str(name), tuple(offsets), sizes, _DTYPES[view.get_dtype()])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error


_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
