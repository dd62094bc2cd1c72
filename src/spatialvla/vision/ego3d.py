"""Ego3D position encoding: where each image patch is, in the camera's own frame (§III-A) or the robot's."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from spatialvla.geometry.workspace import PUBLISHED, Workspace


def back_project(depth: torch.Tensor, intrinsics: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
    """Depth on a regular grid over the image -> points in the camera frame, K⁻¹ (u, v, 1) · depth (§III-A).

    depth: (B, h, w) meters; each value stands for the center of its cell of the image.
    intrinsics: (B, 3, 3) in pixels of an image of `image_size` = (height, width).
    Returns (B, h, w, 3) meters. Always computed in float32: in bfloat16 pixel centers would be rounded.
    """
    rows, columns = depth.shape[-2:]
    v = (torch.arange(rows, device=depth.device, dtype=torch.float32) + 0.5) * (image_size[0] / rows)
    u = (torch.arange(columns, device=depth.device, dtype=torch.float32) + 0.5) * (image_size[1] / columns)
    v_grid, u_grid = torch.meshgrid(v, u, indexing="ij")
    # K is [[fx, s, cx], [0, fy, cy], [0, 0, 1]]: its inverse needs no solver, which a GPU would have to be
    # waited for.
    K = intrinsics.float()[..., None, None]
    y = (v_grid - K[:, 1, 2]) / K[:, 1, 1]
    x = (u_grid - K[:, 0, 2] - K[:, 0, 1] * y) / K[:, 0, 0]
    return torch.stack([x, y, torch.ones_like(x)], dim=-1) * depth.float()[..., None]


def to_robot(points: torch.Tensor, extrinsics: torch.Tensor) -> torch.Tensor:
    """Points (B, …, 3) of the camera's frame in the robot's, meters. extrinsics: (B, 4, 4) camera -> robot base.

    Always computed in float32, and by no matrix product, which a GPU or autocast would round.
    """
    pose = extrinsics.float().view(-1, *[1] * (points.dim() - 2), 4, 4)
    return (pose[..., :3, :3] * points.float()[..., None, :]).sum(dim=-1) + pose[..., :3, 3]


def patch_points(
    depth: torch.Tensor,
    intrinsics: torch.Tensor,
    patch_size: int,
    points_per_side: int,
    extrinsics: torch.Tensor | None = None,
) -> torch.Tensor:
    """The 3-D points of every patch.

    depth: (B, H, W) meters; intrinsics: (B, 3, 3) in its pixels. Depth is averaged over
    points_per_side x points_per_side cells a patch, then back-projected. extrinsics: (B, 4, 4) takes the points to
    the robot's frame; None leaves them in the camera's.
    Returns (B, patches, points_per_side² * 3): patches row by row, within each sub-row, sub-column, xyz.
    """
    batch, height, width = depth.shape
    rows, columns = height // patch_size, width // patch_size
    side = points_per_side
    pooled = F.adaptive_avg_pool2d(depth.float(), (rows * side, columns * side))
    points = back_project(pooled, intrinsics, (height, width))
    if extrinsics is not None:
        points = to_robot(points, extrinsics)
    points = points.view(batch, rows, side, columns, side, 3).transpose(2, 3)
    return points.reshape(batch, rows * columns, side * side * 3)


class Ego3DPositionEncoding(nn.Module):
    """Sinusoidal encoding of a patch's points, then an MLP to the width of the image features."""

    def __init__(self, n_points: int, n_freqs: int, hidden_size: int) -> None:
        super().__init__()
        self.n_points = n_points
        self.n_freqs = n_freqs
        # The names are those of the published checkpoints.
        self.position_embedding_head = nn.Sequential(
            nn.Linear(n_points * 3 * (1 + 2 * n_freqs), hidden_size),
            nn.LayerNorm(hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, hidden_size),
        )
        for layer in self.position_embedding_head:
            if isinstance(layer, nn.Linear):
                # A small gain, so that training starts from the image features as pre-trained.
                nn.init.xavier_uniform_(layer.weight, gain=0.01)

    def frequency_encoding(self, points: torch.Tensor, workspace: Workspace = PUBLISHED) -> torch.Tensor:
        """(B, N, n_points*3) meters -> (B, N, n_points*3*(1+2*n_freqs)): [x, sin 2ᵏx, cos 2ᵏx] of each.

        x is the position relative to the workspace's center and scale.
        """
        # Made on the device: a GPU that records what it does cannot take numbers from the host.
        axis = torch.arange(points.shape[-1], device=points.device) % 3
        center = sum(value * (axis == number) for number, value in enumerate(workspace.center))
        x = ((points - center) / workspace.scale)[..., None]
        angles = x * 2.0 ** torch.arange(self.n_freqs, device=points.device, dtype=points.dtype)
        return torch.cat([x, angles.sin(), angles.cos()], dim=-1).flatten(-2)

    def forward(self, points: torch.Tensor, workspace: Workspace = PUBLISHED) -> torch.Tensor:
        """(B, N, n_points*3) meters, float32 -> (B, N, hidden_size) in the dtype of the weights."""
        encoding = self.frequency_encoding(points.float(), workspace)
        dtype = next(self.position_embedding_head.parameters()).dtype
        return cast(torch.Tensor, self.position_embedding_head(encoding.to(dtype)))
