"""What stands in a LIBERO scene, as oriented boxes: how far away it is, and how high one has to go over it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from spatialvla.simulation.libero.env import LiberoEnv

CLEARANCE = 0.025  # meters between what is carried and what it is carried over


@dataclass(frozen=True)
class Boxes:
    """N oriented boxes: center (N, 3) and half sizes (N, 3) in meters, rotation (N, 3, 3) to the world."""

    center: np.ndarray
    rotation: np.ndarray
    half: np.ndarray

    def distance(self, points: np.ndarray) -> np.ndarray:
        """(P,) meters from each of (P, 3) points to the nearest box; 0 inside."""
        local = np.einsum("nji,pnj->pni", self.rotation, points[:, None] - self.center)
        outside: np.ndarray = np.linalg.norm(np.maximum(np.abs(local) - self.half, 0), axis=-1)
        return np.asarray(outside.min(axis=1, initial=np.inf))

    def corners(self) -> np.ndarray:
        """(N, 8, 3) of each box."""
        signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
        offsets = np.einsum("nij,nkj->nki", self.rotation, signs * self.half[:, None])
        return np.asarray(self.center[:, None] + offsets)

    def tops(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What each box covers seen from above: center (N, 2), half sizes (N, 2), height of its top (N,)."""
        half = np.einsum("nij,nj->ni", np.abs(self.rotation), self.half)
        return self.center[:, :2], half[:, :2], self.center[:, 2] + half[:, 2]

    def clear_height(self, where: np.ndarray, radius: float) -> float:
        """The height at which what is as wide as `radius` clears everything near a point of the table (2,).

        Boxes further away than that count less, by twice the distance, so that the path rises gently towards
        them.
        """
        center, half, top = self.tops()
        gap = np.linalg.norm(np.maximum(np.abs(where - center) - half, 0), axis=1)
        return float(np.max(top + CLEARANCE - 2 * np.maximum(gap - radius, 0)))


def geoms(env: LiberoEnv, names: Iterable[str]) -> np.ndarray:
    """(N,) the simulator's numbers of some geometries."""
    return np.array([env.model.geom(name).id for name in names], int)


def boxes(env: LiberoEnv, geoms: np.ndarray) -> Boxes:
    """The box around each of some of the simulator's geometries, where they are now."""
    rotation = env.data.geom_xmat[geoms].reshape(-1, 3, 3)
    center = env.data.geom_xpos[geoms] + np.einsum("nij,nj->ni", rotation, env.model.geom_aabb[geoms, :3])
    return Boxes(center, rotation, env.model.geom_aabb[geoms, 3:])


def geoms_but(env: LiberoEnv, ignored: Iterable[str]) -> np.ndarray:
    """(N,) the geometries of everything on the table but some things, by name."""
    everything = {**env.simulator.objects_dict, **env.simulator.fixtures_dict}
    left = [geoms(env, one.contact_geoms) for name, one in everything.items() if name not in set(ignored)]
    return np.concatenate(left).astype(int)
