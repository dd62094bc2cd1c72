"""How a model is prepared for inference: as it was loaded, in fewer bits, compiled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from spatialvla.errors import InputError
from spatialvla.model.fast.linear import DTYPES, EightBits

EIGHT_BITS: Mapping[str, tuple[EightBits, Literal["int8"] | None]] = {
    "int8": ("int8", None),
    "w8a8": ("int8", "int8"),
    "fp8": ("fp8", None),
}
"""Weights and activations of an `Optimization` by the usual names of precisions that have 8 bits."""


@dataclass(frozen=True)
class Optimization:
    """How a model is prepared for inference.

    weights: "int8" or "fp8" (CUDA only) keep the decoder's weights in 8 bits with scales; None leaves them as
    they were loaded. The head, the embeddings and the vision towers stay as they are.
    activations: "int8" lets a CPU multiply 8 bits with 8 bits in the decoder and the vision towers, with
    scales that
    follow the activations: fastest, and less exact. Needs weights="int8" and AVX-512 with BF16 and VNNI.
    compile: let torch compile vision and passes, or on a GPU the decoder's layers, and record CUDA graphs
    there. That takes up to minutes for all shapes of `batch_sizes` x `text_tokens`, behind the image, when
    the model is optimized, and again for any other when it first comes.
    drafts: compile the passes of speculation, too, which come in more widths.
    text_head: keep the head's rows of text, without which only actions can be generated: 1.2 GB of the 4 B
    model.
    """

    weights: EightBits | None = None
    activations: Literal["int8"] | None = None
    compile: bool = False
    batch_sizes: tuple[int, ...] = (1,)
    text_tokens: tuple[int, ...] = (16, 32)
    drafts: bool = True
    text_head: bool = True

    def __post_init__(self) -> None:
        if self.weights not in (None, *DTYPES):
            raise InputError(f"Unknown weights {self.weights!r}; choose int8, fp8 or None.")
        if self.activations not in (None, "int8"):
            raise InputError(f"Unknown activations {self.activations!r}; choose int8 or None.")
        if self.activations and self.weights != "int8":
            raise InputError("Activations in 8 bits go with weights in int8; choose both, or neither.")

    @property
    def activation_bits(self) -> int:
        """Of the activations that meet 8-bit weights in a product."""
        return 8 if self.activations else 16

    @property
    def eight_bits(self) -> str | None:
        """What is in 8 bits, by its name in `EIGHT_BITS`; None for nothing."""
        kept = (self.weights, self.activations)
        return next((name for name, bits in EIGHT_BITS.items() if bits == kept), None)
