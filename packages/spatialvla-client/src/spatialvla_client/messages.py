"""A server's messages: an observation under its names, its answer as a chunk, and what it says about itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from spatialvla_client.errors import ProtocolError, Refused
from spatialvla_client.types import ActionChunk, CameraImage, Observation, Uncertainty

_CONVENTIONS = ("mapping", "keys", "cameras", "state", "needs_extrinsics", "chunk", "horizon", "action")
"""What of a server's metadata says how a message is meant. Another policy with the same is only a better one."""
_LONGEST_CHANGE = 100  # characters


def message_of(observation: Observation, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """An observation under the server's names for its parts. Raises Refused where it has none for one of them."""
    keys, policy_state = metadata["keys"], metadata.get("state")
    position, state = getattr(observation, "position", None), observation.state
    if state is not None:
        if keys.get("position") == keys.get("state"):
            position = None  # the state has it
        elif policy_state is None:
            raise Refused("The server's policy takes no state; leave it out.")
    parts = {"image": observation.image, **_parts(observation), "position": position, "state": state}
    message = _under(keys, parts)
    message.update(_under(keys, {"prompt": observation.instruction}))
    for name, seen in _cameras(observation.images):
        more = _under(_keys_of(name, metadata), {"image": seen.image, **_parts(seen)})
        if set(more) & set(message):
            raise Refused(f"The camera {name} is given twice, as image and in images; leave one out.")
        message.update(more)
    return message


def chunk_of(reply: Mapping[str, Any], round_trip_ms: float) -> ActionChunk:
    """The actions of an answer. Raises ProtocolError where they are none."""
    actions, tokens = reply.get("actions"), reply.get("tokens")
    if (
        not isinstance(actions, np.ndarray)
        or not isinstance(tokens, np.ndarray)
        or actions.ndim != 2
        or actions.shape[1] != 7
        or tokens.shape != (len(actions), 3)
    ):
        raise ProtocolError("The server's answer holds no actions (T, 7) with tokens (T, 3).")
    if not np.isfinite(actions).all():
        raise ProtocolError("The server's actions contain NaN or infinity; none of them is used.")
    timing = {
        **reply.get("server_timing", {}),
        **reply.get("policy_timing", {}),
        "round_trip_ms": round_trip_ms,
    }
    return ActionChunk(actions, tokens, timing, _uncertainty(reply.get("uncertainty")))


def _uncertainty(told: Any) -> Uncertainty | None:
    """What the server says of it. Raises ProtocolError where that is something else."""
    if told is None:
        return None
    entropy, spread = (
        told.get(name) if isinstance(told, dict) else None for name in ("entropy", "spread_mm")
    )
    if (
        not isinstance(entropy, np.ndarray)
        or not isinstance(spread, np.ndarray)
        or spread.ndim != 1
        or entropy.shape != (len(spread), 3)
    ):
        raise ProtocolError("The server's uncertainty holds no entropy (T, 3) with spread_mm (T,).")
    return Uncertainty(entropy, spread)


def changed_conventions(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Which conventions of a server have changed; an empty string where none has."""
    changes = []
    for name in _CONVENTIONS:
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            changes += [_change(f"{name}.{key}", old.get(key), new.get(key)) for key in {**old, **new}]
        else:
            changes.append(_change(name, old, new))
    return "; ".join(filter(None, changes))


def _change(name: str, old: object, new: object) -> str:
    if old == new:
        return ""
    told = f"{name} was {old!r} and is {new!r}"
    return told if len(told) <= _LONGEST_CHANGE else f"{name} changed"


def _keys_of(camera: str, metadata: Mapping[str, Any]) -> Mapping[str, str]:
    """What the server calls the parts of a camera. Raises Refused for one that it does not look through."""
    try:
        known = {entry["name"]: dict(entry["keys"]) for entry in metadata.get("cameras", [])}
    except (TypeError, KeyError, ValueError):
        raise ProtocolError("The server does not say what it calls its cameras; update it.") from None
    if camera not in known:
        raise Refused(
            f"The server does not look through a camera {camera!r}, but through {', '.join(known) or 'one'}; leave "
            "it out, or start the server with another --policy or --mapping."
        )
    return known[camera]


def _cameras(images: Mapping[str, CameraImage]) -> Iterable[tuple[str, CameraImage]]:
    """The further cameras. Raises Refused for anything but pictures by name, such as None of a camera that failed."""
    if not isinstance(images, Mapping):
        raise Refused(
            f"An Observation's images are CameraImages by name, not a {type(images).__name__}.", "bad_input"
        )
    for name, seen in images.items():
        if getattr(seen, "image", None) is None:
            raise Refused(
                f"The camera {name!r} has no picture: write {{{name!r}: CameraImage(picture)}}, and leave out cameras "
                "that are missing.",
                "bad_input",
            )
    return images.items()


def _parts(seen: Observation | CameraImage) -> dict[str, np.ndarray | None]:
    """What may come with a picture."""
    return {"intrinsics": seen.intrinsics, "extrinsics": seen.extrinsics, "depth": seen.depth}


def _under(keys: Mapping[str, str], parts: Mapping[str, Any]) -> dict[str, Any]:
    """What there is, under the server's names. Raises Refused where it has none for a part."""
    message: dict[str, Any] = {}
    for name, value in parts.items():
        if value is None:
            continue
        if name not in keys:
            raise Refused(f"The server's mapping has no key for {name}; start it with another --mapping.")
        message[keys[name]] = value if isinstance(value, str) else np.asarray(value)
    return message
