"""How a policy was used in an evaluation: what decides what it does, beside its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from spatialvla.execution import Execution


@dataclass(frozen=True)
class PolicySettings:
    """How a policy was used.

    execution: what is executed of a chunk, and how late it comes. dataset: whose statistics scale the
    actions.
    speculate, tolerance: whether chunks are guessed from the last one, and how many cells a guess may be off.
    depth_every: decisions that share one estimated depth map. prompt: template around the instruction.
    temperature: of sampling, 0 for greedy. dtype: of the weights in memory, and what was made 8 bits of.
    """

    execution: Execution = field(default_factory=Execution)
    dataset: str | None = None
    speculate: bool = False
    tolerance: int = 0
    depth_every: int = 1
    prompt: str = "{instruction}"
    temperature: float = 0.0
    dtype: str = "float32"

    def __str__(self) -> str:
        """What is executed, and what else is not the default: `receding, 2 steps; tolerance 1`."""
        words = [_execution(self.execution)]
        default = asdict(PolicySettings())
        ignored = ("execution", "dataset", "speculate")  # speculation alone does not change what comes out
        words += [
            f"{name.replace('_', ' ')} {value}"
            for name, value in asdict(self).items()
            if name not in ignored and value != default[name]
        ]
        return "; ".join(words)


def _execution(execution: Execution) -> str:
    match execution.mode:
        case "receding":
            return f"receding, {execution.steps} {'step' if execution.steps == 1 else 'steps'}"
        case "async":
            steps = "step" if execution.latency_steps == 1 else "steps"
            told = "" if execution.commit else ", not told of the steps under way"
            return f"async, {execution.latency_steps} {steps} late{told}"
        case "chunk":
            return "whole chunks"
        case mode:
            return mode
