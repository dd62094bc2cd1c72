"""The numbers of a chunk as the page's small charts and table: in millimeters and degrees where the units are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from spatialvla.actions.units import ActionUnits
from spatialvla.types import ActionChunk

_WIDTH, _HEIGHT, _GAP = 100.0, 48.0, 4.0
_THIN, _ROUND = 0.8, 2


@dataclass(frozen=True)
class Bar:
    """One step in a chart, in its coordinates: from the zero line to the value."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Chart:
    """One of the seven numbers over the steps of a chunk.

    scale: what its top and its bottom stand for. predicted, sent: a bar a step. zero: where the zero line is.
    """

    name: str
    scale: str
    predicted: tuple[Bar, ...]
    sent: tuple[Bar, ...]
    zero: float
    width: float = _WIDTH
    height: float = _HEIGHT


@dataclass(frozen=True)
class Row:
    """One step: its seven numbers, and how sure the policy was of them, as text."""

    numbers: tuple[str, ...]
    sureness: tuple[str, ...]


@dataclass(frozen=True)
class ActionTable:
    """The steps that are sent of a chunk. heads: what stands above the numbers and the sureness."""

    heads: tuple[str, ...]
    sure_heads: tuple[str, ...]
    rows: tuple[Row, ...]


def charts(
    predicted: Float[np.ndarray, "T 7"], sent: Float[np.ndarray, "k 7"], units: ActionUnits
) -> tuple[Chart, ...]:
    """One for each number. Those of the translation share a scale, as do those of the rotation."""
    chunk, within = _readable(predicted, units), _readable(sent, units)
    names, (length, angle) = _names(units), _units(units)
    both = np.abs(np.concatenate([chunk, within]))
    farthest, widest = max(float(both[:, :3].max()), 1e-9), max(float(both[:, 3:6].max()), 1e-9)
    far, wide = f"±{farthest:.3g} {length}".strip(), f"±{widest:.3g}{angle}"
    scales = [(-farthest, farthest, far)] * 3 + [(-widest, widest, wide)] * 3 + [(0.0, 1.0, "1 is open")]
    return tuple(
        Chart(
            name,
            scale,
            _bars(chunk[:, number], low, high, len(chunk)),
            _bars(within[:, number], low, high, len(chunk)),
            _place(0.0, low, high),
        )
        for number, (name, (low, high, scale)) in enumerate(zip(names, scales, strict=True))
    )


def action_table(actions: Float[np.ndarray, "k 7"], chunk: ActionChunk, units: ActionUnits) -> ActionTable:
    """What is sent, step by step. chunk: that it comes from, with its uncertainty where the policy tells it."""
    values = _readable(actions, units)
    length, angle = _units(units)
    heads = tuple(
        f"{name} {unit}".strip()
        for name, unit in zip(_names(units), [length] * 3 + [angle] * 3 + [""], strict=True)
    )
    unsure = chunk.uncertainty
    rows = []
    for step, numbers in enumerate(values):
        text = tuple(f"{number:+.{_ROUND}f}" for number in numbers[:6])
        sureness: tuple[str, ...] = ()
        if unsure is not None:
            spread = unsure.spread_mm[step]
            sureness = (
                "–" if np.isnan(spread) else f"{spread:.1f}",
                *(f"{e:.2f}" for e in unsure.entropy[step]),
            )
        rows.append(Row((*text, f"{numbers[6]:.2f}"), sureness))
    sure_heads = () if unsure is None else ("spread mm", "bits move", "bits turn", "bits gripper")
    return ActionTable(heads, sure_heads, tuple(rows))


def _readable(actions: np.ndarray, units: ActionUnits) -> np.ndarray:
    """Millimeters and degrees, where 1 is known; else the policy's own numbers."""
    scaled = actions.astype(np.float64)
    if units.meters is not None:
        scaled[:, :3] *= 1000 * units.meters
    if units.radians is not None:
        scaled[:, 3:6] *= np.degrees(units.radians)
    return scaled


def _units(units: ActionUnits) -> tuple[str, str]:
    return "mm" if units.meters is not None else "", "°" if units.radians is not None else ""


def _names(units: ActionUnits) -> tuple[str, ...]:
    turns = ("Δrx", "Δry", "Δrz") if units.rotation == "rotation_vector" else ("Δroll", "Δpitch", "Δyaw")
    return ("Δx", "Δy", "Δz", *turns, "gripper")


def _bars(column: np.ndarray, low: float, high: float, steps: int) -> tuple[Bar, ...]:
    width = (_WIDTH - _GAP) / steps - _GAP
    zero = _place(0.0, low, high)
    bars = []
    for step, value in enumerate(column):
        end = _place(float(value), low, high)
        x = round(_GAP + step * (width + _GAP), _ROUND)
        bars.append(Bar(x, min(zero, end), round(width, _ROUND), max(abs(end - zero), _THIN)))
    return tuple(bars)


def _place(value: float, low: float, high: float) -> float:
    """How far below the chart's top a value is."""
    share = min(max((high - value) / (high - low), 0.0), 1.0)
    return round(share * _HEIGHT, _ROUND)
