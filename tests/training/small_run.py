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


def make_batch(number: int) -> tuple[Batch, np.ndarray]:
    """Global batch: rows of 16 image tokens, 3 of text and up to 7 action tokens; every third row has fewer labels."""
    rng = np.random.default_rng([5, number])
    ids = np.full((BATCH, 16 + 3 + LABELS), 4)
    ids[:, 16:19] = rng.integers(5, TEXT, (BATCH, 3))
    ids[:, 19:] = TEXT + rng.integers(0, 42, (BATCH, LABELS))
    labels = np.where(np.arange(ids.shape[1]) < 19, IGNORED, ids)
    labels[::3, 21:] = IGNORED
    intrinsics = np.array([[40, 0, 16], [0, 40, 16], [0, 0, 1]], np.float32)
    batch = Batch(
        input_ids=torch.from_numpy(ids),
        attention_mask=torch.ones(ids.shape, dtype=torch.bool),
        pixel_values=torch.from_numpy(rng.random((BATCH, 3, 32, 32), dtype=np.float32)),
        intrinsics=torch.from_numpy(np.repeat(intrinsics[None], BATCH, 0)),
        labels=torch.from_numpy(labels),
    )
    return batch, np.arange(BATCH)


def rows(batch: Batch, chosen: np.ndarray) -> Batch:
    return Batch(**{name: value[chosen] for name, value in vars(batch).items() if value is not None})


def run(world: World, job: Run) -> None:
    torch.manual_seed(3)
    model = SpatialVLA(tiny())
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
            batch, order = make_batch(PASSES * step + index)
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
            batch, order = make_batch(1000)
            part = rows(batch, world.part(order))
            output = model.training_loss(part)
            count = len(output.labels)
            held_out = combined([{"loss": (float(output.loss) * count, count)}], world)["loss"]
            prompt = {
                "labels": None,
                "input_ids": batch.input_ids[:, :19],
                "attention_mask": batch.attention_mask[:, :19],
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
