"""Folders of safetensors: tensors in one file or in shards with an index, every one accounted for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from spatialvla.common.files import inside, replacing, sweep
from spatialvla.common.json_files import parse_value, read_json, write_json
from spatialvla.common.manifest import checking, recording
from spatialvla.errors import CheckpointError, InputError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_SHARD_SIZE = "5GB"
"""The size of a file above which tensors are split over several, as Hugging Face does."""

_PART, _PARTS = 4096, 8
"""Of a sample: bytes, and at how many places."""


class Filling:
    """Copies tensors from files into a model's own, and knows which of these are still missing."""

    def __init__(self, targets: Mapping[str, torch.Tensor]) -> None:
        """targets: the tensors to overwrite, by their names in the files."""
        self.targets = targets
        self.missing = set(targets)

    def take(self, file: Path, key: str, tensor: torch.Tensor) -> None:
        """Copies one tensor.

        Raises CheckpointError where it is not wanted, has another shape, or is not finite as it is copied.
        """
        self.check(file, key, tuple(tensor.shape))
        target = self.targets[key]
        if target.is_floating_point() != tensor.is_floating_point():
            raise CheckpointError(
                f"{key} in {file} is {tensor.dtype}, not {target.dtype}; download it again."
            )
        with torch.no_grad():
            target.copy_(tensor)
        if not _is_finite(target):
            raise CheckpointError(
                f"{key} in {file} contains NaN or infinity in {str(target.dtype).removeprefix('torch.')}; "
                "download it again, or load it in float32."
            )

    def check(self, file: Path, key: str, shape: tuple[int, ...]) -> None:
        """Counts a tensor as found. Raises CheckpointError where it is not wanted, or has another shape."""
        if key not in self.targets:
            raise CheckpointError(f"{file} holds a tensor this model does not have: {key}.")
        if shape != (wanted := tuple(self.targets[key].shape)):
            raise CheckpointError(f"{key} in {file} has shape {shape}, but config.json asks for {wanted}.")
        self.missing.discard(key)

    def finish(self, source: Path) -> None:
        """Raises CheckpointError where a tensor has not been overwritten."""
        if self.missing:
            more = f" and {len(self.missing) - 1} more" if len(self.missing) > 1 else ""
            raise CheckpointError(f"{source} lacks the tensor {min(self.missing)}{more}; download it again.")


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether no number is NaN or infinite; several times faster than `isfinite`, without another copy."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return all(bool(end.isfinite()) for end in torch.aminmax(tensor.detach()))


def read_tensors(folder: Path) -> Iterator[tuple[Path, str, torch.Tensor]]:
    """(file, key, tensor) of each tensor in a folder, one at a time.

    Raises CheckpointError where a file is missing, truncated, or, after the last, not what the folder's manifest
    says.
    """
    files = weight_files(folder)
    with checking(files):
        for file in files:
            for key, tensor in _tensors(file):
                yield file, key, tensor


def read_shapes(folder: Path) -> Iterator[tuple[Path, str, tuple[int, ...]]]:
    """(file, key, shape) of each tensor in a folder; nothing but the files' headers is read.

    Raises CheckpointError where a file is missing or truncated.
    """
    for file in weight_files(folder):
        with _opened(file) as tensors:
            for key in tensors.keys():  # noqa: SIM118  (not a mapping)
                yield file, key, tuple(tensors.get_slice(key).get_shape())


