"""How well a model predicts: by kind of token, by dataset, and in the units of the robot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F

from spatialvla.actions.grids import KINDS
from spatialvla.batch import IGNORED, Batch
from spatialvla.data.loaded_batch import LoadedBatch
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.decoding.chunk import Decoded
from spatialvla.model.network import LossOutput, PrefixMask
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.processor import Processor
from spatialvla.readout import CellMiddles, mean_actions
from spatialvla.training.parallel.world import ALONE, World
from spatialvla.training.presence import further_parts, present, slots, without

Tallies = Mapping[str, tuple[float, float]]
"""By name: a sum, and how much it counts. Adding both up gives exact means over parts, ranks and datasets."""


@torch.no_grad()
def token_metrics(
    output: LossOutput,
    loaded: LoadedBatch,
    processor: Processor,
    network: SpatialVLAConfig,
    keys: Sequence[str],
) -> dict[str, tuple[float, float]]:
    """Loss and accuracy given the true past tokens, by kind of token and dataset, and the actions' L1 error.

    Tokens are chosen among their own kind, as constrained decoding does. l1/translation, l1/rotation: in the
    datasets' units; l1/gripper: share of wrong states. keys: of all datasets, also those not in the batch.
    present/…: the share of samples that have each camera and the state, of a network that can have several.
    """
    logits, labels = output.logits.detach(), output.labels
    losses = F.cross_entropy(logits, labels, reduction="none")
    chosen = labels.clone()
    numbers = {"loss": _tally(losses)}
    for kind, rows in zip(KINDS, network.grammar, strict=True):
        taken = (labels >= rows.start) & (labels < rows.stop)
        chosen[taken] = logits[taken, rows].argmax(dim=-1) + rows.start
        numbers[f"loss/{kind}"] = _tally(losses[taken])
        numbers[f"accuracy/{kind}"] = _tally((chosen == labels)[taken].float())
    if len(keys) > 1:
        source = torch.from_numpy(loaded.source).to(labels.device)[output.rows]
        for number, key in enumerate(keys):
            numbers[f"loss/{key}"] = _tally(losses[source == number])
            numbers[f"accuracy/{key}"] = _tally((chosen == labels)[source == number].float())
    said, wanted = loaded.batch.input_ids.clone(), loaded.batch.labels
    assert wanted is not None
    said[:, 1:][wanted[:, 1:] >= 0] = chosen.cpu()
    if further_parts(network):
        there = present(loaded, network)
        absent = torch.zeros(len(loaded))
        for name in (network.cameras[0], *further_parts(network)):
            numbers[f"present/{name}"] = _tally(there.get(name, absent).float())
    is_action = loaded.batch.is_action(network.action_token_begin_idx)
    actions = processor.decode(said[is_action].view(len(said), -1), loaded.keys)
    return numbers | action_errors("l1", actions, loaded, _learned(wanted[is_action], len(said)))


def _learned(labels: torch.Tensor, rows: int) -> np.ndarray:
    """(B, chunk) the steps on which a loss is taken. labels: of the chunks' tokens, one row after another."""
    return np.asarray((labels.view(rows, -1, 3)[..., 0] >= 0).cpu())


def action_errors(
    name: str,
    actions: np.ndarray,
    loaded: LoadedBatch,
    steps: np.ndarray | slice = slice(None),
) -> dict[str, tuple[float, float]]:
    """Mean absolute errors of actions (B, chunk, 7), in each dataset's units; gripper: the share wrong.

    steps: (B, chunk) bool, those that count.
    """
    error = np.abs(actions - loaded.actions)[steps]
    parts = {"translation": error[..., :3], "rotation": error[..., 3:6], "gripper": error[..., 6] > 0.5}
    return {f"{name}/{part}": (float(values.sum()), values.size) for part, values in parts.items()}


