"""FSDP2: a model, its gradients and its optimizer state in shards, computing what one process would."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from torch.utils import _pytree as pytree
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

from spatialvla.errors import InputError
from spatialvla.model.gemma2 import Gemma2Decoder, Layer
from spatialvla.model.network import LossOutput, Output
from spatialvla.training.parallel.world import World
from spatialvla.vision.depth import ZoeDepth

ENTRIES = ("training_loss", "generate", "decode", "loss")
"""Methods that, besides `forward`, a module is entered by."""

# FSDP looks for tensors to hang its backward hooks on in what an entry returns.
for _output in (LossOutput, Output):
    pytree.register_pytree_node(
        _output,
        lambda output: (list(vars(output).values()), type(output)),
        lambda values, kind: kind(*values),
    )


def shard(module: nn.Module, world: World, param_dtype: torch.dtype | None = None) -> None:
    """Moves `module` to the world's device and, among several processes, splits it over them, in place.

    Build the module alike on all ranks (the same seed or files), freeze what is frozen and convert it before;
    make optimizer and average after, of the sharded float32 master weights. One rank's layer at a time is
    moved, so the module may lie on the CPU. What is computed with other roots (an auxiliary head) is sharded
    by a call of its own.

    The frozen ZoeDepth is kept whole on each rank, in its own dtype: without gradients or optimizer state it
    is small, and its depth is meters, not features.

    param_dtype: what weights are gathered and computed in; None keeps theirs. Gradients are summed in
    float32.
    """
    if world.size == 1:
        module.to(world.device)
        return
    whole: list[nn.Module] = [part for part in module.modules() if isinstance(part, ZoeDepth)]
    for part in whole:
        part.to(world.device)
    ignored = {parameter for part in whole for parameter in part.parameters()}
    mesh = init_device_mesh(world.device.type, (world.size,))
    options: dict[str, Any] = {"mesh": mesh, "ignored_params": ignored}
    policy = functools.partial(MixedPrecisionPolicy, param_dtype, torch.float32)
    for part in _units(module):
        fully_shard(part, **options, mp_policy=policy())
    # A batch's depth and intrinsics are meters and pixels, which bfloat16 would round.
    fully_shard(module, **options, mp_policy=policy(cast_forward_inputs=False))
    for name in ENTRIES:
        if hasattr(module, name):
            register_fsdp_forward_method(module, name)
            setattr(module, name, _leaving_shards(module, getattr(module, name)))
    module.register_forward_hook(lambda module, _, output: _free_if_done(module, output))


def _units(module: nn.Module) -> list[nn.Module]:
    """What is gathered for its own forward pass and freed behind it.

    The rest, with the head, stays for a step.
    """
    layers = [part for part in module.modules() if isinstance(part, Layer | SiglipEncoderLayer)]
    return layers + [part.embed_tokens for part in module.modules() if isinstance(part, Gemma2Decoder)]


def _leaving_shards(module: nn.Module, entry: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(entry)
    def call(*args: Any, **options: Any) -> Any:
        output = entry(*args, **options)
        _free_if_done(module, output)
        return output

    return call


def _free_if_done(module: nn.Module, output: Any) -> None:
    """Without a backward pass to come, nothing else frees what the root gathered for this one.

    The next step would take it for the weights, whatever they have become since.
    """
    if not any(isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in pytree.tree_leaves(output)):
        for part in module.modules():
            if isinstance(part, FSDPModule):
                part.reshard()


def synchronize_gradients(module: nn.Module, wanted: bool) -> None:
    """Whether backward passes from now on sum gradients over the ranks.

    Off for all but the last of the passes that accumulate, which saves traffic but holds all gradients whole,
    in float32, on each rank: 12 GB for the 4 B model. Left on, each holds its shard only.
    """
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.set_requires_gradient_sync(wanted, recurse=False)


def token_weights(counts: Sequence[int], world: World) -> list[float]:
    """What to multiply this rank's mean losses by, so that a step follows the mean over all ranks' labels.

    counts: labels of each batch that this rank accumulates in the step. FSDP takes the mean over the ranks,
    which the weights undo. Collective. Raises InputError without any label.
    """
    (total,) = world.sum([sum(counts)])
    if not total:
        raise InputError("No token of this step has a label; look at the dataset's actions.")
    return [count * world.size / total for count in counts]


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scales gradients down to a norm of at most `max_norm` over all ranks; returns the norm before.

    Collective.
    """
    owners = [parameter for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm([owner.grad for owner in owners if owner.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    nn.utils.clip_grads_with_norm_(owners, max_norm, norm)
    return float(norm)
