"""How well a model predicts: by kind of token, by dataset, and in the units of the robot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F

from spatialvla.actions.grids import KINDS
from spatialvla.data.loader import LoadedBatch
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.spatialvla import LossOutput, PrefixMask, SpatialVLA
from spatialvla.processor import Processor
from spatialvla.types import IGNORED, Batch

NOTHING = float("nan")
"""Stands where a batch has nothing of a kind; means leave it out."""


@torch.no_grad()
def token_metrics(
    output: LossOutput,
    loaded: LoadedBatch,
    processor: Processor,
    network: SpatialVLAConfig,
    keys: Sequence[str],
) -> dict[str, float]:
    """Loss and accuracy given the true past tokens, by kind of token and by dataset, and the actions' L1 error.

    Tokens are chosen among their own kind, as constrained decoding does. l1/translation, l1/rotation: in the
    datasets' units; l1/gripper: share of wrong states. keys: of all datasets; NOTHING for those not in the batch.
    """
    logits, labels = output.logits.detach(), output.labels
    losses = F.cross_entropy(logits, labels, reduction="none")
    chosen, numbers = labels.clone(), {}
    for kind, rows in zip(KINDS, network.grammar, strict=True):
        taken = (labels >= rows.start) & (labels < rows.stop)
        chosen[taken] = logits[taken, rows].argmax(dim=-1) + rows.start
        numbers[f"loss/{kind}"] = _mean(losses[taken])
        numbers[f"accuracy/{kind}"] = _mean((chosen == labels)[taken].float())
    if len(keys) > 1:
        source = torch.from_numpy(loaded.source).to(labels.device)[output.rows]
        for number, key in enumerate(keys):
            numbers[f"loss/{key}"] = _mean(losses[source == number])
            numbers[f"accuracy/{key}"] = _mean((chosen == labels)[source == number].float())
    is_action = labels >= network.action_token_begin_idx
    tokens = chosen[is_action].view(len(loaded.batch), -1)
    return numbers | action_errors("l1", tokens, loaded, processor, keys)


def action_errors(
    name: str, tokens: torch.Tensor, loaded: LoadedBatch, processor: Processor, keys: Sequence[str]
) -> dict[str, float]:
    """Mean absolute errors of tokens (B, 3 * chunk), decoded in each dataset's units; gripper: the share wrong."""
    decoded = processor.decode(tokens, [keys[source] for source in loaded.source])
    error = np.abs(decoded - loaded.actions)
    return {
        f"{name}/translation": float(error[..., :3].mean()),
        f"{name}/rotation": float(error[..., 3:6].mean()),
        f"{name}/gripper": float((error[..., 6] > 0.5).mean()),
    }


@torch.no_grad()
def validate(
    model: SpatialVLA,
    batches: Iterable[LoadedBatch],
    processor: Processor,
    keys: Sequence[str],
    mask: PrefixMask,
    autocast: Callable[[], AbstractContextManager[object]],
) -> tuple[dict[str, float], int]:
    """`token_metrics` of held-out samples, the error of freely generated chunks, and how many samples they were.

    error/…: as l1/…, but of actions that the model generates going on from its own tokens. error/quantisation: the
    translation error of the grid alone, which no model beats.
    """
    rows: list[dict[str, float]] = []
    weights: list[int] = []
    was_training = model.training
    model.eval()
    for loaded in batches:
        batch = loaded.batch.to(model.device)
        with autocast():
            output = model.training_loss(batch, mask=mask)
            tokens = model.generate(prompts_of(batch))
        row = {"loss": output.loss.item(), **token_metrics(output, loaded, processor, model.config, keys)}
        row |= action_errors("error", tokens, loaded, processor, keys)
        assert batch.labels is not None
        true = batch.labels[batch.labels >= model.config.action_token_begin_idx].view(len(batch), -1)
        row["error/quantisation"] = action_errors("", true, loaded, processor, keys)["/translation"]
        rows.append(row)
        weights.append(len(loaded.batch))
    model.train(was_training)
    return weighted_mean(rows, weights), sum(weights)


def prompts_of(batch: Batch) -> Batch:
    """A training batch without its actions, padded on the left as for inference."""
    assert batch.labels is not None
    is_prompt = batch.attention_mask & (batch.labels == IGNORED)
    longest = int(is_prompt.sum(dim=1).max())
    ids = batch.input_ids.new_zeros(len(batch), longest)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for row, (tokens, wanted) in enumerate(zip(batch.input_ids, is_prompt, strict=True)):
        prompt = tokens[wanted]
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = True
    return replace(batch, input_ids=ids, attention_mask=mask, labels=None)


def weighted_mean(rows: Sequence[Mapping[str, float]], weights: Sequence[float]) -> dict[str, float]:
    """The mean of each number over the rows; NOTHING does not count."""
    means = {}
    for name in rows[0] if rows else ():
        pairs = [
            (row[name], weight) for row, weight in zip(rows, weights, strict=True) if not np.isnan(row[name])
        ]
        means[name] = sum(v * w for v, w in pairs) / sum(w for _, w in pairs) if pairs else NOTHING
    return means


def known(numbers: Mapping[str, float]) -> dict[str, float]:
    """Without NOTHING."""
    return {name: value for name, value in numbers.items() if not np.isnan(value)}


def _mean(values: torch.Tensor) -> float:
    return values.mean().item() if len(values) else NOTHING
