"""Passes compiled: whole on a CPU, layer by layer on a GPU, and there replayed without a launch from the host.

Shapes are static: a new batch size, prompt length or width of a pass compiles anew, once. Prompts are
therefore padded to multiples of `PROMPT_MULTIPLE` tokens.

On a GPU a CUDA graph launches a pass, so nothing is gained by compiling more of it at once than a layer of
the decoder, and all layers share one compilation: seconds instead of minutes. On a CPU the host would pay for
each layer's call.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, TypeVar, cast

import torch
import torch._dynamo.config
import torch._inductor.config
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

from spatialvla.batch import Batch
from spatialvla.model.decoding.passes import Layout, Sampling
from spatialvla.model.fast.streams import TwoStreamPasses
from spatialvla.model.gemma2 import KVCache
from spatialvla.model.network import Network
from spatialvla.vision.depth import PerImageHeads

T = TypeVar("T")

PROMPT_MULTIPLE = 16
"""Few lengths, for at most 15 layout of padding more: 3 % of a prefill on average."""

RECOMPILE_LIMIT = 128
"""Shapes one function may be compiled for before torch gives up: batch sizes x prompt lengths x widths."""


def set_compiler_up(device: torch.device) -> None:
    """Settings of torch's compiler that hold for the whole process."""
    # Beyond this limit, which counts over all uses of a function, torch runs eagerly without a word.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
    if device.type == "cpu":
        # Processes that compile beside this one cost more than they save for the few kernels of a graph on a
        # CPU.
        torch._inductor.config.compile_threads = 1


def compiled(function: Callable[..., T], device: torch.device) -> Callable[..., T]:
    """The function as one compiled graph for each combination of shapes that it is called with."""
    set_compiler_up(device)
    return cast(Callable[..., T], torch.compile(function, fullgraph=True, dynamic=False))


def compile_layers(network: Network) -> None:
    """Compiles each layer of SigLIP and the decoder for training, in place; names and weights stay.

    Each shape is compiled on its own: one code for all would depend on the shapes that came first, and a run that
    goes on would round otherwise. Batches are therefore filled to multiples of `PROMPT_MULTIPLE` tokens.
    """
    set_compiler_up(network.device)
    siglip = [part for part in network.vision_tower.modules() if isinstance(part, SiglipEncoderLayer)]
    for layer in [*siglip, *network.language_model.model.layers]:
        layer.compile(dynamic=False)


def as_written() -> AbstractContextManager[object]:
    """A context in which nothing runs compiled: for batches of shapes that are not worth compiling for."""
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance


def compile_vision(network: Network) -> None:
    """Compiles the vision towers for inference on a CPU, in place: one graph each for each batch size."""
    set_compiler_up(network.device)
    network.vision_tower.compile(fullgraph=True, dynamic=False)
    if network.config.use_vision_zoe:
        _depth_without_waiting(network)
        network.vision_zoe_model.compile(fullgraph=True, dynamic=False)


def compile_decoder_layers(network: Network) -> None:
    """Compiles the decoder's layers for inference on a GPU, in place: all together once for each length of a prompt.

    The towers' layers stay as they are: few of their operators are small, and CUDA graphs launch those.
    """
    if network.config.use_vision_zoe:
        _depth_without_waiting(network)
    for layer in network.language_model.model.layers:
        layer.forward = compiled(layer.forward, network.device)


def _depth_without_waiting(network: Network) -> None:
    head = network.vision_zoe_model.metric_head
    if isinstance(head, PerImageHeads):
        head.without_waiting = True


