"""ONNX files that share one file of weights: what several graphs hold is written once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WEIGHTS = "weights.bin"

_ALIGNED = 64
"""Bytes at whose multiples weights begin, so that they can be mapped into memory."""

_SMALLEST = 1024
"""Bytes. What is smaller stays in the graph's own file, where runtimes fold it."""


def save_onnx(models: Mapping[str, Any], folder: Path) -> None:
    """Writes each graph under its file's name, and the weights of all of them beside.

    models: `onnx_ir` models by file name.
    """
    import onnx_ir

    places: dict[str, tuple[int, int]] = {}
    with (folder / WEIGHTS).open("wb") as file:
        for model in models.values():
            for value in model.graph.initializers.values():
                tensor = value.const_value
                if tensor.nbytes < _SMALLEST:
                    continue
                data = tensor.tobytes()
                key = hashlib.sha256(data).hexdigest()
                if key not in places:
                    file.write(b"\0" * (-file.tell() % _ALIGNED))
                    places[key] = file.tell(), len(data)
                    file.write(data)
                offset, length = places[key]
                value.const_value = onnx_ir.ExternalTensor(
                    WEIGHTS,
                    offset,
                    length,
                    tensor.dtype,
                    shape=tensor.shape,
                    name=tensor.name,
                    base_dir=str(folder),
                )
    for name, model in models.items():
        onnx_ir.save(model, folder / name)
