"""The HTML of the page and of the parts of it that are fetched again and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from jaxtyping import Float

from spatialvla.common.extras import needs_extra
from spatialvla.serving.dashboard.charts import action_table, charts
from spatialvla.serving.dashboard.robots import Robot
from spatialvla.serving.dashboard.trials import Trial
from spatialvla.serving.engine.counters import STAGES, Metrics
from spatialvla.serving.engine.service import Service
from spatialvla.serving.guard.traffic import MAX_INSTRUCTION

with needs_extra("dashboard", "The dashboard"):
    from jinja2 import Environment, FunctionLoader, StrictUndefined

_ASSETS = files("spatialvla") / "assets"

STATIC: Mapping[str, str] = {
    "colors.css": "text/css",
    "htmx.min.js": "text/javascript",
    "page.js": "text/javascript",
    "page.css": "text/css",
    "icon.svg": "image/svg+xml",
}
"""Files that are sent as they are, and what they are."""

_MEANINGS: Mapping[str, str] = {
    "decode": "read the message",
    "prepare": "check and resize",
    "queue": "wait for the model",
    "infer": "the batch that it was in",
    "post": "execution and limits",
}
_COUNTED: Mapping[str, str] = {
    "requests": "requests_total",
    "steps changed by the limit": "clamped_steps_total",
    "drift seen by the camera": "drifted_sightings_total",
    "pixels that the gripper is off for the camera": "gripper_offset_pixels",
    "connections refused": "refused_connections_total",
}
"""What the page counts, and what /metrics calls it."""


@dataclass(frozen=True)
class Stage:
    """How long one stage of the requests took of late: milliseconds as text."""

    name: str
    meaning: str
    median: str
    p95: str


class Pages:
    """Writes the HTML. What clients and visitors say is escaped wherever it stands."""

    def __init__(self, service: Service, *, can_log_out: bool) -> None:
        self._service = service
        self._templates = Environment(
            loader=FunctionLoader(_template),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals.update(charts=charts, action_table=action_table, line=_line)
        self._can_log_out = can_log_out

    def login(self, wrong: bool = False) -> str:
        """Asks for the key."""
        return self._write("login.html", name=self._service.name, wrong=wrong)

    def page(self) -> str:
        """The page around the parts that change."""
        policy = self._service.policy
        return self._write(
            "page.html",
            name=self._service.name,
            dataset=policy.dataset,
            datasets=sorted(policy.processor.statistics),
            cameras=policy.camera_names,
            takes_state=bool(policy.state_names),
            limits=self._service.limits.describe(),
            longest=MAX_INSTRUCTION,
            can_log_out=self._can_log_out,
        )

    def live(self, robots: Sequence[tuple[Robot, float]]) -> str:
        """What happens now. robots: each with the seconds since its last decision."""
        metrics = self._service.engine.metrics
        return self._write(
            "live.html",
            ready=self._service.engine.ready,
            robots=robots,
            units=self._service.units,
            queued=int(metrics.value("queued_requests")),
            connections=int(metrics.value("connections")),
            stages=_stages(metrics),
            answered=int(metrics.value("requests_total", outcome="ok")),
            clamped=int(sum(metrics.by_label("clamped_steps_total").values())),
            drifted=int(sum(metrics.by_label("drifted_sightings_total").values())),
            counted=[(title, metrics.by_label(name)) for title, name in _COUNTED.items()],
        )

    def answer(self, trial: Trial) -> str:
        """What came of a trial."""
        return self._write("answer.html", trial=trial, refused=None)

    def no_answer(self, reason: str) -> str:
        """Why nothing came of a trial."""
        return self._write("answer.html", trial=None, refused=reason)

    def _write(self, template: str, **values: object) -> str:
        return self._templates.get_template(template).render(values)


def static(name: str) -> bytes:
    """One of the `STATIC` files."""
    folder = _ASSETS if name == "colors.css" else _ASSETS / "dashboard"  # the reports have the same colors
    return (folder / name).read_bytes()


def _template(name: str) -> str:
    return static(name).decode()


def _stages(metrics: Metrics) -> list[Stage]:
    found = []
    for name in STAGES:
        times = metrics.recent(name)
        if times:
            median, p95 = 1000 * np.percentile(times, (50, 95))
            found.append(Stage(name, _MEANINGS[name], f"{median:.1f}", f"{p95:.1f}"))
    return found


def _line(path: Float[np.ndarray, "N 2"] | None) -> list[tuple[float, float]]:
    """A path's points in pixels of its picture, without those behind the camera; of one point, and of none, nothing."""
    if path is None:
        return []
    seen = [(round(float(x), 1), round(float(y), 1)) for x, y in path[np.isfinite(path).all(axis=1)]]
    return seen if len(seen) > 1 else []
