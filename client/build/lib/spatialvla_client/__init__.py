"""A light client of policies that speak in action chunks: NumPy, msgpack and websockets, no torch."""

from importlib import import_module
from typing import Any

_EXPORTS = {
    "ActionChunk": "client",
    "AsynchronousLoop": "asynchronous",
    "Backoff": "client",
    "Client": "client",
    "ClientError": "client",
    "LoopStatistics": "asynchronous",
    "Observation": "client",
    "ProtocolError": "client",
    "Refused": "client",
    "RequestTimeout": "client",
    "Unavailable": "client",
}

__all__ = list(_EXPORTS)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Lazy, so that the asynchronous loop alone needs neither msgpack nor websockets.
    if name not in _EXPORTS:
        raise AttributeError(f"module 'spatialvla_client' has no attribute {name!r}")
    return getattr(import_module(f"spatialvla_client.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return __all__
