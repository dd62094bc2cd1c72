"""What any decoding asks of its prompts, and of the memory for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from spatialvla.batch import Batch
from spatialvla.errors import InputError
from spatialvla.model.network import Network


def check_prompts(network: Network, batch: Batch) -> None:
    """Raises InputError where a batch has labels, padding on the right, or another number of image tokens."""
    if batch.labels is not None:
        raise InputError("This batch has labels; generate from one that was made without actions=.")
    if not bool(batch.attention_mask[:, -1].all()):
        raise InputError("Prompts must be padded on the left to generate.")
    network.check_image_tokens(batch)


@contextmanager
def memory_for(rows: int, device: torch.device) -> Iterator[None]:
    """Lets what runs inside raise InputError, with what to do, where the device has too little memory."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise InputError(
            f"{device} has too little free memory for a batch of {rows}; pass fewer rows at a time, "
            "or load the model in bfloat16."
        ) from None
