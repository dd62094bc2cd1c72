"""A network that is given more cameras, or the arm's state, and computes as before where these are missing."""

from __future__ import annotations

from collections.abc import Sequence

from spatialvla.errors import InputError
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.network import Network, StateProjector


def grow(network: Network, cameras: Sequence[str] = (), state_size: int = 0) -> None:
    """Adds cameras behind those there are, and a state where there is none; in place.

    state_size: numbers of the state; 0 adds none. Its projector's weights are drawn from torch's generator.
    Raises InputError for a camera that is there already, and for a state of another size than the network has.
    """
    give_inputs(network, grown_config(network.config, cameras, state_size))


def grown_config(
    config: SpatialVLAConfig, cameras: Sequence[str] = (), state_size: int = 0
) -> SpatialVLAConfig:
    """The configuration of a network that has grown, see `grow`."""
    if known := [name for name in cameras if name in config.cameras]:
        raise InputError(f"The model has a camera {known[0]} already; give the new one another name.")
    if state_size and config.state_size not in (0, state_size):
        raise InputError(
            f"The model's state has {config.state_size} numbers already and cannot get {state_size}; leave that out."
        )
    return config.replace(cameras=(*config.cameras, *cameras), state_size=state_size or config.state_size)


def give_inputs(network: Network, config: SpatialVLAConfig) -> None:
    """Lets a network see what `config` says: with its cameras and state, in its frame and workspace; in place."""
    own = network.config
    if config.inputs == own.inputs:
        return
    if config.state_size and not own.state_size:
        projector = StateProjector(config.state_size, own.text.hidden_size)
        network.state_projector = projector.to(network.device, network.dtype)
    network.config = own.with_inputs(config.inputs)
    network.grown = True
