"""How sure a policy was of a chunk, from the probabilities of the action grid's cells."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from spatialvla.readout import CellMiddles
from spatialvla.types import Uncertainty


def uncertainties(
    probabilities: tuple[torch.Tensor, torch.Tensor, torch.Tensor], middles: CellMiddles, meters: float | None
) -> list[Uncertainty]:
    """One for each row.

    probabilities: (B, steps, cells) of the translation's, rotation's and gripper's cells. meters: that 1 in the units
    of `middles` is; None where nobody says.
    """
    entropy = torch.stack([_bits(each) for each in probabilities], dim=-1).double().cpu().numpy()
    kept = [each.float().cpu().numpy() for each in probabilities]
    spread = _spread(kept[0].astype(np.float64), middles.translation)
    millimeters = spread * (np.nan if meters is None else 1e3 * meters)
    rows = zip(entropy, millimeters, zip(*kept, strict=True), strict=True)
    return [Uncertainty(*row) for row in rows]


def _bits(probabilities: torch.Tensor) -> torch.Tensor:
    bits: torch.Tensor = -torch.xlogy(probabilities, probabilities).sum(dim=-1) / np.log(2)
    return bits


def _spread(
    probabilities: Float[np.ndarray, "B T cells"], cells: Float[np.ndarray, "cells 3"]
) -> Float[np.ndarray, "B T"]:
    """Root mean square distance from the mean, without the difference of two large numbers."""
    weights = probabilities / probabilities.sum(axis=-1, keepdims=True)
    mean = weights @ cells
    distances = np.square(cells - mean[..., None, :]).sum(axis=-1)
    spread: np.ndarray = np.sqrt((weights * distances).sum(axis=-1))
    return spread