def read_samples(file: Path) -> Iterator[tuple[str, bytes]]:
    """(key, sample) of each tensor in a file: its type, its shape, and its bytes, of a large one evenly spaced parts.

    Raises CheckpointError as `read_shapes`.
    """
    with _opened(file), file.open("rb") as raw:
        size = int.from_bytes(raw.read(8), "little")
        for key, entry in parse_value(raw.read(size)).items():
            if key == "__metadata__":
                continue
            begin, end = (8 + size + at for at in entry["data_offsets"])
            length, places = end - begin, [begin]
            if length > _PART * _PARTS:
                places = [begin + n * (length - _PART) // (_PARTS - 1) for n in range(_PARTS)]
                length = _PART
            parts = [f"{entry['dtype']} {entry['shape']} ".encode()]
            for place in places:
                raw.seek(place)
                parts.append(raw.read(length))
            yield key, b"".join(parts)


def count_numbers(folder: Path) -> int:
    """Numbers in all of a folder's safetensors files, an adapter's too. Raises CheckpointError as `read_shapes`."""
    count = 0
    for file in sorted(folder.glob("*.safetensors")):
        with _opened(file) as tensors:
            count += sum(prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118
    return count


def read_file(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """(key, tensor) of each tensor in a file. Raises CheckpointError as `read_tensors`."""
    with checking([file]):
        yield from _tensors(file)


def read_header(file: Path) -> dict[str, str]:
    """What a safetensors file's header tells beside its tensors. Raises CheckpointError as `read_shapes`."""
    with _opened(file) as tensors:
        return dict(tensors.metadata() or {})


def _tensors(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    with _opened(file) as tensors:
        keys = list(tensors.keys())
    for key in keys:
        # What has been read of a file counts as the process's memory for as long as the file is open.
        with _opened(file) as tensors:
            yield key, tensors.get_tensor(key)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    if not file.exists():
        raise CheckpointError(f"{file} does not exist; only safetensors weights are loaded.")
    try:
        with safe_open(file, "pt") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is not a complete safetensors file ({error}); download it again."
        ) from None


def write_tensors(
    tensors: Mapping[str, torch.Tensor], folder: Path, max_shard_size: int | str = MAX_SHARD_SIZE
) -> None:
    """Writes model.safetensors, or shards of at most `max_shard_size` and their index.

    Each file appears at once or not at all, the index last. Files of an earlier save that no longer belong
    are removed. max_shard_size: bytes, or a text such as "5GB". Raises CheckpointError on a full disk,
    InputError where max_shard_size is no size.
    """
    try:
        split = split_torch_state_dict_into_shards(dict(tensors), max_shard_size=max_shard_size)
    except ValueError:
        raise InputError(f"max_shard_size is a size such as 5GB or 500MB, not {max_shard_size!r}.") from None
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder, "*.safetensors")
    _check_space(sum(tensor.nbytes for tensor in tensors.values()), folder)
    with recording(folder, [*split.filename_to_tensors, *([INDEX] if split.is_sharded else [])]):
        for name, keys in split.filename_to_tensors.items():
            write_file({key: tensors[key] for key in keys}, folder / name)
        if split.is_sharded:
            write_json(folder / INDEX, {"metadata": split.metadata, "weight_map": split.tensor_to_filename})
        else:
            (folder / INDEX).unlink(missing_ok=True)
        for file in folder.glob("model*.safetensors"):
            if file.name not in split.filename_to_tensors:
                file.unlink()


def write_file(
    tensors: Mapping[str, torch.Tensor], file: Path, about: Mapping[str, str] | None = None
) -> None:
    """Writes one safetensors file, at once or not at all. about: what else its header tells."""
    metadata = {"format": "pt", **(about or {})}
    # safetensors writes a file with a name of its own first.
    with replacing(file, in_folder=True) as partial:
        save_file({k: v.contiguous() for k, v in tensors.items()}, partial, metadata=metadata)
        partial.chmod(0o644)  # safetensors lets nobody else read it


def _check_space(needed: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(
            f"Saving to {folder} takes {needed / 1e9:.2f} GB and only {free / 1e9:.2f} GB are free; "
            "make room or choose another disk."
        )


def weight_files(folder: Path) -> list[Path]:
    """The files of a whole checkpoint's tensors. Raises CheckpointError where its index is damaged."""
    index = folder / INDEX
    if not index.exists():
        return [folder / WEIGHTS]
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CheckpointError(f"{index} holds no weight_map; download it again.")
    try:
        return [inside(folder, name) for name in sorted(set(map(str, shards.values())))]
    except ValueError as error:
        raise CheckpointError(
            f"{index} names a file that is not in its folder ({error}); download it again."
        ) from None
