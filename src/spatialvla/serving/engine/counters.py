"""What the server counts and times, in Prometheus' text format."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from spatialvla.types import Uncertainty

STAGES = ("decode", "prepare", "queue", "infer", "post")
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_RECENT = 500
_BITS = (0.1, 0.2, 0.5, 1, 2, 3, 4, 5, 6, 8, 10, 12)
_MILLIMETERS = (0.5, 1, 2, 5, 10, 15, 20, 30, 40, 60, 100)
_PARTS = ("translation", "rotation", "gripper")
_BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """One server's numbers. Every method may be called from any thread.

    Stages of a request: decode (bytes to an observation), prepare (check it, resize the image), queue (wait
    for the model), infer (the batch it was in), post (execution, limits, back to bytes).
    """

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(
            "spatialvla_requests", "Requests by how they ended.", ["outcome"], registry=registry
        )
        self._stages = Histogram(
            "spatialvla_stage_seconds",
            "Time of a request by stage.",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._batches = Histogram(
            "spatialvla_batch_size", "Requests in one inference.", buckets=_BATCHES, registry=registry
        )
        self._clamps = Counter(
            "spatialvla_clamped_steps",
            "Action steps changed by a robot's limit.",
            ["limit"],
            registry=registry,
        )
        self._entropy = Histogram(
            "spatialvla_entropy_bits",
            "Entropy of a chunk's cells, averaged over its steps, by part of the action.",
            ["part"],
            buckets=_BITS,
            registry=registry,
        )
        self._spread = Histogram(
            "spatialvla_spread_millimeters",
            "Spread of a chunk's translations, averaged over its steps.",
            buckets=_MILLIMETERS,
            registry=registry,
        )
        self._refused = Counter(
            "spatialvla_refused_connections", "Connections refused, by reason.", ["reason"], registry=registry
        )
        self._offsets = Gauge(
            "spatialvla_gripper_offset_pixels",
            "How far from where it should be a camera has last seen the gripper.",
            ["camera"],
            registry=registry,
        )
        self._drifted = Counter(
            "spatialvla_drifted_sightings",
            "Times a camera has seen the gripper elsewhere than its calibration says.",
            ["camera"],
            registry=registry,
        )
        self.queued = Gauge(
            "spatialvla_queued_requests", "Requests waiting for the model.", registry=registry
        )
        self.connections = Gauge("spatialvla_connections", "Open connections.", registry=registry)
        self.ready = Gauge("spatialvla_ready", "1 while requests are accepted.", registry=registry)
        for stage in STAGES:
            self._stages.labels(stage)
        self._recent = {stage: deque[float](maxlen=_RECENT) for stage in STAGES}

    def stage(self, name: str, seconds: float) -> None:
        """Records how long one stage of one request took."""
        self._stages.labels(name).observe(seconds)
        self._recent[name].append(seconds)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Records the block as a stage."""
        began = perf_counter()
        try:
            yield
        finally:
            self.stage(name, perf_counter() - began)

    def request(self, outcome: str) -> None:
        """Counts a request that ended: "ok" or the word of its failure."""
        self._requests.labels(outcome).inc()

    def batch(self, size: int) -> None:
        """Records the size of one batch."""
        self._batches.observe(size)

    def clamped(self, limit: str, steps: int) -> None:
        """Counts steps that a limit of the robot changed."""
        self._clamps.labels(limit).inc(steps)

    def unsure(self, uncertainty: Uncertainty) -> None:
        """Records how sure the policy was of a chunk."""
        for part, bits in zip(_PARTS, uncertainty.entropy.mean(axis=0), strict=True):
            self._entropy.labels(part).observe(bits)
        if np.isfinite(uncertainty.mean_mm):
            self._spread.observe(uncertainty.mean_mm)

    def sighted(self, camera: str, pixels: float, *, drifted: bool) -> None:
        """Records how far from where it should be a camera has seen the gripper."""
        self._offsets.labels(camera).set(pixels)
        self._drifted.labels(camera).inc(drifted)

    def refused(self, reason: str) -> None:
        """Counts a connection that was not let in, or was thrown out."""
        self._refused.labels(reason).inc()

    def value(self, name: str, **labels: str) -> float:
        """One number as /metrics shows it, 0 where nothing was counted yet."""
        return self._registry.get_sample_value(f"spatialvla_{name}", labels) or 0.0

    def by_label(self, name: str) -> dict[str, float]:
        """The numbers of something that is counted by one label, such as clamped_steps_total by its limits."""
        samples = (sample for family in self._registry.collect() for sample in family.samples)
        return {
            label: sample.value
            for sample in samples
            if sample.name == f"spatialvla_{name}"
            for label in sample.labels.values()
        }

    def recent(self, stage: str) -> list[float]:
        """Seconds that a stage of the last requests took, at most some hundred of them, the oldest first."""
        return list(self._recent[stage].copy())

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
