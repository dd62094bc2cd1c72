"""How an evaluation was measured, in words: all of it, and in the small print beside a rate."""

from __future__ import annotations

from spatialvla.evaluation.results.comparison import short_hash
from spatialvla.evaluation.results.document import Results


def facts(results: Results) -> dict[str, str]:
    """How an evaluation was measured, as names and values to read; what is not known is left out."""
    unknown = ("", ()) if results.harness == "spatialvla" else ("", (), 0)
    rules = {
        name.replace("_", " "): str(value)
        for name, value in vars(results.conventions).items()
        if value not in unknown
    }
    played = f"{len(results.episodes)} of {len(results.planned)} episodes"
    return {
        "started": results.started,
        "duration": f"{results.seconds / 60:.1f} min",
        "played": played + (f", shard {results.shard}" if results.shard else ""),
        "harness": results.harness,
        **({"command": results.command} if results.command else {}),
        "checkpoint": checkpoint_words(results),
        "depth": results.depth,
        "execution": str(results.settings or "not recorded"),
        **rules,
        "versions": ", ".join(f"{name} {version}" for name, version in results.versions.items()),
    }


def checkpoint_words(results: Results) -> str:
    """Which checkpoint it was: as it was asked for, and its hash; what is not known is left out."""
    hashed = f"SHA-256 {results.checkpoint}" if results.checkpoint else ""
    return ", ".join(part for part in (results.policy_path, hashed) if part) or "–"


def small_print(results: Results, *others: Results) -> str:
    """What tells one use of a policy from another. others: evaluations of the same use, on other suites."""
    parts = [short_hash(results)]
    if results.depth != "estimate":
        parts.append(f"{results.depth}'s depth")
    if results.settings is None and results.harness == "spatialvla":
        parts.append("settings not recorded")
    elif results.settings is not None and str(results.settings) != "whole chunks":
        parts.append(str(results.settings))
    if results.harness != "spatialvla":
        parts.append(results.harness)
    if missing := sum(len(each.missing) for each in (results, *others)):
        planned = sum(len(each.planned) for each in (results, *others))
        parts.append(f"{missing} of {planned} episodes missing")
    return " · ".join(part for part in parts if part)
