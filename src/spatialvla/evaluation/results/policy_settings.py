"""How a policy was used in an evaluation: what decides what it does, beside its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

from spatialvla.evaluation.results.latency import Latency
from spatialvla.execution import Execution
from spatialvla.types import Readout


@dataclass(frozen=True)
class PolicySettings:
    """How a policy was used.

    execution: what is executed of a chunk, and how late it comes. dataset: whose statistics scale the
    actions.
    speculate, tolerance: whether chunks are guessed from the last one, and how many cells a guess may be off.
    depth_every: decisions that share one estimated depth map. prompt: template around the instruction.
    temperature: of sampling, 0 for greedy. readout: actions of the likeliest tokens, or the mean.
    dtype: of the weights in memory, and what was made 8 bits of.
    latency: of each chunk where the world did not wait; None where it did.
    """

    execution: Execution = field(default_factory=Execution)
    dataset: str | None = None
    speculate: bool = False
    tolerance: int = 0
    depth_every: int = 1
    prompt: str = "{instruction}"
    temperature: float = 0.0
    readout: Readout = "likeliest"
    dtype: str = "float32"
    latency: Latency | None = None

    @property
    def compared(self) -> PolicySettings:
        """The same as it is compared: `commit` is for async alone, and older files say it of every mode."""
        if self.execution.mode == "async":
            return self
        return replace(self, execution=replace(self.execution, commit=False))

    def __str__(self) -> str:
        """What is executed, and what else is not the default: `receding, 2 steps; tolerance 1`."""
        words = [_execution(self.execution, in_real_time=self.latency is not None)]
        if self.latency is not None:
            words.append(f"in real time, {self.latency}")
        default = asdict(PolicySettings())
        ignored = ("execution", "dataset", "speculate", "latency")  # speculation alone changes nothing
        words += [
            f"{name.replace('_', ' ')} {value}"
            for name, value in asdict(self).items()
            if name not in ignored and value != default[name]
        ]
        return "; ".join(words)


def _execution(execution: Execution, in_real_time: bool) -> str:
    match execution.mode:
        case "receding":
            return f"receding, {execution.steps} {'step' if execution.steps == 1 else 'steps'}"
        case "async":
            steps = "step" if execution.latency_steps == 1 else "steps"
            late = "" if in_real_time else f", {execution.latency_steps} {steps} late"
            told = ", told of the steps under way" if execution.commit else ""
            return f"async{late}{told}"
        case "chunk":
            return "whole chunks"
        case mode:
            return mode
