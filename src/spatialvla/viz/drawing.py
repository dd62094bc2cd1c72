"""The one door to matplotlib: figures without a display, in colors that suit light and dark pages."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from spatialvla.common.extras import needs_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#7d828c"
"""Text and lines: a gray that reads on white and on near-black alike; backgrounds are transparent."""

_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlesize": 9,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@contextmanager
def new_figure(width: float, height: float) -> Iterator[Figure]:
    """An empty figure of this size in inches, to draw on in our style inside the `with`.

    Raises InputError if matplotlib is not installed.
    """
    with needs_extra("viz", "Drawing"):
        import matplotlib
        from matplotlib.figure import Figure
    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def webp(figure: Figure, dpi: int = 144) -> bytes:
    """The figure as a WebP file, which for photographs is a fraction of a PNG's size."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", dpi=dpi, pil_kwargs={"quality": 88, "method": 4})
    return buffer.getvalue()


def png(figure: Figure, dpi: int = 144) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
