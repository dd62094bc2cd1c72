"""SpatialVLA: one RGB image and an instruction in, a chunk of 7-DoF robot actions out."""

from importlib import import_module
from typing import Any

_EXPORTS = {
    "ActionChunk": "types",
    "ActionGrid": "actions.grids",
    "Batch": "types",
    "Observation": "types",
    "Policy": "policy",
    "Processor": "processor",
    "SpatialVLA": "model.spatialvla",
    "SpatialVLAConfig": "model.config",
    "adapt_embeddings": "actions.embeddings",
}

__all__ = list(_EXPORTS)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Lazy, so that the NumPy-only parts do not pay for importing torch.
    if name not in _EXPORTS:
        raise AttributeError(f"module 'spatialvla' has no attribute {name!r}")
    return getattr(import_module(f"spatialvla.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return __all__
