"""Where in the image a point of the world is: targets for attention over the patches."""

from __future__ import annotations

import numpy as np
import torch

from spatialvla.data.in_memory import EpisodeSamples
from spatialvla.errors import InputError
from spatialvla.training.guidance.privileged import privileged_values

CAMERA_POSE = "observation.camera_pose"
_NEAREST = 0.05  # metres in front of the camera from which on a point counts as seen


class Keypoints:
    """K named points of every frame, in the frame of its camera: (N, K, 3) metres, float64.

    Names are those of `PrivilegedTargets`, each of three numbers: a position in the world.
    """

    def __init__(self, samples: EpisodeSamples, names: tuple[str, ...]) -> None:
        """Raises InputError where the dataset lacks a name, its camera pose, or a name is no position."""
        if CAMERA_POSE not in samples.columns:
            raise InputError(
                f"Keypoints need '{CAMERA_POSE}' in the dataset; record it, or train without them."
            )
        positions = [privileged_values(samples, name) for name in names]
        if wrong := [name for name, values in zip(names, positions, strict=True) if values.shape[1] != 3]:
            raise InputError(
                f"A keypoint has 3 numbers, unlike {', '.join(wrong)}; cut it with [start:stop]."
            )
        pose = samples.columns[CAMERA_POSE].reshape(-1, 4, 4).astype(np.float64)
        world = np.stack(positions, axis=1).astype(np.float64)
        self.camera = (world - pose[:, None, :3, 3]) @ np.linalg.inv(pose[:, :3, :3]).transpose(0, 2, 1)

    def patch_shares(
        self, indices: np.ndarray, intrinsics: np.ndarray, size: int, patches: int
    ) -> torch.Tensor:
        """(B, K, patches²) float32: each point shared between the four patch centres around it.

        intrinsics: (B, 3, 3) in pixels of the square image of side `size`, seen as patches x patches. The shares
        weigh the four centres to the point itself; a point outside goes to the border. Behind the camera they are 0.
        """
        points = self.camera[indices]
        pixels = np.einsum("bij,bkj->bki", intrinsics, points)
        seen = points[..., 2] > _NEAREST
        places = pixels[..., :2] / np.where(seen, points[..., 2], 1)[..., None] * patches / size - 0.5
        places = np.clip(places, 0, patches - 1)
        corner = np.minimum(places.astype(int), patches - 2)
        right = np.stack(
            [1 - (places - corner), places - corner], axis=-1
        )  # (B, K, xy, share of near and far)
        shares = np.zeros((*points.shape[:2], patches, patches), np.float32)
        rows, points_ = np.indices(points.shape[:2])
        for down in (0, 1):
            for along in (0, 1):
                weight = right[..., 1, down] * right[..., 0, along] * seen
                shares[rows, points_, corner[..., 1] + down, corner[..., 0] + along] = weight
        return torch.from_numpy(shares.reshape(*points.shape[:2], patches**2))
