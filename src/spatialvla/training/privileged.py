"""An auxiliary loss on what only the simulator knows. Its head is discarded when the model is exported."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from spatialvla.data.samples import EpisodeSamples
from spatialvla.errors import InputError


class PrivilegedTargets:
    """The features to regress, side by side and standardised: (N, targets) float32."""

    def __init__(self, samples: EpisodeSamples, features: tuple[str, ...]) -> None:
        """Raises InputError where the dataset lacks a feature."""
        for name in features:
            if name not in samples.columns:
                raise InputError(
                    f"The dataset has no feature '{name}' to regress; it has {', '.join(samples.columns)}."
                )
        values = np.concatenate(
            [samples.columns[name].reshape(len(samples), -1) for name in features], axis=1
        )
        spread = values.std(axis=0)
        self.values = ((values - values.mean(axis=0)) / np.where(spread > 1e-6, spread, 1)).astype(np.float32)

    @property
    def size(self) -> int:
        return self.values.shape[1]

    def batch(self, indices: np.ndarray) -> torch.Tensor:
        """(B, targets) of these frames."""
        return torch.from_numpy(self.values[indices])


class PrivilegedHead(nn.Module):
    """Reads the targets off the decoder's state at the prompt's last token, which has seen image and text."""

    def __init__(self, hidden_size: int, targets: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, targets)

    def loss(self, prompt_hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Smooth L1 between the prediction from (B, D) and the standardised (B, targets)."""
        return F.smooth_l1_loss(self.linear(prompt_hidden.float()), targets)
