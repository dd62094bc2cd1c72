"""`spatialvla data grid`: the action grid that a run on these datasets would have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from tyro.conf import OmitArgPrefixes

from spatialvla.actions.bins import Bins
from spatialvla.cli.arguments import parse_options, read_first
from spatialvla.cli.dataset_options import DatasetOptions, FlatDatasetOptions
from spatialvla.cli.training_run import part
from spatialvla.cli.verb import Verb
from spatialvla.common.output_folder import check_output_folder
from spatialvla.errors import InputError
from spatialvla.training.config import TrainConfig
from spatialvla.training.options import DataOptions
from spatialvla.training.recipes import nano, pretrain

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

    from spatialvla.actions.grids import ActionGrid

Recipe = Literal["train", "pretrain"]

_RECIPES: Mapping[Recipe, Callable[[], TrainConfig]] = {"train": nano, "pretrain": pretrain}


@dataclass(frozen=True)
class _ChosenRecipe:
    recipe: Recipe = "train"


@dataclass(frozen=True, kw_only=True)
class Grid(Verb):
    """Print and draw the action grid that a run would make.

    It prints the Gaussian and the bins of each dimension, how far actions are from their cells' middles in this grid
    and in a uniform one (--grid), and what the statistics clip, which no grid can give back. It draws the bins beside
    the actions.
    """

    datasets: FlatDatasetOptions

    recipe: Recipe
    """The verb whose run it is."""

    out: Path = Path("grid.png")
    """The picture to write."""

    min_sigma: float
    """Floor of the Gaussians' deviations, in normalized actions."""

    bins: Bins
    data: OmitArgPrefixes[DataOptions]

    @classmethod
    def parse(cls, arguments: Sequence[str], program: str) -> Self:
        """Reads --recipe first, because the other values are its."""
        chosen = read_first(_ChosenRecipe, arguments, program)
        recipe = _RECIPES[chosen.recipe]()
        default = cls(
            datasets=DatasetOptions(),
            recipe=chosen.recipe,
            min_sigma=recipe.min_sigma,
            bins=recipe.bins,
            # Actions alone are looked at.
            data=replace(part(DataOptions, recipe), in_memory=False),
        )
        return parse_options(cls, arguments, program, default)

    @property
    def config(self) -> TrainConfig:
        """The run's configuration, as far as the grid depends on it."""
        return replace(
            _RECIPES[self.recipe](),
            datasets=self.datasets.configurations(),
            min_sigma=self.min_sigma,
            bins=self.bins,
            **vars(self.data),
        )

    def run(self) -> None:
        """Fits the grid as the run does, prints and draws it."""
        if self.out.suffix.lower() != ".png":
            raise InputError(f"{self.out} would be a PNG picture; call it {self.out.stem}.png.")
        check_output_folder(self.out.parent)
        from spatialvla.common.files import replacing
        from spatialvla.common.terminal import Terminal, shown
        from spatialvla.training.feed.datasets import open_mixture
        from spatialvla.training.parallel.world import join_world
        from spatialvla.training.run.progress import Progress
        from spatialvla.training.start.build import network_config
        from spatialvla.viz.action_grid import plot_grid

        config = self.config
        with join_world("cpu") as world:
            progress = Progress(config, Terminal(stderr=True))
            mixture = open_mixture(config, network_config(config), world, progress)
        grid, actions = mixture.fit_grid(config.bins, config.min_sigma), mixture.normalized_actions()
        console = Terminal()
        keys = ", ".join(mixture.keys)
        steps = sum(int(survey.lengths.sum()) for survey in mixture.surveys)
        console.print(f"{shown(keys)}: {steps} steps", highlight=False, soft_wrap=True, markup=False)
        console.print(_table(grid, actions))
        console.print(_rounding_table(grid, actions))
        console.print(_clipping_table(mixture.clipped_parts()))
        with replacing(self.out) as partial:
            partial.write_bytes(plot_grid(grid, actions, title=keys))
        console.print(f"Wrote {self.out}", highlight=False, soft_wrap=True)


def _table(grid: ActionGrid, actions: np.ndarray) -> Table:
    """A row a dimension. actions: (N, 7) normalized, which the grid was fitted to."""
    import numpy as np
    from rich.table import Table

    from spatialvla.actions.bins import fit_gaussians
    from spatialvla.actions.grids import action_coordinates

    table = Table(title="Action grid")
    for name in ("dimension", "μ", "σ", "bins", "narrowest bin", "widest bin"):
        table.add_column(name, justify="left" if name == "dimension" else "right")
    for name, gaussian in fit_gaussians(action_coordinates(actions)).items():
        widths = np.diff(grid.edges[name])
        numbers = (gaussian.mu, gaussian.sigma, widths.min(), widths.max())
        mu, sigma, narrow, wide = (f"{number:.4f}" for number in numbers)
        table.add_row(name, mu, sigma, str(len(widths)), narrow, wide)
    return table


def _rounding_table(grid: ActionGrid, actions: np.ndarray) -> Table:
    """A row for the grid and one for a uniform grid of as many cells. actions: (N, 7) normalized."""
    from rich.table import Table

    from spatialvla.actions.grids import ActionGrid
    from spatialvla.actions.rounding import rounding

    table = Table(title="Rounding", caption="in normalized actions; offsets add up from step to step")
    table.add_column("grid")
    for name in ("translation", "of it offset", "rotation", "of it offset"):
        table.add_column(name, justify="right")
    for kind, one in (("fitted", grid), ("uniform", ActionGrid.uniform(grid.bins))):
        blocks = rounding(one, actions).values()
        table.add_row(kind, *(f"{number:.4f}" for block in blocks for number in (block.error, block.offset)))
    return table


def _clipping_table(beyond: np.ndarray) -> Table:
    """A row a number. beyond: (N, 7) of the same actions, what lies outside their statistics."""
    from rich.table import Table

    from spatialvla.actions.clipping import clipping

    table = Table(
        title="Clipped",
        caption="beyond q01 to q99, which normalize to -1 to 1; at 1 a motion is half as fast as shown",
    )
    for name in ("number", "of all actions", "by, mean", "by, most"):
        table.add_column(name, justify="left" if name == "number" else "right")
    for name, one in clipping(beyond).items():
        if one.share:
            table.add_row(name, f"{one.share:.1%}", f"{one.mean:.3f}", f"{one.most:.3f}")
    return table
