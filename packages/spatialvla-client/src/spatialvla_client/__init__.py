"""A light client of policies that speak in action chunks: NumPy, msgpack and websockets, no torch."""

from importlib.metadata import version

from spatialvla_client.asynchronous import AsynchronousLoop, LoopStatistics
from spatialvla_client.connection import Backoff, Client
from spatialvla_client.errors import ClientError, ProtocolError, Refused, RequestTimeout, Unavailable
from spatialvla_client.types import ActionChunk, CameraImage, Observation, Uncertainty

__all__ = [
    "ActionChunk",
    "AsynchronousLoop",
    "Backoff",
    "CameraImage",
    "Client",
    "ClientError",
    "LoopStatistics",
    "Observation",
    "ProtocolError",
    "Refused",
    "RequestTimeout",
    "Unavailable",
    "Uncertainty",
]
__version__ = version("spatialvla-client")
