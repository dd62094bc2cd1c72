"""Pictures of a dataset: its actions' distribution, and frames of some episodes with their instructions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from spatialvla.common.terminal import shown
from spatialvla.data.depth_summary import DepthSummary
from spatialvla.data.inspection import Inspection, Strip
from spatialvla.types import ACTION_AXES
from spatialvla.viz.drawing import INK, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DATA, _QUANTILE = "#5b8dd9", "#e08a3c"
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
            axis.set_title(name)
            axis.spines[["top", "right"]].set_visible(False)
            axis.locator_params(axis="x", nbins=5)
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
    """A row of frames for each episode shown, its instruction at the left, and their depth below them."""
    strips, depth = inspection.strips, inspection.depth
    columns = max((len(strip.images) for strip in strips), default=1)
    height, width = inspection.size if strips else (1, 1)
    frame = 1.5  # inches wide
    row = max(frame * height / width, 0.9) + 0.22
    of_a_strip = 1 if depth is None else 2
    rows = max(len(strips), 1) * of_a_strip
    with new_figure(2.2 + columns * frame, rows * row) as figure:
        axes = figure.subplots(rows, columns + 1, squeeze=False, width_ratios=[2.0, *[frame] * columns])
        for axis in axes.ravel():
            axis.set_axis_off()
        for line, strip in zip(axes[::of_a_strip], strips, strict=False):
            words = textwrap.shorten(shown(strip.instruction or "(no instruction)"), 120, placeholder="…")
            _write(line[0], f"episode {strip.episode}\n" + textwrap.fill(words, _WORDS_A_LINE))
            for axis, image, step in zip(line[1:], strip.images, strip.steps, strict=False):
                axis.imshow(np.asarray(image))
                axis.set_title(f"step {step}", fontsize=7, pad=2)
        if depth is not None:
            for line, strip in zip(axes[1::2], strips, strict=False):
                _draw_depth(line, strip, depth)
    return figure


def _draw_depth(line: Sequence[Axes], strip: Strip, depth: DepthSummary) -> None:
    """Near is bright, far is dark, and holes stay blank; all episodes share one scale."""
    if strip.readings is None:
        _write(line[0], "depth cannot be read")
        return
    _write(line[0], f"depth, {depth.nearest:.2g} m (bright)\nto {depth.farthest:.2g} m (dark)")
    for axis, readings in zip(line[1:], strip.readings, strict=False):
        measured = np.where(readings > 0, readings, np.nan)
        axis.imshow(measured, cmap="viridis_r", vmin=depth.nearest, vmax=depth.farthest)


def _write(axis: Axes, text: str) -> None:
    axis.text(0, 0.5, text, va="center", transform=axis.transAxes, parse_math=False)
