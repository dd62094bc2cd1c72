"""The objects of LeRobot's client, read from the pickles that it sends."""

from __future__ import annotations

from spatialvla.common.pickles import BadPickle, Data, Instance, Rules, read_pickle
from spatialvla.errors import InputError

HELPERS = "lerobot.async_inference.helpers"
"""The module of LeRobot's classes."""

_RULES = Rules(
    opcodes=20_000,  # a message of a robot with a hundred joints has a tenth of it
    classes=frozenset({f"{HELPERS}.RemotePolicyConfig", f"{HELPERS}.TimedObservation"}),
)


def read_object(data: bytes, name: str) -> dict[str, Data]:
    """The attributes of an object of LeRobot's class `name`. Raises InputError for anything else."""
    try:
        found = read_pickle(data, _RULES)
    except BadPickle as error:
        raise InputError(f"The message cannot be read as a {name} of LeRobot's client: {error}.") from None
    if not isinstance(found, Instance) or found.name != f"{HELPERS}.{name}":
        raise InputError(f"The message is no {name}.")
    return found.state