class CudaGraphs:
    """Runs functions of tensors as CUDA graphs: recorded at the first call with new shapes, then replayed.

    What a function does must depend on its arguments' values on the device only, not on the host.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._recorded: dict[Any, tuple[torch.cuda.CUDAGraph, list[torch.Tensor], torch.Tensor]] = {}

    def run(self, name: Any, function: Callable[..., torch.Tensor], *arguments: torch.Tensor) -> torch.Tensor:
        """function(*arguments). name: tells apart functions, and what they depend on besides shapes."""
        key = (name, *((tuple(a.shape), a.dtype) for a in arguments))
        if key not in self._recorded:
            self._recorded[key] = self._record(function, arguments)
        graph, inputs, output = self._recorded[key]
        for kept, argument in zip(inputs, arguments, strict=True):
            kept.copy_(argument, non_blocking=True)
        graph.replay()
        # The next replay writes to the same memory.
        return output.clone()

    def _record(
        self, function: Callable[..., torch.Tensor], arguments: tuple[torch.Tensor, ...]
    ) -> tuple[torch.cuda.CUDAGraph, list[torch.Tensor], torch.Tensor]:
        inputs = [argument.clone() for argument in arguments]
        # Compiling, autotuning and workspaces of libraries have to be over before recording begins.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                function(*inputs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            output = function(*inputs)
        return graph, inputs, output


class CompiledPasses(TwoStreamPasses):
    """Compiled passes; on CUDA each is one CUDA graph, over a cache kept for its batch size and capacity.

    There the decoder's layers are compiled before, by `compile_decoder_layers`.
    """

    prompt_multiple = PROMPT_MULTIPLE

    def __init__(self, network: Network, graphs: CudaGraphs | None) -> None:
        """graphs: what records and replays the passes; None runs them from the host."""
        super().__init__(network)
        self._first, self._next = super().first_ids, super().next_ids
        if graphs is None:
            self._first = compiled(self._first, network.device)
            self._next = compiled(self._next, network.device)
        self._graphs = graphs
        self._caches: dict[tuple[int, int], KVCache] = {}

    def embed(self, batch: Batch) -> torch.Tensor:
        """As in `Passes`, replayed where there are graphs."""
        if self._graphs is None:
            return super().embed(batch)
        network = self.network
        if batch.depth is None and network.config.use_vision_zoe and not network.estimates_depth_itself:
            # A depth source from elsewhere may do anything; it runs before, outside the graph.
            batch = replace(batch, depth=network.depth(batch))
        given = {name: value for name, value in vars(batch).items() if value is not None}
        embed = super().embed
        return self._graphs.run(
            ("embed", *given),
            lambda *values: embed(Batch(**dict(zip(given, values, strict=True)))),
            *given.values(),
        )

    def cache(self, batch: int, capacity: int) -> KVCache:
        """One for each batch and capacity, kept and cleared: graphs replay into the same memory."""
        if self._graphs is None:
            return super().cache(batch, capacity)
        if (batch, capacity) not in self._caches:
            self._caches[batch, capacity] = super().cache(batch, capacity)
        cache = self._caches[batch, capacity]
        cache.clear()
        return cache

    def first_ids(
        self,
        prompt_BPD: torch.Tensor,
        ids_BT: torch.Tensor,
        layout: Layout,
        cache: KVCache,
        wanted: int,
        sampling: Sampling | None = None,
    ) -> torch.Tensor:
        """As in `Passes`, compiled; sampling runs as it is."""
        if sampling is not None:
            return super().first_ids(prompt_BPD, ids_BT, layout, cache, wanted, sampling)
        if self._graphs is None:
            return self._first(prompt_BPD, ids_BT, layout, cache, wanted)
        return self._graphs.run(
            ("first", layout.prompt, wanted),
            lambda prompt, ids, real, positions: self._first(
                prompt, ids, Layout(real, positions, layout.prompt), cache, wanted
            ),
            *(prompt_BPD, ids_BT, layout.real_BS, layout.positions_BS),
        )

    def next_ids(
        self,
        ids_BT: torch.Tensor,
        slots_T: torch.Tensor,
        layout: Layout,
        cache: KVCache,
        kind: int,
        sampling: Sampling | None = None,
    ) -> torch.Tensor:
        """As in `Passes`, compiled; sampling runs as it is."""
        if sampling is not None:
            return super().next_ids(ids_BT, slots_T, layout, cache, kind, sampling)
        if self._graphs is None:
            return self._next(ids_BT, slots_T, layout, cache, kind)
        return self._graphs.run(
            ("next", layout.prompt, kind),
            lambda ids, slots, real, positions: self._next(
                ids, slots, Layout(real, positions, layout.prompt), cache, kind
            ),
            *(ids_BT, slots_T, layout.real_BS, layout.positions_BS),
        )