@torch.no_grad()
def validate(
    model: SpatialVLA,
    batches: Iterable[LoadedBatch],
    processor: Processor,
    keys: Sequence[str],
    mask: PrefixMask,
    autocast: Callable[[], AbstractContextManager[object]],
) -> list[Tallies]:
    """`token_metrics` of held-out samples and the error of freely generated chunks, for each batch.

    error/…: as l1/…, but of actions that the model generates going on from its own tokens.
    error_of_mean/…: the same of the readout `mean`.
    error/quantization: the translation error of the grid alone, which no model beats.
    loss/without_…, l1_without_…/…: the loss, and the errors as l1/…, where one of the further cameras, or the state,
    is hidden from all samples.
    """
    rows: list[Tallies] = []
    was_training = model.training
    model.eval()
    for loaded in batches:
        batch = loaded.batch.to(model.device)
        with autocast():
            output = model.training_loss(batch, mask=mask)
            decoded = model.decode(prompts_of(batch), probabilities=True)
            hidden = _without_each(model, batch, loaded, mask)
        assert batch.labels is not None
        is_action = batch.is_action(model.config.action_token_begin_idx)
        steps = _learned(batch.labels[is_action], len(batch))
        true = processor.decode(batch.input_ids[is_action].view(len(batch), -1), loaded.keys)
        quantized = action_errors("error", true, loaded, steps)["error/translation"]
        actions = processor.decode(decoded.ids, loaded.keys)
        measured = token_metrics(output, loaded, processor, model.config, keys)
        for name, missed in hidden.items():
            numbers = token_metrics(missed, loaded, processor, model.config, keys)
            measured[f"loss/without_{name}"] = numbers["loss"]
            measured |= {
                f"l1_without_{name}/{part}": numbers[f"l1/{part}"]
                for part in ("translation", "rotation", "gripper")
            }
        rows.append(
            measured
            | action_errors("error", actions, loaded, steps)
            | action_errors("error_of_mean", _means(actions, decoded, loaded, processor), loaded, steps)
            | {"error/quantization": quantized}
        )
    model.train(was_training)
    return rows


def _means(actions: np.ndarray, decoded: Decoded, loaded: LoadedBatch, processor: Processor) -> np.ndarray:
    """(B, chunk, 7) in each row's units. actions: of the likeliest tokens."""
    assert decoded.probabilities is not None
    means = actions.copy()
    for key in dict.fromkeys(loaded.keys):
        rows = [row for row, other in enumerate(loaded.keys) if other == key]
        moves, turns, grippers = (each[rows] for each in decoded.probabilities)
        means[rows] = mean_actions(actions[rows], (moves, turns, grippers), CellMiddles.of(processor, key))
    return means


def _without_each(
    model: SpatialVLA, batch: Batch, loaded: LoadedBatch, mask: PrefixMask
) -> dict[str, LossOutput]:
    """What the model says where each of the further cameras, or the state, is hidden.

    What is not there is asked for all the same: all ranks have to ask as often.
    """
    where = slots(loaded, model.config)
    return {
        name: model.training_loss(without(batch, where[name]) if name in where else batch, mask=mask)
        for name in further_parts(model.config)
    }


def combined(rows: Iterable[Tallies], world: World = ALONE) -> dict[str, float]:
    """The mean of each number over the rows of all ranks; those that nothing counts for are left out.

    Collective.
    """
    sums: dict[str, list[float]] = {}
    for row in rows:
        for name, (value, weight) in row.items():
            entry = sums.setdefault(name, [0.0, 0.0])
            entry[0] += value
            entry[1] += weight
    # A rank may have had no batch at all.
    names = sorted({name for known in world.gather(list(sums)) for name in known})
    totals = world.sum([part for name in names for part in sums.get(name, (0.0, 0.0))])
    pairs = zip(names, totals[::2], totals[1::2], strict=True)
    return {name: value / weight for name, value, weight in pairs if weight}


def prompts_of(batch: Batch) -> Batch:
    """A training batch without its actions, padded on the left as for inference."""
    assert batch.labels is not None
    # The first action token, given or not, stands behind the prompt's last token.
    lengths = (batch.labels != IGNORED).int().argmax(dim=1).tolist()
    longest = max(lengths)
    ids = batch.input_ids.new_zeros(len(batch), longest)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for row, length in enumerate(lengths):
        ids[row, longest - length :] = batch.input_ids[row, :length]
        # Slots of what is missing remain, hidden as they are.
        mask[row, longest - length :] = batch.attention_mask[row, :length]
    return replace(batch, input_ids=ids, attention_mask=mask, labels=None)


def _tally(values: torch.Tensor) -> tuple[float, float]:
    return float(values.sum()), len(values)
