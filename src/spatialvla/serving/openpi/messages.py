"""The openpi protocol's messages: bytes to a request, and a decision to bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from spatialvla.errors import InputError
from spatialvla.serving.engine.client_interface import ClientInterface
from spatialvla.serving.engine.service import Service
from spatialvla.serving.engine.session import Decision
from spatialvla.serving.failures import ServingError, outcome
from spatialvla.types import ACTION_AXES, Observation
from spatialvla_client.codec import CodecError, pack, unpack

RequestId = int | str | None
NO_TOKEN = -1
"""Stands for the tokens of a step that was padded."""

_LONGEST_ID = 64


@dataclass(frozen=True)
class ClientMessage:
    """What a client sent.

    position: (3,) meters of the gripper. fingertips: (3,) meters of them, in the robot's frame.
    committed: (P, 3) tokens of steps under way. under_way: (P, 7) actions of earlier answers that may be executed
    before the answer's steps after them.
    reset: a new episode begins. timeout: seconds it may wait. request_id: comes back with the answer.
    """

    observation: Observation
    position: np.ndarray | None
    fingertips: np.ndarray | None
    committed: np.ndarray | None
    under_way: np.ndarray | None
    reset: bool
    timeout: float
    request_id: RequestId


@dataclass
class MessageRefused(Exception):
    """A message that is not answered with actions.

    request_id: None where none could be read. reset: it begins a new episode all the same, where that could be read.
    """

    error: Exception
    request_id: RequestId = None
    reset: bool = False


def metadata(service: Service, interface: ClientInterface, pad_to: int = 0) -> bytes:
    """What a client is told on connecting: keys, units and length of what it sends and gets."""
    mapping = interface.mapping
    return pack(
        {
            "server": "spatialvla",
            "policy": service.name,
            "mapping": mapping.name,
            "keys": mapping.keys(),
            **interface.describe(),
            "options": ["reset", "committed", "under_way", "request_id", "timeout"],
            "chunk": service.chunk,
            "horizon": max(service.horizon, pad_to),
            "action": {
                "order": list(ACTION_AXES),
                "kind": "change of the gripper's pose in one step; the gripper absolute",
                "gripper_open": mapping.gripper_open,
                "gripper_closed": mapping.gripper_closed,
                "meters_per_unit": service.units.meters,
                "radians_per_unit": service.units.radians,
                "rotation": service.units.rotation,
                "frame": service.units.frame,
                "control_hz": service.units.control_hz,
            },
        }
    )


def read(message: str | bytes, interface: ClientInterface, longest_wait: float) -> ClientMessage:
    """A client's message. Raises MessageRefused for anything that is not an observation by the mapping."""
    request_id: RequestId = None
    reset = False
    try:
        if isinstance(message, str):
            raise InputError("Observations are binary messages, this one is text.")
        content = unpack(message)
        request_id = _request_id(content)
        reset = _reset(content)
        committed = content.get("committed")
        if committed is not None and not isinstance(committed, np.ndarray):
            raise InputError("'committed' must be an array (P, 3) of tokens.")
        return ClientMessage(
            observation=interface.observation(content),
            position=interface.gripper_position(content),
            fingertips=interface.fingertips(content),
            committed=committed,
            under_way=_under_way(content),
            reset=reset,
            timeout=_timeout(content, longest_wait),
            request_id=request_id,
        )
    except CodecError as error:
        raise MessageRefused(InputError(str(error))) from None
    except Exception as error:
        raise MessageRefused(error, request_id, reset) from None


def reply(
    decision: Decision,
    interface: ClientInterface,
    *,
    pad_to: int,
    request_id: RequestId,
    infer_ms: float,
    prev_total_ms: float | None,
) -> bytes:
    """The answer to a client, of at least `pad_to` steps.

    infer_ms: from the message to here. prev_total_ms: from the last message to its answer on the wire.
    """
    actions, tokens = _padded(decision.actions, decision.tokens, pad_to)
    timings = decision.timings
    server_timing: dict[str, float] = {
        "infer_ms": infer_ms,
        "prepare_ms": timings.prepare_ms,
        "queue_ms": timings.queue_ms,
        "batch": timings.batch,
    }
    if prev_total_ms is not None:
        server_timing["prev_total_ms"] = prev_total_ms
    content: dict[str, Any] = {
        "actions": interface.actions(actions),
        "tokens": tokens,
        "policy_timing": {"infer_ms": timings.infer_ms},
        "server_timing": server_timing,
    }
    if decision.uncertainty is not None:
        content["uncertainty"] = decision.uncertainty.told()
    if request_id is not None:
        content["request_id"] = request_id
    return pack(content)


def refusal(error: InputError | ServingError, request_id: RequestId) -> bytes:
    """For a client that numbers its requests."""
    return pack({"error": str(error), "outcome": outcome(error), "request_id": request_id})


def _padded(actions: np.ndarray, tokens: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """(k, 7) actions and (k, 3) tokens, filled up with steps that stand still with the gripper as it was.

    A policy cannot be rolled on without seeing what its actions did, so no padding goes on moving.
    """
    missing = steps - len(actions)
    if missing <= 0:
        return actions, tokens
    still = np.zeros((missing, 7))
    still[:, 6] = actions[-1, 6]
    return np.concatenate([actions, still]), np.concatenate([tokens, np.full((missing, 3), NO_TOKEN)])


def _request_id(content: dict[str, Any]) -> RequestId:
    found = content.get("request_id")
    if found is None or type(found) is int or (isinstance(found, str) and len(found) <= _LONGEST_ID):
        return found
    raise InputError(f"'request_id' must be an integer or a string of up to {_LONGEST_ID} characters.")


def _under_way(content: dict[str, Any]) -> np.ndarray | None:
    """Actions as the client got them, None where it has none left. Raises InputError for anything else."""
    found = content.get("under_way")
    if found is None:
        return None
    if (
        not isinstance(found, np.ndarray)
        or found.ndim != 2
        or found.shape[1] != len(ACTION_AXES)
        or found.dtype.kind not in "fiu"
        or not (np.abs(found) <= np.finfo(np.float32).max).all()
    ):
        raise InputError(
            "'under_way' must be an array (P, 7) of finite actions, those that may still be executed."
        )
    return found


def _reset(content: dict[str, Any]) -> bool:
    """Raises InputError for anything but true and false: an episode that goes on unnoticed acts on the last one's."""
    found = content.get("reset", False)
    if not isinstance(found, bool | np.bool_):
        raise InputError("'reset' must be true or false.")
    return bool(found)


def _timeout(content: dict[str, Any], longest: float) -> float:
    given = content.get("timeout", longest)
    if not isinstance(given, int | float) or not given > 0:
        raise InputError("'timeout' must be a positive number of seconds.")
    return min(float(given), longest)
