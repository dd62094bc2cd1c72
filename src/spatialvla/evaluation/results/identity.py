"""Whether two results are of the same thing: same checkpoint, suite, settings and rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from spatialvla.evaluation.results.document import Results

_UNKNOWN = ("", None)


def differences(one: Results, other: Results, policies: bool = True) -> list[str]:
    """What differs between two evaluations beside the episodes they have played, each as `what: this, that`.

    policies: False leaves out what tells the policies apart, and asks about the benchmark and its rules
    alone. Of two checkpoints the hash counts, of policies without files the name. Conventions and packages
    that only one of the two mentions are taken to agree, except the arm's state: a file without one is of a
    policy that was given none. Of two harnesses, the conventions are not compared.
    """
    pairs: dict[str, tuple[Any, Any]] = {
        "suite": (one.suite, other.suite),
        "harness": (one.harness, other.harness),
        "depth": (one.depth, other.depth),
    }
    if policies:
        if one.checkpoint is None and other.checkpoint is None:
            pairs["policy"] = (one.policy, other.policy)
        else:
            pairs["checkpoint"] = (one.checkpoint, other.checkpoint)
        pairs |= _fields("settings", _flat(one), _flat(other), sure=True)
    if one.harness == other.harness:
        pairs |= _fields("conventions", asdict(one.conventions), asdict(other.conventions))
        pairs["conventions state"] = (one.conventions.state, other.conventions.state)
    pairs |= _fields("version", one.versions, other.versions)
    pairs |= _fields("task", one.tasks, other.tasks)
    return [f"{name}: {_short(a)}, {_short(b)}" for name, (a, b) in pairs.items() if a != b]


def _fields(
    name: str, one: Mapping[Any, Any], other: Mapping[Any, Any], sure: bool = False
) -> dict[str, tuple[Any, Any]]:
    """sure: a value that only one side knows is a difference."""
    keys = [*one, *(key for key in other if key not in one)]
    found = {f"{name} {key}": (one.get(key), other.get(key)) for key in keys}
    return {key: pair for key, pair in found.items() if sure or not any(value in _UNKNOWN for value in pair)}


def _flat(results: Results) -> dict[str, Any]:
    if results.settings is None:
        return {"": "not recorded"}
    settings = asdict(results.settings.compared)
    return {**settings.pop("execution"), **settings, "latency": str(results.settings.latency or "none")}


def _short(value: object) -> str:
    text = str(value) or "none"
    return text if len(text) <= 70 else f"{text[:67]}…"
