"""Pictures of a dataset: its actions' distribution, and frames of some episodes with their instructions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from spatialvla.common.terminal import shown
from spatialvla.data.camera_strips import CameraStrip, Strip
from spatialvla.data.camera_summary import CameraSummary
from spatialvla.data.depth_summary import DepthSummary
from spatialvla.data.inspection import Inspection
from spatialvla.types import ACTION_AXES
from spatialvla.viz.drawing import INK, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DATA, _QUANTILE = "#5b8dd9", "#e08a3c"
_PATH = "#ff3d7f"
_PATH_LEGEND = "(pink: the gripper's path;\nring: where it is now)"
_MOST_ROWS, _FEWEST_EPISODES = 16, 2  # of a contact sheet
_WORDS_A_LINE = 26


def action_figure(inspection: Inspection) -> Figure:
    """A histogram of each action dimension with its q01 and q99, counts on a logarithmic scale."""
    statistics = inspection.statistics
    with new_figure(11.0, 4.2) as figure:
        axes = figure.subplots(2, 4).ravel()
        for axis, name, number in zip(axes, ACTION_AXES, range(7), strict=False):
            low, high = statistics.min[number], statistics.max[number]
            margin = 0.02 * (high - low) or 0.5
            values = inspection.sample[:, number]
            axis.hist(values, bins=60, range=(low - margin, high + margin), color=_DATA, log=True)
            for value in (statistics.q01[number], statistics.q99[number]):
                axis.axvline(value, color=_QUANTILE, lw=1.2)
            # A bar of one step is seen, and the longest is not cut off by where the scale begins.
            axis.set_ylim(0.5, max(10.5, axis.get_ylim()[1]))
            axis.yaxis.set_minor_formatter("")
            axis.set_title(name)
            axis.spines[["top", "right"]].set_visible(False)
            axis.locator_params(axis="x", nbins=5)
        for axis in axes[::4]:
            axis.set_ylabel("steps")
        axes[-1].set_axis_off()
        axes[-1].text(
            0,
            0.5,
            f"{shown(inspection.key)}\n{len(inspection.lengths)} episodes, {int(inspection.lengths.sum())} steps\n"
            f"{inspection.control_hz:g} Hz",
            va="center",
            transform=axes[-1].transAxes,
            parse_math=False,
        )
        axes[-1].plot([], [], color=_QUANTILE, label="q01, q99")
        axes[-1].legend(frameon=False, loc="lower left", borderaxespad=0, labelcolor=INK)
    return figure


def contact_sheet(inspection: Inspection) -> Figure:
    """A row of frames for each camera of some episodes, the instruction at the left, and depth below them.

    Where calibration and state tell, the gripper's path is drawn into them, with a ring where it should be now.
    """
    rows = [
        (camera, is_depth)
        for camera in inspection.cameras
        for is_depth in (False, True)
        if camera.depth or not is_depth
    ]
    strips = inspection.strips[: max(_MOST_ROWS // len(rows), _FEWEST_EPISODES)]
    columns = max((len(strip.steps) for strip in strips), default=1)
    frame = 1.5  # inches wide
    heights = [
        max(frame * camera.size[0] / camera.size[1], 0.9) + 0.22 if strips else 1.0 for camera, _ in rows
    ] * max(len(strips), 1)
    with new_figure(2.2 + columns * frame, sum(heights)) as figure:
        axes = figure.subplots(
            len(heights),
            columns + 1,
            squeeze=False,
            width_ratios=[2.0, *[frame] * columns],
            height_ratios=heights,
        )
        for axis in axes.ravel():
            axis.set_axis_off()
        for number, strip in enumerate(strips):
            for line, (camera, is_depth) in zip(axes[number * len(rows) :], rows, strict=False):
                _draw_row(line, strip, camera, is_depth, inspection)
    return figure


def _draw_row(
    line: Sequence[Axes], strip: Strip, camera: CameraSummary, is_depth: bool, inspection: Inspection
) -> None:
    seen = strip.cameras.get(camera.name)
    name = camera.name if len(inspection.cameras) > 1 else ""
    if seen is None:
        _write(line[0], f"{shown(name)}\nnot in this episode")
        return
    if is_depth and camera.depth is not None:
        _draw_depth(line, seen, camera.depth, name)
        return
    if camera is inspection.cameras[0]:
        words = textwrap.shorten(shown(strip.instruction or "(no instruction)"), 120, placeholder="…")
        name = f"episode {strip.episode}\n{textwrap.fill(words, _WORDS_A_LINE)}\n{shown(name)}".rstrip()
        if any(shown_too.path is not None for shown_too in strip.cameras.values()):
            name += f"\n{_PATH_LEGEND}"
    _write(line[0], name)
    for axis, image, step in zip(line[1:], seen.images, strip.steps, strict=False):
        axis.imshow(np.asarray(image))
        axis.set_title(f"step {step}", fontsize=7, pad=2)
        if seen.path is not None:
            _draw_path(axis, seen.path, int(step), image.shape[:2])


def _draw_path(axis: Axes, path: np.ndarray, step: int, size: tuple[int, int]) -> None:
    """The path as far as it lies in the picture, whose frame it must not widen."""
    height, width = size
    # imshow has the center of the first pixel at 0.
    u, v = path.T - 0.5
    axis.plot(u, v, color=_PATH, lw=0.8, alpha=0.8)
    axis.plot(u[step], v[step], "o", ms=7, mfc="none", mec=_PATH, mew=1.4)
    axis.set_xlim(-0.5, width - 0.5)
    axis.set_ylim(height - 0.5, -0.5)


def _draw_depth(line: Sequence[Axes], seen: CameraStrip, depth: DepthSummary, name: str) -> None:
    """Near is bright, far is dark, and holes stay blank; all episodes share one scale."""
    what = f"{shown(name)}: depth" if name else "depth"
    if seen.readings is None:
        _write(line[0], f"{what} cannot be read")
        return
    _write(line[0], f"{what}, {depth.nearest:.2g} m (bright)\nto {depth.farthest:.2g} m (dark)")
    for axis, readings in zip(line[1:], seen.readings, strict=False):
        measured = np.where(readings > 0, readings, np.nan)
        axis.imshow(measured, cmap="viridis_r", vmin=depth.nearest, vmax=depth.farthest)


def _write(axis: Axes, text: str) -> None:
    axis.text(0, 0.5, text, va="center", transform=axis.transAxes, parse_math=False)
