"""Action grids: continuous 7-DoF actions <-> three spatial tokens a step (translation, rotation, gripper)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, cast

import numpy as np
from jaxtyping import Float, Int

from spatialvla.actions.bins import (
    BLOCKS,
    DIMENSION_RANGES,
    PUBLISHED_BINS,
    Bins,
    Gaussian,
    equal_probability_edges,
    fit_gaussians,
)
from spatialvla.errors import CheckpointError, InputError

KINDS = (*BLOCKS, "gripper")
"""What the three tokens of a step stand for, in order."""

FREE = -1
"""Stands in a slot of a chunk that nothing is said about: not committed, or no guess."""

NOT_FINITE = -2
"""Stands for a token that was to be chosen by logits of which some are NaN or infinite: there is none."""

_N_GRIPPER = 2
_FARTHEST_EDGE = 10.0

NEVER = 2**40
"""A period no distance comes near to, and between tokens that are no neighbors of any degree a distance."""


@dataclass(frozen=True)
class Cells:
    """The cells of all tokens of a grid, in the order of their numbers.

    bins: the bin along each of the three dimensions that share the token.
    periods: after how many bins each dimension comes back to where it began; NEVER where it does not.
    Two tokens of one kind are min(|b - b'|, period - |b - b'|) bins apart along each dimension.
    """

    bins: Int[np.ndarray, "tokens 3"]
    periods: Int[np.ndarray, "tokens 3"]


@dataclass(frozen=True)
class ActionGrid:
    """Ascending bin edges of translation (spherical: theta, phi, r) and rotation (roll, pitch, yaw).

    Encodes normalized actions: 7 numbers Δx Δy Δz Δroll Δpitch Δyaw in [-1, 1], gripper in [0, 1], 1 = open.
    Token numbers: translation first (theta slowest, r fastest), then rotation (roll slowest, yaw fastest),
    then gripper closed and open. Values outside a dimension's range fall into its outer bins.
    Source: paper section 3.2.
    Raises InputError where a dimension has fewer than two edges or they do not ascend.
    """

    theta: tuple[float, ...]
    phi: tuple[float, ...]
    r: tuple[float, ...]
    roll: tuple[float, ...]
    pitch: tuple[float, ...]
    yaw: tuple[float, ...]

    def __post_init__(self) -> None:
        for field in fields(self):
            edges = tuple(map(float, getattr(self, field.name)))
            if len(edges) < 2 or not np.all(np.diff(edges) > 0) or not np.all(np.isfinite(edges)):
                raise InputError(
                    f"The bin edges of {field.name} must be at least two finite, ascending numbers."
                )
            if max(map(abs, edges)) > _FARTHEST_EDGE:
                raise InputError(
                    f"The bin edges of {field.name} reach {max(map(abs, edges)):g}, but actions are normalized "
                    "to -1 to 1."
                )
            object.__setattr__(self, field.name, edges)

    @classmethod
    def from_gaussians(
        cls,
        gaussians: Mapping[str, tuple[float, float]],
        min_sigma: float = 0.0,
        bins: Bins = PUBLISHED_BINS,
    ) -> ActionGrid:
        """Bins of equal probability under a truncated Gaussian (mean, deviation) for each dimension.

        min_sigma: floor of the deviations, which keeps bins of rare actions from growing too wide.
        Raises InputError on missing or unknown dimensions and on deviations too small for distinct bins.
        """
        if set(gaussians) != set(DIMENSION_RANGES):
            raise InputError(
                f"A grid needs a Gaussian for each of {', '.join(DIMENSION_RANGES)}, "
                f"got {', '.join(gaussians)}."
            )
        edges = {}
        for name, (low, high) in DIMENSION_RANGES.items():
            mu, sigma = gaussians[name]
            try:
                edges[name] = equal_probability_edges(
                    Gaussian(mu, max(sigma, min_sigma)), getattr(bins, name), low, high
                )
            except InputError as error:
                raise InputError(f"{name}: {error}") from None
        return cls(**edges)

    @classmethod
    def uniform(cls, bins: Bins = PUBLISHED_BINS) -> ActionGrid:
        """Bins of equal width: the paper's ablation of adaptive grids (section 4.4)."""
        return cls(
            **{
                name: tuple(np.linspace(low, high, getattr(bins, name) + 1))
                for name, (low, high) in DIMENSION_RANGES.items()
            }
        )

    @classmethod
    def fit(
        cls,
        actions: Float[np.ndarray, "n 7"],
        min_sigma: float = 0.0,
        bins: Bins = PUBLISHED_BINS,
    ) -> ActionGrid:
        """The grid of the Gaussians that `fit_gaussians` finds in normalized actions (n, 7)."""
        return cls.from_gaussians(fit_gaussians(action_coordinates(actions)), min_sigma, bins)

    @property
    def bins(self) -> Bins:
        """The number of bins by dimension."""
        return Bins(*(len(getattr(self, field.name)) - 1 for field in fields(self)))

    @cached_property
    def edges(self) -> dict[str, np.ndarray]:
        """Bin edges by dimension, (bins + 1,) float64 each."""
        return {field.name: np.array(getattr(self, field.name)) for field in fields(self)}

    @cached_property
    def centers(self) -> dict[str, np.ndarray]:
        """Middles of the bins by dimension, (bins,) float64 each: what tokens decode to."""
        return {name: (edges[:-1] + edges[1:]) / 2 for name, edges in self.edges.items()}

    @cached_property
    def shapes(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Bins of the translation block (theta, phi, r) and of the rotation block (roll, pitch, yaw)."""
        bins = self.bins
        return (bins.theta, bins.phi, bins.r), (bins.roll, bins.pitch, bins.yaw)

    @property
    def n_translation(self) -> int:
        """Number of translation tokens."""
        return math.prod(self.shapes[0])

    @property
    def n_rotation(self) -> int:
        """Number of rotation tokens."""
        return math.prod(self.shapes[1])

    @property
    def n_gripper(self) -> int:
        """Number of gripper tokens: closed and open."""
        return _N_GRIPPER

    @property
    def size(self) -> int:
        """Number of tokens."""
        return self.n_translation + self.n_rotation + self.n_gripper

    @cached_property
    def ranges(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Half-open token number ranges of translation, rotation and gripper."""
        rotation = self.n_translation
        gripper = rotation + self.n_rotation
        return (0, rotation), (rotation, gripper), (gripper, self.size)

    @cached_property
    def cells(self) -> Cells:
        """Where the tokens' cells lie along their dimensions. phi wraps; open is not near closed."""
        translation, rotation = (np.indices(shape).reshape(3, -1).T for shape in self.shapes)
        gripper = np.array([[0, 0, 0], [NEVER // 2, 0, 0]])
        bins = np.concatenate([translation, rotation, gripper])
        periods = np.full_like(bins, NEVER)
        periods[: self.n_translation, BLOCKS["translation"].index("phi")] = self.bins.phi
        return Cells(bins, periods)

    def encode(self, actions: Float[np.ndarray, "*steps 7"]) -> Int[np.ndarray, "*steps 3"]:
        """Normalized actions (..., 7) -> tokens (..., 3) int64.

        Spherical coordinates are taken in the precision of the input (float32 or float64).
        Raises InputError on other shapes and on NaN or infinity.
        """
        coordinates = action_coordinates(actions)
        # Only the inner edges decide, so whatever lies outside the range falls into the outer bins.
        indices = [np.digitize(coordinates[name], edges[1:-1]) for name, edges in self.edges.items()]
        translation, rotation = (
            np.ravel_multi_index(block, shape)
            for block, shape in zip((tuple(indices[:3]), tuple(indices[3:])), self.shapes, strict=True)
        )
        gripper = np.asarray(actions)[..., 6] >= 0.5
        numbers: np.ndarray = np.stack([translation, rotation, gripper], axis=-1).astype(np.int64)
        return cast(np.ndarray, numbers + self._offsets)

    def decode(self, tokens: Int[np.ndarray, "*steps 3"]) -> Float[np.ndarray, "*steps 7"]:
        """Tokens (..., 3) -> normalized actions (..., 7) float64: bin middles, xyz clipped to [-1, 1].

        Raises InputError on other shapes and on a number that is not a token of its slot's kind.
        """
        indices = self.bin_indices(tokens)
        coordinates = {name: centers[indices[name]] for name, centers in self.centers.items()}
        xyz = spherical_to_cartesian(*(coordinates[name] for name in BLOCKS["translation"]))
        rotation = np.stack([coordinates[name] for name in BLOCKS["rotation"]], axis=-1)
        gripper = indices["gripper"][..., None].astype(np.float64)
        return np.concatenate([np.clip(xyz, -1.0, 1.0), rotation, gripper], axis=-1)

    def bin_indices(self, tokens: np.ndarray) -> dict[str, np.ndarray]:
        """Tokens (..., 3) -> bin along each dimension, and "gripper" (0 closed, 1 open), (...) each.

        Raises InputError like `decode`.
        """
        local = checked_tokens("tokens", tokens, self.ranges) - self._offsets
        indices = {"gripper": local[..., 2]}
        for slot, (names, shape) in enumerate(zip(BLOCKS.values(), self.shapes, strict=True)):
            indices.update(zip(names, np.unravel_index(local[..., slot], shape), strict=True))
        return indices

    def to_json(self) -> dict[str, Any]:
        """`action_config` and `bin_policy` in the published processor_config.json layout, floats exact."""
        bins = self.bins
        counts = {
            block: {f"{name}_bins": getattr(bins, name) for name in names} for block, names in BLOCKS.items()
        }
        edges = {
            block: {f"{name}_bins": list(getattr(self, name)) for name in names}
            for block, names in BLOCKS.items()
        }
        return {
            "action_config": {
                "distribution": "uniform" if self == ActionGrid.uniform(bins) else "gaussian",
                "num_bins": {**counts, "gripper": self.n_gripper, "total": self.size},
                "use_spherical": True,
            },
            "bin_policy": edges,
        }

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> ActionGrid:
        """The grid in a published processor_config.json. The stored edges count, not how they came about.

        Raises CheckpointError where keys are missing, the edges are unusable or contradict `num_bins`, or the
        grid is not the spherical one.
        """
        try:
            action_config, policy = config["action_config"], config["bin_policy"]
            num_bins = action_config["num_bins"]
            grid = cls(
                **{name: policy[block][f"{name}_bins"] for block, names in BLOCKS.items() for name in names}
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"The processor's configuration holds no usable action grid ({error}); download it again."
            ) from error
        if not action_config.get("use_spherical", True):
            raise CheckpointError(
                "Grids over Cartesian translations are not supported; set use_spherical to true."
            )
        expected = grid.to_json()["action_config"]["num_bins"]
        if num_bins != expected:
            raise CheckpointError(
                f"num_bins is {num_bins}, but the edges in bin_policy make {expected}; correct one of them."
            )
        return grid

    @cached_property
    def _offsets(self) -> np.ndarray:
        return np.array([start for start, _ in self.ranges])


def checked_tokens(
    name: str,
    tokens: np.ndarray,
    ranges: Sequence[tuple[int, int]],
    *,
    free: int | None = None,
) -> Int[np.ndarray, "*steps 3"]:
    """Tokens (..., 3) as int64, each of its slot's kind.

    name: of the argument, for the error. ranges: the half-open range of each kind: `ActionGrid.ranges` for
    spatial tokens, `SpatialVLAConfig.id_ranges` for vocabulary ids. free: a number that may stand in any
    slot.
    Raises InputError on other shapes, on what is not whole, and on a number that is not of its slot's kind.
    """
    numbers = np.asarray(tokens)
    if numbers.ndim < 1 or numbers.shape[-1] != len(KINDS) or not np.issubdtype(numbers.dtype, np.integer):
        raise InputError(f"{name} must be whole numbers (..., 3), got {numbers.dtype} {numbers.shape}.")
    for slot, (kind, (start, stop)) in enumerate(zip(KINDS, ranges, strict=True)):
        found = numbers[..., slot]
        wrong = np.unique(found[((found < start) | (found >= stop)) & (found != free)])
        if wrong.size:
            listed = ", ".join(map(str, wrong[:5])) + (", …" if wrong.size > 5 else "")
            raise InputError(
                f"{name} has {listed} where a {kind} token belongs; these are {start} to {stop - 1}."
            )
    return numbers.astype(np.int64)


def checked_actions(actions: np.ndarray) -> Float[np.ndarray, "*steps 7"]:
    """Actions (..., 7) as float32 (kept) or float64; InputError on other shapes and on NaN or infinity."""
    values = np.asarray(actions)
    if values.ndim < 1 or values.shape[-1] != 7:
        raise InputError(f"Actions must be (..., 7), got {values.shape}.")
    if values.dtype != np.float32:
        values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"Actions must be finite, but {int((~np.isfinite(values)).sum())} numbers are not.")
    return values


def action_coordinates(actions: Float[np.ndarray, "*steps 7"]) -> dict[str, np.ndarray]:
    """Normalized actions (..., 7) -> each of DIMENSION_RANGES, (...), in the same precision.

    The translation is clipped to [-1, 1] first. Raises InputError like `checked_actions`.
    """
    values = checked_actions(actions)
    spherical = cartesian_to_spherical(np.clip(values[..., :3], -1.0, 1.0))
    rotation = np.moveaxis(values[..., 3:6], -1, 0)
    return dict(zip(DIMENSION_RANGES, (*spherical, *rotation), strict=True))


def cartesian_to_spherical(
    xyz: Float[np.ndarray, "*points 3"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """xyz (..., 3) -> theta in [0, π] from +z, phi in [-π, π] from +x, r >= 0, each (...)."""
    x, y, z = np.moveaxis(xyz, -1, 0)
    return np.arctan2(np.sqrt(x**2 + y**2), z), np.arctan2(y, x), np.sqrt(x**2 + y**2 + z**2)


def spherical_to_cartesian(
    theta: np.ndarray, phi: np.ndarray, r: np.ndarray
) -> Float[np.ndarray, "*points 3"]:
    """The inverse: theta, phi, r, each (...) -> xyz (..., 3)."""
    return np.stack(
        [r * np.sin(theta) * np.cos(phi), r * np.sin(theta) * np.sin(phi), r * np.cos(theta)], axis=-1
    )
