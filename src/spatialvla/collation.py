"""Rows of a batch to be -> a batch: images of several cameras, the slots they take, prompts and padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from spatialvla.batch import IGNORED, Batch
from spatialvla.errors import InputError
from spatialvla.geometry.camera import View


@dataclass(frozen=True)
class Prepared:
    """One row of a batch to be: checked, and of the model's size.

    views: of each of the model's cameras a square picture with its intrinsics, and its depth where a sensor measured
    it; None where the camera is missing. prompt_ids: the prompt's vocabulary ids, behind the images'. committed:
    tokens of the steps that are under way, P may be 0. state: in [-1, 1]; None where it is missing.
    """

    views: tuple[View | None, ...]
    prompt_ids: Sequence[int]
    committed: Int[np.ndarray, "P 3"]
    state: Float[np.ndarray, " S"] | None = None


@dataclass(frozen=True)
class SlotIds:
    """The vocabulary ids that stand in slots of a prompt without a word in them. image_tokens: slots of an image."""

    image: int
    pad: int
    eos: int
    image_tokens: int


def collate(
    rows: Sequence[Prepared],
    ids: SlotIds,
    suffixes: Int[np.ndarray, "B ids"] | None = None,
    pad_to_multiple_of: int = 1,
    as_bytes: bool = False,
) -> Batch:
    """A camera that no row has takes no slots, nor does the state where no row says it; slots that only some rows
    fill are hidden in the others.

    suffixes: 3 * chunk vocabulary ids a row, of the actions to learn; they make padding stand on the right.
    pad_to_multiple_of: what stands behind the images and the state is padded to a multiple of so many tokens.
    as_bytes: leaves the pixels uint8, as `Batch.in_unit_range` takes them.
    Raises InputError where some images have extrinsics and others do not.
    """
    if pad_to_multiple_of < 1:
        raise InputError(f"pad_to_multiple_of must be at least 1, got {pad_to_multiple_of}.")
    cameras = batch_cameras(rows)
    if not cameras:
        raise InputError("An observation has no image; pass that of one camera at least.")
    views = [row.views[camera] for row in rows for camera in cameras]
    state = _states(rows)
    there = (
        np.array([view is not None for view in views]).reshape(len(rows), -1).repeat(ids.image_tokens, axis=1)
    )
    if state is not None:
        there = np.concatenate([there, [[row.state is not None] for row in rows]], axis=1)
    input_ids, attention_mask, labels = _tokens(rows, there, ids, suffixes, pad_to_multiple_of)
    batch = Batch(
        input_ids=torch.from_numpy(input_ids),
        attention_mask=torch.from_numpy(attention_mask),
        labels=None if labels is None else torch.from_numpy(labels),
        state=None if state is None else torch.from_numpy(state),
        **_images(views),
    )
    return batch if as_bytes else batch.in_unit_range()


def batch_cameras(rows: Sequence[Prepared]) -> list[int]:
    """The numbers of the cameras that have slots in a batch of these rows: those that some row has."""
    return [c for c in range(len(rows[0].views)) if any(row.views[c] is not None for row in rows)]


def _images(views: Sequence[View | None]) -> dict[str, torch.Tensor]:
    """What a batch holds of its images; those that are missing are black, and stand where the robot does."""
    seen = [view for view in views if view is not None]
    size = seen[0].image.shape[0]
    black = View(
        np.zeros_like(seen[0].image), np.array([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1]])
    )
    full = [black if view is None else view for view in views]
    # Planes, whatever the views are: compiled vision is compiled for one order in memory.
    pixels = np.empty((len(full), 3, size, size), np.uint8)
    for planes, view in zip(pixels, full, strict=True):
        planes[:] = view.image.transpose(2, 0, 1)
    intrinsics = np.stack([view.intrinsics for view in full if view.intrinsics is not None])
    images = {
        "pixel_values": torch.from_numpy(pixels),
        "intrinsics": torch.from_numpy(intrinsics).float(),
    }
    if any(view.depth is not None for view in seen):
        nothing = np.ones((size, size), np.float32)
        images["depth"] = torch.from_numpy(np.stack([nothing if v.depth is None else v.depth for v in full]))
        if any(view.depth is None for view in seen):
            images["depth_known"] = torch.tensor([view.depth is not None for view in full])
    poses = [view.extrinsics for view in seen if view.extrinsics is not None]
    if poses and len(poses) < len(seen):
        raise InputError("Either all images of a batch bring extrinsics or none does.")
    if poses:
        here = np.eye(4)
        of_all = np.stack([here if view.extrinsics is None else view.extrinsics for view in full])
        images["extrinsics"] = torch.from_numpy(of_all).float()
    return images


def _states(rows: Sequence[Prepared]) -> Float[np.ndarray, "B S"] | None:
    """Missing ones are 0; None where all are."""
    known = [row.state for row in rows if row.state is not None]
    if not known:
        return None
    nothing = np.zeros_like(known[0])
    return np.stack([nothing if row.state is None else row.state for row in rows]).astype(np.float32)


def _tokens(
    rows: Sequence[Prepared],
    there: np.ndarray,
    ids: SlotIds,
    suffixes: np.ndarray | None,
    multiple: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Ids, mask and labels. there: (B, slots) which of the slots in front of the prompts are filled."""
    slots = there.shape[1]
    behind = [list(row.prompt_ids) for row in rows]
    if suffixes is not None:
        behind = [[*row, *suffix, ids.eos] for row, suffix in zip(behind, suffixes.tolist(), strict=True)]
    longest = max(map(len, behind))
    if suffixes is None:
        longest += -longest % multiple
    shape = (len(rows), slots + longest)
    input_ids, mask, labels = np.full(shape, ids.pad), np.zeros(shape, bool), np.full(shape, IGNORED)
    for index, (row, tokens) in enumerate(zip(rows, behind, strict=True)):
        begin = longest - len(tokens) if suffixes is None else 0
        prompt, end = begin + slots, begin + slots + len(tokens)
        input_ids[index, begin:prompt], input_ids[index, prompt:end] = ids.image, tokens
        mask[index, begin:prompt], mask[index, prompt:end] = there[index], True
        labels[index, prompt + len(row.prompt_ids) : end] = tokens[len(row.prompt_ids) :]
    return input_ids, mask, None if suffixes is None else labels
