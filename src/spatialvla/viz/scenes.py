"""What each camera of a policy saw, with the depth that the policy works with, for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Real, UInt8

from spatialvla.common.pictures import pixels
from spatialvla.geometry.extrinsics import mirror_extrinsics
from spatialvla.policy import Policy
from spatialvla.types import CameraImage, Observation


@dataclass(frozen=True)
class SeenScene:
    """What one camera saw.

    image: RGB. depth: meters over the same view. intrinsics: K in pixels of `image`.
    pose: takes points back-projected by K to the robot's frame, in meters; None where it is not known.
    """

    name: str
    image: UInt8[np.ndarray, "H W 3"]
    depth: Real[np.ndarray, "h w"]
    intrinsics: Real[np.ndarray, "3 3"]
    pose: Float[np.ndarray, "4 4"] | None = None


def seen_scenes(policy: Policy, observations: Sequence[Observation]) -> list[list[SeenScene]]:
    """Of each observation what each camera saw, in the order of the policy's cameras.

    All observations have the same cameras. Raises InputError for what the policy cannot use.
    """
    names = policy.camera_names
    maps = policy.depth(observations)
    found = []
    for observation, depths in zip(
        observations, maps.reshape(len(observations), -1, *maps.shape[1:]), strict=True
    ):
        cameras = observation.cameras(names[0])
        there = [(name, cameras[name]) for name in names if name in cameras]
        found.append(
            [_scene(policy, name, one, depth) for (name, one), depth in zip(there, depths, strict=True)]
        )
    return found


def _scene(policy: Policy, name: str, seen: CameraImage, depth: np.ndarray) -> SeenScene:
    image = pixels(seen.image)
    K = seen.intrinsics
    if K is None:
        K = policy.processor.camera(policy.dataset, name).scaled_to(*image.shape[:2])
    pose = None if seen.extrinsics is None else np.asarray(seen.extrinsics, np.float64)
    if pose is not None and seen.mirrored:
        pose = mirror_extrinsics(pose)
    return SeenScene(name, image, depth, np.asarray(K), pose)
