"""Depth maps and intrinsics -> points in the camera's frame, as tensors."""

from __future__ import annotations

import torch


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
