"""What a run tells before its first step: its recipe, its data, who computes, what is trained, where it writes."""

from __future__ import annotations

import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from spatialvla.common.terminal import shown
from spatialvla.data.needed_parts import datasets_with
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.training.config import TrainConfig
from spatialvla.training.parallel.world import World
from spatialvla.training.precision import computes_bfloat16
from spatialvla.training.presence import further_parts


def banner(
    config: TrainConfig,
    mixture: TrainingMixture,
    model: SpatialVLA,
    world: World,
    steps: int | None,
    done: int,
) -> Group:
    """Two tables, whatever text datasets have in their names.

    steps: after which the run ends, None where time alone ends it. done: steps that it has behind it.
    """
    lines = {
        "recipe": _recipe(config),
        "schedule": _schedule(config, len(mixture.training), steps, done),
        "device": f"{_device(config, world)}, {_precision(config, model, world)}",
        **_inputs(config, mixture, model.config),
        "trained": _trained(model),
        "output": str(config.out),
    }
    told = Table.grid(padding=(0, 2))
    told.add_column(no_wrap=True)
    told.add_column(overflow="fold")
    for name, text in lines.items():
        told.add_row(Text(name, "bold"), Text(shown(text)))
    return Group(told, _datasets(mixture))


def _recipe(config: TrainConfig) -> str:
    if config.policy is None:
        return f"a new network from {config.paligemma or f'random weights, preset {config.preset}'}"
    text = f"{config.policy}, mode {config.mode}"
    if config.mode == "lora":
        saved = "".join(f", {name} whole" for name in config.lora.modules_to_save)
        text += f" (rank {config.lora.rank} on {config.lora.target}{saved})"
    if config.new_grid or config.mode == "adapt":
        text += f", on a new {config.grid} grid"
    return text


def _schedule(config: TrainConfig, samples: int, steps: int | None, done: int) -> str:
    ends = []
    if steps is not None:
        epochs = steps * config.batch_size / samples
        ends.append(f"{steps:,} steps ({epochs:,.1f} epochs)")
    if config.minutes is not None:
        ends.append(f"{config.minutes:g} minutes")
    rate = f"rate {config.learning_rate:g}, {config.schedule} after a warm-up of {config.warmup:.1%}"
    gone_on = f"; {done:,} steps are behind it" if done else ""
    return f"{' or '.join(ends)}, {config.batch_size} samples a step; {rate}{gone_on}"


def _device(config: TrainConfig, world: World) -> str:
    device = world.device
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    many = f", {world.size} processes" if world.size > 1 else ""
    parts = config.parts(world.size)
    share = f", {parts} parts of {config.batch_size // world.size // parts} samples" if parts > 1 else ""
    return f"{device}{name}{many}{share}"


def _precision(config: TrainConfig, model: SpatialVLA, world: World) -> str:
    bf16 = computes_bfloat16(config.precision, world.device)
    # As `narrow_frozen` keeps them.
    frozen = "bf16" if bf16 and config.mode == "lora" and world.size == 1 else "fp32"
    four_bits = " and 4 bits" if model.config.quantization is not None else ""
    if frozen == "fp32" and not four_bits:
        return "bf16 products of fp32 weights" if bf16 else "fp32"
    return f"{'bf16' if bf16 else 'fp32'} products, frozen weights in {frozen}{four_bits}"


def _trained(model: SpatialVLA) -> str:
    """Parameters by part, the trained of all; parts are told where they are trained."""
    trained: dict[str, int] = {}
    total = 0
    for name, parameter in model.named_parameters():
        total += parameter.numel()
        if parameter.requires_grad:
            part = name.split(".")[0]
            trained[part] = trained.get(part, 0) + parameter.numel()
    parts = ", ".join(f"{part} {_short(count)}" for part, count in trained.items())
    many = sum(trained.values())
    return f"{_short(many)} of {_short(total)} parameters ({parts}); {_short(total - many)} are frozen"


def _inputs(config: TrainConfig, mixture: TrainingMixture, network: SpatialVLAConfig) -> dict[str, str]:
    """What a network sees, and how many datasets have it; nothing of a published one, which sees one image."""
    if not further_parts(network):
        return {}
    many, states = len(mixture.keys), mixture.state_statistics()
    counts = {name: datasets_with(mixture.sources, name) for name in network.cameras[1:]}
    parts = [f"{name} (in {count} of {many} datasets)" for name, count in counts.items()]
    if network.state_size:
        parts.append(f"a state of {network.state_size} numbers (in {len(states)} of {many})")
    hidden = {"a camera": config.camera_dropout, "the state": config.state_dropout}
    dropout = [f"{what} in {share:.0%}" for what, share in hidden.items() if share]
    told = f"; hidden: {' and '.join(dropout)} of the samples" if dropout else ""
    return {"sees": f"{network.cameras[0]}, {', '.join(parts)}{told}"}


def _short(count: int) -> str:
    for size, unit in ((10**9, " B"), (10**6, " M"), (10**3, " k")):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)


def _datasets(mixture: TrainingMixture) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column("dataset", overflow="fold")
    for name in ("episodes", "held out", "samples", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    draws = mixture.training
    rows = zip(mixture.keys, mixture.surveys, mixture.held_out, draws.sizes, draws.draws, strict=True)
    for key, found, held_out, size, drawn in rows:
        episodes = int((found.lengths > 0).sum())
        share = f"{drawn / draws.draws.sum():.1%}"
        table.add_row(Text(shown(key)), f"{episodes:,}", f"{int(held_out.sum()):,}", f"{int(size):,}", share)
    return table
