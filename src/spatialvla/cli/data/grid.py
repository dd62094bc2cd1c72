"""`spatialvla data grid`: the Gaussians and bins that fit a dataset's actions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spatialvla.cli.verb import Verb
from spatialvla.errors import InputError


@dataclass(frozen=True)
class Grid(Verb):
    """Print and draw the action grid that fits a dataset."""

    dataset: str
    """A LeRobot dataset: its folder, its name in LeRobot's cache, or a Hub id."""

    out: Path = Path("grid.png")
    """The picture to write."""

    min_sigma: float = 0.0
    """Floor of the Gaussians' deviations; pre-training used 0.5."""

    def run(self) -> None:
        import numpy as np
        from rich.console import Console
        from rich.table import Table

        from spatialvla.actions.gaussians import fit_gaussians
        from spatialvla.actions.grids import ActionGrid
        from spatialvla.actions.statistics import ActionStatistics
        from spatialvla.data.lerobot import LeRobotDataset
        from spatialvla.data.lerobot.location import find_dataset
        from spatialvla.viz.action_grid import plot_grid

        dataset = LeRobotDataset(find_dataset(self.dataset))
        if "action" not in dataset.features:
            raise InputError(f"{self.dataset} has no actions; its features are {', '.join(dataset.features)}")
        actions = np.concatenate([episode.columns["action"] for episode in dataset])
        normalised = ActionStatistics.from_actions(actions, num_trajectories=len(dataset)).normalize(actions)
        grid = ActionGrid.fit(normalised, self.min_sigma)
        table = Table(title=f"{self.dataset}: {len(dataset)} episodes, {len(actions)} steps")
        for name in ("dimension", "μ", "σ", "bins", "narrowest bin", "widest bin"):
            table.add_column(name, justify="left" if name == "dimension" else "right")
        for name, gaussian in fit_gaussians(normalised).items():
            widths = np.diff(grid.edges[name])
            numbers = (gaussian.mu, gaussian.sigma, widths.min(), widths.max())
            mu, sigma, narrow, wide = (f"{number:.4f}" for number in numbers)
            table.add_row(name, mu, sigma, str(len(widths)), narrow, wide)
        console = Console()
        console.print(table)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_bytes(plot_grid(grid, normalised, title=Path(self.dataset).name))
        console.print(f"Wrote {self.out}", highlight=False, soft_wrap=True)
