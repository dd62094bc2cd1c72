"""Old spellings of the command line, and the sentences that tell the new ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

VERBS: Mapping[str, str] = {"demos": "record", "depth": "train-depth", "grid": "data grid"}
"""Old verbs and what they are called now."""

OPTIONS: Mapping[str, Mapping[str, str]] = {
    "train": {"--initial": "--policy"},
    "finetune": {
        "--lora-rank": "--lora.rank",
        "--lora-alpha": "--lora.alpha",
        "--lora.spatial-embeddings": "--lora.modules-to-save spatial_embed_tokens",
        # As the published scripts spell them.
        "--lora-target": "--lora.target",
        "--modules-to-save": "--lora.modules-to-save",
    },
    "evaluate": {
        "--execution": "--execution.mode",
        "--steps": "--execution.steps",
        "--latency-steps": "--execution.latency-steps",
        "--commit": "--execution.commit",
        "--no-commit": "--execution.no-commit",
    },
    "serve": {"--execution": "--execution.mode", "--steps": "--execution.steps"},
    "data inspect": {"--no-skip-bad": "--on-bad raise", "--skip-bad": "--on-bad skip"},
    "data convert": {"--no-skip-bad": "--on-bad raise", "--skip-bad": "--on-bad skip"},
    "results": {"--compare": "a verb: spatialvla compare FIRST SECOND"},
}
"""Options by verb, and what stands in their place."""

NAMED: Mapping[str, str] = {"data inspect": "--dataset", "data convert": "--dataset", "export": "--policy"}
"""Verbs whose first word was a value without an option's name, and the name it has now."""


def renamed(verb: str, rest: Sequence[str]) -> str | None:
    """One sentence where a known verb is called in an old way, None where it is not."""
    for argument in rest:
        option = argument.partition("=")[0].replace("_", "-")
        if option in OPTIONS.get(verb, ()):
            return f"`{option}` of `{verb}` is now {OPTIONS[verb][option]}."
    if verb in NAMED and rest and not rest[0].startswith("-"):
        return f"`{verb}` takes its input by name now: spatialvla {verb} {NAMED[verb]} {rest[0]} …"
    return None
