"""The picture of an action grid shows its edges, the data and the predicted tokens."""

import sys

import numpy as np
import pytest

from spatialvla.actions.bins import Bins
from spatialvla.actions.grids import ActionGrid
from spatialvla.errors import InputError

pytest.importorskip("matplotlib")
from spatialvla.viz.action_grid import grid_figure, plot_grid

GRID = ActionGrid.uniform(Bins(4, 8, 4, 4, 5, 6))
ACTIONS = np.random.default_rng(0).normal(0, 0.3, (200, 7))


def test_every_dimension_shows_its_edges_and_both_views_all_bins():
    panels = grid_figure(GRID).axes
    for axis, edges in zip(panels, GRID.edges.values(), strict=False):
        (lines,) = axis.collections
        np.testing.assert_allclose([segment[0, 0] for segment in lines.get_segments()], edges)
    assert [len(axis.patches) for axis in panels[6:]] == [8 * 4, 4 * 4]


def test_data_and_fitted_gaussian_have_equal_area():
    axis = grid_figure(GRID, ACTIONS).axes[3]
    histogram = sum(bar.get_height() * bar.get_width() for bar in axis.patches)
    x, density = axis.lines[0].get_data()
    area = (density.mean()) * (x[-1] - x[0])
    assert (histogram, area) == pytest.approx((1, 1))
    assert x[density.argmax()] == pytest.approx(ACTIONS[:, 3].mean(), abs=0.01)


def test_tokens_are_marked_at_their_bins():
    tokens = GRID.encode(ACTIONS[:3])
    panels = grid_figure(GRID, tokens=tokens).axes
    decoded = GRID.decode(tokens)
    for axis, place in zip(panels[3:6], (3, 4, 5), strict=True):
        marks = [(text.get_text(), text.get_position()[0]) for text in axis.texts]
        assert marks == [(str(step), x) for step, x in enumerate(decoded[:, place], start=1)]
    # Steps in one bin share a mark.
    shared = grid_figure(GRID, tokens=np.repeat(tokens[:1], 2, axis=0)).axes[6]
    assert [text.get_text() for text in shared.texts] == ["1,2"]


def test_png_of_a_resting_dataset():
    picture = plot_grid(GRID, np.zeros((10, 7)), GRID.encode(ACTIONS[:4]), title="at rest")
    assert picture.startswith(b"\x89PNG")


def test_bad_input_is_refused(monkeypatch):
    with pytest.raises(InputError, match="translation token"):
        grid_figure(GRID, tokens=np.array([[999, 128, 260]]))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match="pip install"):
        grid_figure(GRID)


@pytest.mark.parametrize("title", ["costs $5 and $6", "$\\frac{", "\x1b]0;owned\x07", "[/b]"])
def test_a_title_is_text_whatever_it_says(title):
    assert plot_grid(GRID, title=title).startswith(b"\x89PNG")
