"""Runs and adapters as folders for `from_pretrained`: consolidated, merged if wanted, in any dtype."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import torch

from spatialvla.common.json_files import read_json, write_json
from spatialvla.common.manifest import recording
from spatialvla.common.schema import parse
from spatialvla.errors import CheckpointError, InputError
from spatialvla.model.base_digest import check_digest, known_digest, weights_digest, write_digest
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.folders import LAYOUT, is_adapter, is_run, lasting_name, resolve_folder
from spatialvla.model.growth import give_inputs
from spatialvla.model.loading import load_unmerged
from spatialvla.model.lora import has_lora, merge_lora, save_adapter, save_adapter_config
from spatialvla.model.published import (
    empty_network,
    mirror_action_embeddings,
    published_name,
    published_tensors,
)
from spatialvla.model.regrid import regrid
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.model.weights import MAX_SHARD_SIZE, Filling
from spatialvla.processor import Processor
from spatialvla.training.checkpoints.checkpointer import FOLDER, complete, load_weights
from spatialvla.training.checkpoints.identity import check_processor
from spatialvla.training.checkpoints.start_mix import mix_in_start

_START = "start.json"


@dataclass(frozen=True)
class StartingPoint:
    """The policy that an adaptation starts from and leaves frozen weights to, and where it is an adapter its base."""

    policy: str
    base: str | None

    @classmethod
    def of(cls, policy: str, base: str | None) -> Self:
        """By names that hold from any working directory."""
        return cls(lasting_name(policy), base and lasting_name(base))


def save_layout(
    model: SpatialVLA, processor: Processor, run: Path, start: StartingPoint | None = None
) -> None:
    """Writes what `export` needs of a run beside the checkpoints' weights; call it when the run begins.

    start: where the checkpoints lack frozen weights that are not an adapter's base's.
    Raises InputError where the run has checkpoints of another processor.
    """
    folder = run / LAYOUT
    if complete(run / FOLDER):
        check_processor(run, processor)
    processor.save_pretrained(folder)
    with recording(folder, ["config.json"]):
        write_json(folder / "config.json", model.config.to_json(beside_processor=True))
    if has_lora(model):
        save_adapter_config(model, folder)
    if start is not None:
        write_json(folder / _START, asdict(start))
        write_digest(folder, known_digest(start.policy, start.base))


def export(
    source: str | Path,
    out: Path,
    *,
    base: str | Path | None = None,
    merge: bool = False,
    start_share: float = 0.0,
    dtype: torch.dtype | None = None,
    quantize: Callable[[SpatialVLA, Processor], None] | None = None,
    refit: Callable[[Processor], Processor] | None = None,
    max_shard_size: int | str = MAX_SHARD_SIZE,
) -> None:
    """Writes `out`, from the newest checkpoint of a run, or from a folder, shipped name or Hub id.

    A model with an adapter becomes the adapter's folder, or, with `merge`, a whole checkpoint. start_share: of the
    policy that a run started from in a mean of both, see `mix_in_start`. dtype: of the weights in the files; None
    keeps what they are loaded in, float32. base: of an adapter, in place of the
    one that its adapter_config.json names; of a run of mode adapt, in place of the policy that it started from.
    quantize: rounds the weights of a whole model, in place, once they are in `dtype` and before they are written.
    refit: gives the processor that is written in place of the policy's own.
    Raises InputError where there is nothing to merge or to mix in, or an adapter would be quantized, CheckpointError
    where the source cannot be read.
    """
    run = Path(source).expanduser()
    folder = run if is_run(run) else resolve_folder(source)
    if out.resolve() in (folder.resolve(), (folder / LAYOUT).resolve()):
        raise InputError(f"{out} is where the model comes from; choose another folder.")
    if is_run(folder):
        model, processor = _trained(folder, base), Processor.from_pretrained(folder / LAYOUT)
    else:
        adapted = is_adapter(folder)
        if not adapted and not (folder / "config.json").exists():
            raise CheckpointError(f"{folder} is neither a training run nor an adapter or a checkpoint.")
        # In 4 bits nothing is gained by weights that are wider than those around them.
        loaded = dtype if quantize is not None and dtype is not None else torch.float32
        model = (
            load_unmerged(SpatialVLA, folder, torch.float32, base=base)
            if adapted
            else SpatialVLA.from_pretrained(folder, base=base, dtype=loaded)
        )
        processor = Processor.from_pretrained(folder)
    if merge and not has_lora(model):
        raise InputError(f"{folder} has no LoRA adapter to merge; leave --merge out.")
    if merge:
        merge_lora(model)
    if start_share != 0:
        mix_in_start(model, processor, folder, start_share)
    if quantize is not None:
        if has_lora(model):
            raise InputError(
                "An adapter has nothing to keep in 4 bits; merge it into its base, with --merge."
            )
        quantize(model.to(dtype or model.dtype), processor)
    processor = processor if refit is None else refit(processor)
    processor.save_pretrained(out)
    if has_lora(model):
        save_adapter(model, out, dtype)
    else:
        model.to(dtype or model.dtype).save_pretrained(out, max_shard_size=max_shard_size)


def _trained(run: Path, base: str | Path | None) -> SpatialVLA:
    """The model of a run's newest checkpoint, its adapter not merged."""
    weights = load_weights(run)
    # A run may train more than the model; its other parts stay behind.
    nested = {name.removeprefix("model."): t for name, t in weights.items() if name.startswith("model.")}
    weights = nested or weights
    layout = run / LAYOUT
    if is_adapter(layout):
        return load_unmerged(SpatialVLA, layout, torch.float32, weights, base)
    config = SpatialVLAConfig.from_folder(layout)
    tensors = {published_name(name): tensor for name, tensor in weights.items()}
    with torch.device("meta"):
        lacking = published_tensors(SpatialVLA(config)).keys() - tensors.keys()
    if lacking and (layout / _START).exists():
        model = _carried_over(run, config, base)
        wanted = {key: target for key, target in published_tensors(model).items() if key not in lacking}
    else:
        model = empty_network(SpatialVLA, config, torch.float32)
        wanted = published_tensors(model)
    filling = Filling(wanted)
    for key, tensor in tensors.items():
        filling.take(run, key, tensor)
    filling.finish(run)
    mirror_action_embeddings(model)
    return model.eval()


def _carried_over(run: Path, config: SpatialVLAConfig, policy: str | Path | None) -> SpatialVLA:
    """The policy that an adaptation started from, with the run's grid, inputs and length of chunk.

    policy: in place of the one that the run names. Raises CheckpointError where there is none, or it holds other
    weights.
    """
    start = parse(StartingPoint, read_json(run / LAYOUT / _START))
    if policy is not None:
        start = StartingPoint(str(policy), None)
    try:
        digest = weights_digest(resolve_folder(start.policy), start.base)
    except CheckpointError as error:
        raise CheckpointError(
            f"The checkpoints of {run} leave to {start.policy} what they do not train, and that cannot be loaded "
            f"({str(error).rstrip('.')}); name it with base=, on the command line --base."
        ) from None
    check_digest(run / LAYOUT, start.policy, digest)
    model = SpatialVLA.from_pretrained(start.policy, base=start.base)
    before, now = (Processor.from_pretrained(path) for path in (start.policy, run / LAYOUT))
    regrid(model, before.grid, now.grid)
    give_inputs(model, config)
    model.config = config
    return model
