"""How well a model predicts, and where the numbers of a run are written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from spatialvla.actions.grids import KINDS
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.training.batches import BatchSource


def token_accuracy(
    logits: torch.Tensor, labels: torch.Tensor, grammar: tuple[slice, ...]
) -> dict[str, float]:
    """Share of right tokens by kind, each chosen among its own kind as constrained decoding does.

    logits: (N, V). labels: (N,). grammar: the vocabulary rows of translation, rotation and gripper tokens.
    """
    accuracy = {}
    for kind, rows in zip(KINDS, grammar, strict=True):
        taken = (labels >= rows.start) & (labels < rows.stop)
        right = logits[taken, rows].argmax(dim=-1) == labels[taken] - rows.start
        accuracy[f"accuracy/{kind}"] = right.float().mean().item()
    return accuracy


@torch.no_grad()
def validate(model: SpatialVLA, source: BatchSource, indices: np.ndarray) -> dict[str, float]:
    """Loss and token accuracy given the true past tokens, and the error of freely generated chunks.

    error/translation, error/rotation: mean absolute error in the dataset's units; error/gripper: share of
    wrong gripper states. error/quantisation: the translation error of the grid alone, which no model beats.
    """
    config, key = source.config, source.config.key
    numbers: dict[str, list[float]] = {}
    weights = []
    model.eval()
    for start in range(0, len(indices), config.batch_size):
        part = indices[start : start + config.batch_size]
        batch = source.evaluation(part).to(model.device)
        output = model.training_loss(batch, mask=config.mask)
        row = {"loss": output.loss.item()}
        row |= token_accuracy(output.logits, output.labels, model.config.grammar)

        actions = source.samples.chunks(part)
        prompts = source.processor(
            list(source.samples.images[part]),
            [prompt.lower() for prompt in source.samples.prompts(part)],
            key,
            intrinsics=list(batch.intrinsics.cpu().numpy()),
            depth=list(batch.depth.cpu().numpy()) if batch.depth is not None else None,
        )
        tokens = model.generate(prompts.to(model.device))
        error = np.abs(source.processor.decode(tokens, key) - actions)
        row |= {
            "error/translation": error[..., :3].mean(),
            "error/rotation": error[..., 3:6].mean(),
            "error/gripper": (error[..., 6] > 0.5).mean(),
        }
        statistics = source.processor.dataset_statistics(key)
        grid = source.processor.grid
        rounded = statistics.denormalize(grid.decode(grid.encode(statistics.normalize(actions))))
        row["error/quantisation"] = np.abs(rounded - actions)[..., :3].mean()
        for name, value in row.items():
            numbers.setdefault(name, []).append(float(value))
        weights.append(len(part))
    model.train()
    return {name: float(np.average(values, weights=weights)) for name, values in numbers.items()}


class RunLog:
    """The run's numbers, one JSON object a line in metrics.jsonl, and the same for TensorBoard."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Drops the lines of steps after `first_step`: a killed run wrote them, a resumed one repeats."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.jsonl"
        if self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if _step(line) <= first_step]
            self.path.write_text("".join(f"{line}\n" for line in kept))
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)

    def write(self, step: int, kind: str, numbers: Mapping[str, float]) -> None:
        """kind: 'train' or 'validation'."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "kind": kind, **numbers}) + "\n")
        for name, value in numbers.items():
            self.board.add_scalar(f"{kind}/{name}", value, step)
        self.board.flush()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.board.close()


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")
