"""Clients of the openpi server: its own, and one that sends whatever a test wants."""

import numpy as np
from fake_policy import expected
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from running import Running
from websockets.sync.client import connect

from spatialvla.types import Observation


def client_of(running: Running) -> WebsocketClientPolicy:
    return WebsocketClientPolicy(running.url)


def answer_to(message: dict) -> np.ndarray:
    return expected(Observation(message["image"], message["instruction"]))


def raw(running: Running, **options):
    """A websocket past the server's metadata."""
    websocket = connect(running.url, compression=None, max_size=None, **options).__enter__()
    websocket.recv()
    return websocket
