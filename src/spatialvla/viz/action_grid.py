"""A picture of an action grid: its bins beside the data they were fitted to, and predicted tokens on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from spatialvla.actions.bins import BLOCKS, DIMENSION_RANGES, Gaussian, fit_gaussians
from spatialvla.actions.grids import ActionGrid, action_coordinates
from spatialvla.common.terminal import shown
from spatialvla.viz.drawing import INK, new_figure, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.projections.polar import PolarAxes
    from matplotlib.transforms import Transform

_DATA, _GAUSSIAN, _TOKEN = "#5b8dd9", "#e08a3c", "#d6455d"
_TITLES = {
    "theta": "θ: angle from +z",
    "phi": "φ: direction, from +x to +y",
    "r": "r: length of the translation",
}
_UNITS = {"theta": "radians", "phi": "radians"}
_VIEWS = {"phi": "translation bins, along z: φ and r", "theta": "from the side: θ and r"}


def plot_grid(
    grid: ActionGrid,
    actions: np.ndarray | None = None,
    tokens: np.ndarray | None = None,
    title: str | None = None,
) -> bytes:
    """`grid_figure` as a PNG file."""
    return png(grid_figure(grid, actions, tokens, title))


def grid_figure(
    grid: ActionGrid,
    actions: np.ndarray | None = None,
    tokens: np.ndarray | None = None,
    title: str | None = None,
) -> Figure:
    """A panel for each dimension with its bin edges, and two views of the translation bins.

    actions: (n, 7) normalized, shown as histograms with the truncated Gaussian that fits them.
    tokens: (T, 3) token numbers of a chunk, marked by their step from 1 on.
    Raises InputError where the actions or tokens do not suit the grid, or matplotlib is missing.
    """
    data = None if actions is None else action_coordinates(actions)
    gaussians = None if actions is None else fit_gaussians(action_coordinates(actions))
    steps = None if tokens is None else grid.bin_indices(tokens)
    with new_figure(12.0, 5.4) as figure:
        if title:
            figure.suptitle(shown(title), parse_math=False)
        panels = figure.add_gridspec(2, 4, width_ratios=(1, 1, 1, 1.1))
        for row, names in enumerate(BLOCKS.values()):
            for column, name in enumerate(names):
                axis = figure.add_subplot(panels[row, column])
                axis.set_title(_TITLES.get(name, name))
                axis.set_xlabel(_UNITS.get(name, "normalized"))
                axis.set_yticks([])
                axis.spines[["left", "right", "top"]].set_visible(False)
                edges = grid.edges[name]
                axis.vlines(
                    edges, 0, 1, transform=axis.get_xaxis_transform(), color=INK, lw=0.6, label="bin edges"
                )
                if data is not None and gaussians is not None:
                    _distribution(axis, data[name], gaussians[name], DIMENSION_RANGES[name])
                if steps is not None:
                    x = grid.centers[name][steps[name]]
                    _mark(
                        axis,
                        x,
                        np.linspace(0.06, 0.94, max(len(x), 10))[: len(x)],
                        axis.get_xaxis_transform(),
                    )
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        for row, angle in enumerate(("phi", "theta")):
            polar = cast("PolarAxes", figure.add_subplot(panels[row, 3], projection="polar"))
            polar.set_title(_VIEWS[angle])
            _translation(polar, angle, grid, data, steps)
    return figure


def _distribution(axis: Axes, values: np.ndarray, gaussian: Gaussian, limits: tuple[float, float]) -> None:
    """The histogram of values and the Gaussian truncated to the limits, both with area 1."""
    axis.hist(values, bins=80, range=limits, density=True, color=_DATA, alpha=0.6, label="actions")
    if gaussian.sigma > 0:
        x = np.linspace(*limits, 400)
        density = np.exp(-(((x - gaussian.mu) / gaussian.sigma) ** 2) / 2)
        density /= density.mean() * (limits[1] - limits[0])
        axis.plot(x, density, color=_GAUSSIAN, label="fitted Gaussian, truncated")


def _translation(
    axis: PolarAxes,
    angle: str,
    grid: ActionGrid,
    data: dict[str, np.ndarray] | None,
    steps: dict[str, np.ndarray] | None,
) -> None:
    """The bins of one angle and r, colored by the share of actions in them, with the steps marked."""
    edges, radii = grid.edges[angle], grid.edges["r"]
    if data is None:
        shares = np.zeros((len(edges) - 1, len(radii) - 1))
    else:
        shares, _, _ = np.histogram2d(data[angle], data["r"], bins=(edges, radii))
    start, bottom = np.meshgrid(edges[:-1], radii[:-1], indexing="ij")
    width, height = np.meshgrid(np.diff(edges), np.diff(radii), indexing="ij")
    opacity = (shares / max(shares.max(), 1)).ravel()
    axis.bar(
        start.ravel(),
        height.ravel(),
        width.ravel(),
        bottom.ravel(),
        align="edge",
        color=[(_DATA, share) for share in opacity],
        edgecolor=INK,
        linewidth=0.5,
    )
    if steps is not None:
        _mark(axis, grid.centers[angle][steps[angle]], grid.centers["r"][steps["r"]], axis.transData)
    axis.grid(False)
    axis.set_rticks([])
    axis.set_ylim(0, radii[-1])
    if angle == "theta":
        axis.set_theta_zero_location("N")
        axis.set_theta_direction(-1)
        axis.set_thetalim(0, np.pi)
        axis.set_xticks([0, np.pi / 2, np.pi], ["+z", "", "−z"])
    else:
        axis.set_xticks([0, np.pi / 2, np.pi, 3 * np.pi / 2], ["+x", "+y", "−x", "−y"])


def _mark(axis: Axes, x: np.ndarray, y: np.ndarray, transform: Transform) -> None:
    """The step numbers, counted from 1, where they lie; steps at the same point share a mark."""
    axis.scatter([], [], s=60, color=_TOKEN, label="predicted tokens, by step")
    steps_at: dict[tuple[float, float], list[str]] = {}
    for step, point in enumerate(zip(x.tolist(), y.tolist(), strict=True), start=1):
        steps_at.setdefault(point, []).append(str(step))
    box = {"boxstyle": "round,pad=0.25", "facecolor": _TOKEN, "edgecolor": "none"}
    for point, steps in steps_at.items():
        label = ",".join(steps)
        axis.text(
            *point, label, color="white", fontsize=7, ha="center", va="center", transform=transform, bbox=box
        )
