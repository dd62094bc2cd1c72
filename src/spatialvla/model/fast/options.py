"""How a model is prepared for inference: as it was loaded, in fewer bits, compiled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from spatialvla.errors import InputError
from spatialvla.model.fast.linear import WeightFormat

PRECISIONS: Mapping[str, tuple[WeightFormat, Literal["int8"] | None]] = {
    "int8": ("int8", None),
    "w8a8": ("int8", "int8"),
    "int4": ("int4", None),
    "w4a8": ("int4", "int8"),
    "fp8": ("fp8", None),
}
"""Weights and activations of an `Optimization` by the usual names of precisions that have 8 bits or fewer."""


@dataclass(frozen=True)
class Optimization:
    """How a model is prepared for inference.

    weights: "int4", "int8" or "fp8" (CUDA only) keep the decoder's weights in 4 or 8 bits with scales; None leaves
    them as they were loaded. The head, the embeddings and the vision towers stay as they are.
    activations: "int8" lets a CPU take 8 bits for what it multiplies with these weights, with scales that follow
    the activations, and keeps the vision towers in 8 bits, too: fastest, and less exact. Needs weights in int8 or
    int4, and AVX-512 with BF16 and VNNI.
    compile: let torch compile vision and passes, or on a GPU the decoder's layers, and record CUDA graphs
    there. That takes up to minutes for all shapes of `batch_sizes` x `text_tokens`, behind the image, when
    the model is optimized, and again for any other when it first comes.
    drafts: compile the passes of speculation, too, which come in more widths.
    text_head: keep the head's rows of text, without which only actions can be generated: 1.2 GB of the 4 B
    model.
    """

    weights: WeightFormat | None = None
    activations: Literal["int8"] | None = None
    compile: bool = False
    batch_sizes: tuple[int, ...] = (1,)
    text_tokens: tuple[int, ...] = (16, 32)
    drafts: bool = True
    text_head: bool = True

    def __post_init__(self) -> None:
        if self.weights not in (None, *get_args(WeightFormat)):
            raise InputError(f"Unknown weights {self.weights!r}; choose int4, int8, fp8 or None.")
        if self.activations not in (None, "int8"):
            raise InputError(f"Unknown activations {self.activations!r}; choose int8 or None.")
        if self.activations and self.weights not in ("int4", "int8"):
            raise InputError(
                "Activations in 8 bits go with weights in int8 or int4; choose both, or neither."
            )

    @property
    def activation_bits(self) -> int:
        """Of the activations that meet weights of 8 bits or fewer in a product."""
        return 8 if self.activations else 16

    @property
    def precision(self) -> str | None:
        """What is in 8 bits or fewer, by its name in `PRECISIONS`; None for nothing."""
        kept = (self.weights, self.activations)
        return next((name for name, pair in PRECISIONS.items() if pair == kept), None)
