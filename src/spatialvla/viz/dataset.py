"""Pictures of a dataset: its actions' distribution, and frames of some episodes with their instructions."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from spatialvla.common.terminal import shown
from spatialvla.data.inspection import Inspection
from spatialvla.types import ACTION_AXES
from spatialvla.viz.drawing import INK, new_figure

if TYPE_CHECKING:
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
    """A row of frames for each episode shown, its instruction at the left."""
    strips = inspection.strips
    columns = max((len(strip.images) for strip in strips), default=1)
    height, width = inspection.size if strips else (1, 1)
    frame = 1.5  # inches wide
    row = max(frame * height / width, 0.9) + 0.22
    with new_figure(2.2 + columns * frame, max(len(strips), 1) * row) as figure:
        axes = figure.subplots(
            max(len(strips), 1), columns + 1, squeeze=False, width_ratios=[2.0, *[frame] * columns]
        )
        for axis in axes.ravel():
            axis.set_axis_off()
        for line, strip in zip(axes, strips, strict=False):
            words = textwrap.shorten(shown(strip.instruction or "(no instruction)"), 120, placeholder="…")
            text = f"episode {strip.episode}\n" + textwrap.fill(words, _WORDS_A_LINE)
            line[0].text(0, 0.5, text, va="center", transform=line[0].transAxes, parse_math=False)
            for axis, image, step in zip(line[1:], strip.images, strip.steps, strict=False):
                axis.imshow(np.asarray(image))
                axis.set_title(f"step {step}", fontsize=7, pad=2)
    return figure
