"""The objective on action tokens: cross-entropy, optionally against targets softened over the grid."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from spatialvla.actions.grids import ActionGrid


class SoftTokenLoss(nn.Module):
    """Cross-entropy in which cells near the true one in action space share its probability.

    A cell's share falls off as a Gaussian of the distance between the decoded actions, of deviation `width`
    in normalized units. To plain cross-entropy a neighboring cell is as wrong as the opposite direction,
    which a network with few examples cannot afford (histogram losses: Imani & White, arXiv 1806.04613).
    Gripper tokens and <eos> stay hard.
    """

    def __init__(self, grid: ActionGrid, first_action_token: int, width: float) -> None:
        super().__init__()
        self.blocks: list[slice] = []
        for kind, values in ((0, slice(0, 3)), (1, slice(3, 6))):
            start, end = grid.ranges[kind]
            ids = np.tile([first for first, _ in grid.ranges], (end - start, 1))
            ids[:, kind] = np.arange(start, end)
            centers = torch.from_numpy(grid.decode(ids)[:, values]).float()
            shares = torch.softmax(-torch.cdist(centers, centers).square() / (2 * width**2), dim=1)
            self.register_buffer(f"shares{kind}", shares, persistent=False)
            self.blocks.append(slice(first_action_token + start, first_action_token + end))

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean over N positions. logits: (N, V). labels: (N,) vocabulary ids."""
        scores = torch.log_softmax(logits, dim=-1)
        losses = -scores.gather(1, labels[:, None])[:, 0]
        for kind, rows in enumerate(self.blocks):
            taken = (labels >= rows.start) & (labels < rows.stop)
            shares = self.get_buffer(f"shares{kind}")[labels[taken] - rows.start]
            losses = losses.masked_scatter(taken, -(shares * scores[taken, rows]).sum(dim=1))
        return losses.mean()
