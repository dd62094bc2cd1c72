"""A few steps of the tiny network on made-up batches, as one process or as one of several.

As a program (under RANK, WORLD_SIZE, …) it does what its JSON argument lists, one run after the other.
"""

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tiny_policy import TEXT, tiny

from spatialvla.batch import IGNORED, Batch
from spatialvla.model.growth import grow
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.training.checkpoints.checkpointer import FOLDER, Checkpointer, Moment
from spatialvla.training.checkpoints.tensors import Trained
from spatialvla.training.metrics import combined
from spatialvla.training.optimizer import WeightAverage
from spatialvla.training.parallel.sharding import clip_gradients, shard, synchronize_gradients, token_weights
from spatialvla.training.parallel.world import World, join_world

BATCH = 8
PASSES = 2
LABELS = 7


@dataclass(frozen=True)
class Run:
    """steps: to do in all. resume: the run whose newest checkpoint is gone on from."""

    folder: str
    steps: int = 4
    resume: str | None = None
    bf16: bool = False
    recompute: bool = False
    several: bool = False


def make_batch(number: int, several: bool = False) -> tuple[Batch, np.ndarray]:
    """Global batch: rows of 16 image tokens, 3 of text and up to 7 action tokens; every third row has fewer labels.

    several: with a second camera, which some rows lack, and a state, which all of the second half lack.
    """
    rng = np.random.default_rng([5, number])
    views = 2 if several else 1
    front = 16 * views + several
    ids = np.full((BATCH, front + 3 + LABELS), 4)
    ids[:, front : front + 3] = rng.integers(5, TEXT, (BATCH, 3))
    ids[:, front + 3 :] = TEXT + rng.integers(0, 42, (BATCH, LABELS))
    labels = np.where(np.arange(ids.shape[1]) < front + 3, IGNORED, ids)
    labels[::3, front + 5 :] = IGNORED
    mask = np.ones(ids.shape, bool)
    if several:
        mask[::2, 16:32], mask[BATCH // 2 :, 32] = False, False
    intrinsics = np.array([[40, 0, 16], [0, 40, 16], [0, 0, 1]], np.float32)
    batch = Batch(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.from_numpy(mask),
        pixel_values=torch.from_numpy(rng.random((views * BATCH, 3, 32, 32), dtype=np.float32)),
        intrinsics=torch.from_numpy(np.repeat(intrinsics[None], views * BATCH, 0)),
        labels=torch.from_numpy(labels),
        state=torch.from_numpy(rng.random((BATCH, 3), dtype=np.float32)) if several else None,
    )
    return batch, np.arange(BATCH)


def rows(batch: Batch, chosen: np.ndarray) -> Batch:
    """Some rows, one after another; without the slot of a state that none of them has, as batches are made."""
    part = batch[slice(int(chosen[0]), int(chosen[-1]) + 1)]
    slot = 16 * part.views
    if part.state is None or bool(part.attention_mask[:, slot].any()):
        return part
    kept = [column for column in range(part.input_ids.shape[1]) if column != slot]
    tokens = ("input_ids", "attention_mask", "labels")
    cut = {name: None if (value := getattr(part, name)) is None else value[:, kept] for name in tokens}
    return replace(part, state=None, **cut)


def run(world: World, job: Run) -> None:
    torch.manual_seed(3)
    model = SpatialVLA(tiny())
    if job.several:
        grow(model, ("wrist",), 3)
    model.language_model.model.embed_tokens.requires_grad_(False)
    model.train()
    if job.recompute:
        model.checkpoint_activations()
    shard(model, world, torch.bfloat16 if job.bf16 else None)
    parameters = [p for p in model.parameters() if p.requires_grad]
    # The default eps would make steps of the keys' biases, whose true gradient is zero, out of rounding errors.
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01, eps=1e-6, fused=True)
    average = WeightAverage(model, 0.9)
    trained = Trained(model, optimizer, average)
    folder = Path(job.folder)
    checkpointer = Checkpointer(folder / FOLDER, keep=3, world=world, seed=3)
    step = 0
    if job.resume is not None:
        newest = Checkpointer(Path(job.resume) / FOLDER, keep=3, world=world, seed=3).newest()
        moment = checkpointer.load(trained, newest)
        step = moment.step
    torch.manual_seed(world.rank) if job.resume is None else None
    lines = []
    while step < job.steps:
        passes = []
        for index in range(PASSES):
            batch, order = make_batch(PASSES * step + index, job.several)
            passes.append(rows(batch, world.part(order)))
        weights = token_weights([int((batch.labels != IGNORED).sum()) for batch in passes], world)
        losses = []
        for index, (batch, weight) in enumerate(zip(passes, weights, strict=True)):
            synchronize_gradients(model, index == PASSES - 1)
            output = model.training_loss(batch)
            (output.loss * weight).backward()
            losses.append(float(output.loss.detach()) * weight / world.size)
        norm = clip_gradients(parameters, 0.5)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        average.update(step)
        (loss,) = world.sum([sum(losses)])
        with average.applied(), torch.no_grad():
            batch, order = make_batch(1000, job.several)
            part = rows(batch, world.part(order))
            output = model.training_loss(part)
            count = len(output.labels)
            held_out = combined([{"loss": (float(output.loss) * count, count)}], world)["loss"]
            end = batch.input_ids.shape[1] - LABELS
            prompt = {
                "labels": None,
                "input_ids": batch.input_ids[:, :end],
                "attention_mask": batch.attention_mask[:, :end],
            }
            tokens = model.generate(rows(replace(batch, **prompt), order[:1])).tolist()
        noise = world.gather(float(torch.rand(())))
        lines.append(
            {"loss": loss, "norm": norm, "held_out": held_out, "tokens": tokens, "noise": noise, "step": step}
        )
        if step % 2 == 0:
            documents = {"config": asdict(job), "grid": {"bins": [1, 2]}}
            checkpointer.save(trained, Moment(step, 0.5 * step, {"seed": 3}, step + 4, documents))
    if world.is_main:
        (folder / "lines.json").write_text(json.dumps(lines))


if __name__ == "__main__":
    torch.set_num_threads(1)
    with join_world("cpu") as here:
        for job in json.loads(sys.argv[1]):
            run(here, Run(**job))
