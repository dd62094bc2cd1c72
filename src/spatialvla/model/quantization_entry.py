"""What config.json says of a network whose weights are kept in 4 bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from spatialvla.errors import CheckpointError

METHOD = "spatialvla_int4"
"""How the entry calls the format of `spatialvla.kernels.four_bits.FourBits`."""


@dataclass(frozen=True)
class Quantization:
    """Which weights are in 4 bits beside those of the decoder's layers.

    towers: the vision towers' linear layers, too. text_head: whether the head's rows of text are kept, in full, without
    which only actions can be generated.
    """

    towers: bool = False
    text_head: bool = False

    def to_json(self) -> dict[str, Any]:
        """The entry `quantization_config`."""
        return {"quant_method": METHOD, **asdict(self)}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Quantization:
        """Raises CheckpointError for an entry that this version does not write."""
        kept = dict(entry)
        method = kept.pop("quant_method", None)
        if method != METHOD:
            raise CheckpointError(
                f"The checkpoint's weights are quantized by {method!r}; {METHOD!r} is known alone, which "
                "spatialvla export --precision int4 writes. Take the checkpoint in full precision."
            )
        if set(kept) - set(asdict(cls())) or not all(isinstance(value, bool) for value in kept.values()):
            raise CheckpointError(
                f"The checkpoint's quantization_config {dict(entry)} is not known here; it may be of a newer version: "
                "update spatialvla."
            )
        return cls(**kept)
