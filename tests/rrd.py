"""Reads a Rerun recording back, with Rerun's own reader."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from rerun.chunk import RrdReader


@dataclass(frozen=True)
class Rrd:
    """What one file holds."""

    path: Path

    @property
    def batches(self) -> list[tuple[str, pa.RecordBatch]]:
        return [(chunk.entity_path, chunk.to_record_batch()) for chunk in RrdReader(self.path).stream()]

    @property
    def entities(self) -> set[str]:
        return {path.lstrip("/") for path, _ in self.batches}

    def rows(self, entity: str, component: str, timeline: str | None = "step") -> dict[int, Any]:
        """What was logged, by the value of the timeline: steps, or nanoseconds; by number where it is static."""
        found: list[tuple[int, Any]] = []
        for path, batch in self.batches:
            if path.lstrip("/") == entity and component in batch.schema.names:
                times = range(batch.num_rows) if timeline is None else batch.column(timeline).cast(pa.int64())
                values = batch.column(component).to_pylist()
                found += [
                    (int(str(time)), one) for time, one in zip(times, values, strict=True) if one is not None
                ]
        return dict(sorted(found))

    def arrays(self, entity: str, component: str) -> dict[int, np.ndarray]:
        return {step: np.array(value) for step, value in self.rows(entity, component).items()}

    def text(self, entity: str = "episode") -> str:
        """The last text."""
        return list(self.rows(entity, "TextDocument:text").values())[-1][0]

    def pictures(self, entity: str, archetype: str = "EncodedImage") -> dict[int, np.ndarray]:
        blobs = self.rows(entity, f"{archetype}:blob")
        return {step: np.asarray(Image.open(io.BytesIO(bytes(blob[0])))) for step, blob in blobs.items()}

    def property(self, name: str) -> Any:
        """One of the recording's own properties."""
        (found,) = self.rows("__properties/episode", name, None).values()
        return found[0]
