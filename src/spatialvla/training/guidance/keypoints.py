"""Where in the image a point of the world is: targets for attention over the patches."""

from __future__ import annotations

import numpy as np
import torch

from spatialvla.data.episodes import CAMERA_POSE, Episode
from spatialvla.data.lerobot.extrinsics import EXTRINSICS
from spatialvla.data.loaded_batch import LoadedBatch
from spatialvla.errors import InputError
from spatialvla.geometry.extrinsics import inverse
from spatialvla.training.guidance.privileged import privileged_values
from spatialvla.training.guidance.step_table import Steps

_NEAREST = 0.05  # meters in front of the camera from which on a point counts as seen
_SAME_PLACE = 1e-6  # of two poses


class Keypoints:
    """K named points of every step, in the frame of its camera: (N, K, 3) meters, float64.

    Names are those of `PrivilegedTargets`, each of three numbers: a position in the world.
    """

    def __init__(self, steps: Steps, names: tuple[str, ...]) -> None:
        """Raises InputError where a dataset lacks a name, its camera pose, or a name is no position."""
        self.steps = steps
        self.points = steps.table(lambda episode: keypoint_positions(episode, names))

    def patch_shares(
        self, loaded: LoadedBatch, intrinsics: np.ndarray, size: int, patches: int
    ) -> torch.Tensor:
        """(B, K, patches²) float32: each point shared between the four patch centers around it.

        intrinsics: (B, 3, 3) in pixels of the square image of side `size`, seen as patches x patches. The
        shares weigh the four centers to the point itself; a point outside goes to the border. Behind the
        camera they are 0.
        """
        points = self.points[self.steps.rows(loaded)]
        pixels = np.einsum("bij,bkj->bki", intrinsics, points)
        seen = points[..., 2] > _NEAREST
        # In patches, counted from the first one's center.
        spots = pixels[..., :2] / np.where(seen, points[..., 2], 1)[..., None] * patches / size - 0.5
        spots = np.clip(spots, 0, patches - 1)
        corner = np.minimum(spots.astype(int), patches - 2)
        right = np.stack([1 - (spots - corner), spots - corner], axis=-1)  # (B, K, xy, share of near and far)
        shares = np.zeros((*points.shape[:2], patches, patches), np.float32)
        rows, points_ = np.indices(points.shape[:2])
        for down in (0, 1):
            for along in (0, 1):
                weight = right[..., 1, down] * right[..., 0, along] * seen
                shares[rows, points_, corner[..., 1] + down, corner[..., 0] + along] = weight
        return torch.from_numpy(shares.reshape(*points.shape[:2], patches**2))


def keypoint_positions(episode: Episode, names: tuple[str, ...]) -> np.ndarray:
    """(T, K, 3) in the frame of the camera that the episode is seen by. Raises InputError as `Keypoints`."""
    if CAMERA_POSE not in episode.columns:
        raise InputError(f"Keypoints need '{CAMERA_POSE}' in the dataset; record it, or train without them.")
    positions = [privileged_values(episode, name) for name in names]
    if wrong := [name for name, values in zip(names, positions, strict=True) if values.shape[1] != 3]:
        raise InputError(f"A keypoint has 3 numbers, unlike {', '.join(wrong)}; cut it with [start:stop].")
    pose = _camera_in_world(episode)
    world = np.stack(positions, axis=1).astype(np.float64)
    points: np.ndarray = (world - pose[:, None, :3, 3]) @ np.linalg.inv(pose[:, :3, :3]).transpose(0, 2, 1)
    return points


def _camera_in_world(episode: Episode) -> np.ndarray:
    """(T, 4, 4) float64. The recorded pose is the first camera's; another one stands where its extrinsics say."""
    first: np.ndarray = episode.columns[CAMERA_POSE].reshape(-1, 4, 4).astype(np.float64)
    if episode.extrinsics is None or EXTRINSICS not in episode.columns:
        return first
    from_base = episode.columns[EXTRINSICS].reshape(-1, 4, 4).astype(np.float64)
    if np.allclose(from_base, episode.extrinsics, atol=_SAME_PLACE):
        return first
    base = first @ inverse(from_base)
    pose: np.ndarray = base @ episode.extrinsics
    return pose
