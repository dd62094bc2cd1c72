"""How Rerun's viewer shows a recording when it is opened: its blueprint."""

from __future__ import annotations

from collections.abc import Mapping

import rerun.blueprint as rrb

from spatialvla.viz.rerun import paths
from spatialvla.viz.rerun.real_view import RealView

STEP, TIME = "step", "time"
"""The timelines: control steps, and seconds of them."""

_EYE, _TARGET = (1.5, -1.1, 1.0), (0.45, 0.0, 0.15)
"""From where space is looked at first, and what at, in meters in the robot's frame: an arm's reach over a table."""


def layout(views: Mapping[str, RealView], *, decides: bool) -> rrb.Blueprint:
    """Space at the left; pictures, curves and text at the right.

    views: what each camera saw first. decides: whether there is a policy, with chunks and how sure it was of them.
    """
    space = rrb.Tabs(*_spaces(views), name="Space") if len(_spaces(views)) > 1 else _spaces(views)[0]
    curves = [
        rrb.TimeSeriesView(origin=f"{paths.ACTIONS}/{part}", name=name)
        for part, name in (("translation", "Translation"), ("rotation", "Rotation"), ("gripper", "Gripper"))
    ]
    below: rrb.Container | rrb.View = rrb.Vertical(*curves, name="Actions")
    if decides:
        entropy = rrb.TimeSeriesView(origin=paths.ENTROPY, name="Entropy (bits)")
        chances = [
            rrb.BarChartView(origin=f"{paths.PROBABILITIES}/{part}", name=f"Probability of each {part} cell")
            for part in ("translation", "rotation", "gripper")
        ]
        below = rrb.Tabs(
            rrb.Grid(*curves, entropy, grid_columns=2, name="Actions"),
            rrb.Vertical(*chances, name="Next step's cells"),
        )
    return rrb.Blueprint(
        rrb.Horizontal(
            rrb.Vertical(
                space, rrb.TextDocumentView(origin=paths.EPISODE, name="Episode"), row_shares=[3, 1]
            ),
            rrb.Vertical(
                _pictures(views),
                below,
                row_shares=[1, 1],
            ),
            column_shares=[3, 2],
        ),
        rrb.TimePanel(state="collapsed", timeline=STEP),
        rrb.SelectionPanel(state="collapsed"),
        rrb.BlueprintPanel(state="collapsed"),
    )


def _spaces(views: Mapping[str, RealView]) -> list[rrb.Spatial3DView]:
    """The robot's frame, and one of its own for each camera that has no place in it."""
    placed = [name for name, view in views.items() if view.extrinsics is not None]
    spaces = []
    if placed:
        hidden = [f"- {paths.camera(name, placed=True)}/depth/**" for name in placed]
        spaces.append(
            rrb.Spatial3DView(
                origin=paths.ROBOT,
                contents=["$origin/**", *hidden],
                name="Robot's frame",
                overrides={paths.PATH: [_SO_FAR]},
                eye_controls=rrb.EyeControls3D(position=_EYE, look_target=_TARGET, eye_up=(0, 0, 1)),
            )
        )
    spaces += [
        rrb.Spatial3DView(
            origin=f"{paths.UNPLACED}/{name}",
            contents=["$origin/**", f"- {paths.camera(name, placed=False)}/depth/**"],
            name=f"{name}'s own frame",
        )
        for name in views
        if name not in placed
    ]
    return spaces


_SO_FAR = rrb.VisibleTimeRanges(
    [
        rrb.VisibleTimeRange(
            timeline,
            start=rrb.TimeRangeBoundary.infinite(),
            end=rrb.TimeRangeBoundary.cursor_relative(),
        )
        for timeline in (STEP, TIME)
    ]
)
"""The gripper's path is shown from the beginning to now."""


def _pictures(views: Mapping[str, RealView]) -> rrb.Container:
    """Of one camera picture and depth side by side; of several the pictures, and the depths behind them."""
    pictures, depths = [], []
    for name, view in views.items():
        origin = paths.camera(name, placed=view.extrinsics is not None)
        pictures.append(rrb.Spatial2DView(origin=origin, contents=f"{origin}/image", name=name))
        depths += [
            rrb.Spatial2DView(origin=origin, contents=f"{origin}/depth/{kind}", name=f"{name}: {kind} depth")
            for kind in view.depths
        ]
    if len(pictures) == 1 or not depths:
        return rrb.Grid(*pictures, *depths, name="Cameras")
    return rrb.Tabs(rrb.Grid(*pictures, name="Pictures"), rrb.Grid(*depths, name="Depth"))
