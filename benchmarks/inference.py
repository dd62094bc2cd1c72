"""Latency of whole chunks, ours beside the plain way, on this device: one command, one run, JSON and a Markdown table.

    python benchmarks/inference.py --case nano --threads 1
    python benchmarks/inference.py --case 4b --rounds 3 --out runs/inference
    python benchmarks/inference.py --case 4b --device cuda --compile --batch 1 16 --speculation speculation.json

Case 4b has random weights in bfloat16, nano is the shipped model in float32 unless --precision says
otherwise. Both run in one process over the same weights (see `inference_peer.py`) and take turns, a chunk
each, so that a busy machine disturbs both; ratios are medians over the rounds. The tokens must be equal in
float32; in bfloat16, where products of different shapes round differently, the share of equal tokens is
reported. Floors are what the bytes that a chunk must read and the operations it must do would take at the
bandwidth and the rate of matrix products measured in each round. With --alone there is no peer, and the
memory is what ours needs by itself.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from inference_floor import PROMPT_TOKENS, Speeds, floors, operations
from inference_memory import keep_freed_memory, reset_memory, used_memory
from inference_peer import pair, peer_chunk
from inference_table import STAGES, table
from spatialvla.batch import Batch
from spatialvla.common.json_files import write_json
from spatialvla.kernels.library import available
from spatialvla.model.config import SpatialVLAConfig
from spatialvla.model.fast.options import PRECISIONS, Optimization
from spatialvla.model.presets import preset
from spatialvla.model.spatialvla import SpatialVLA
from timing import Times, wait


@dataclass
class Measured(Times):
    """Times of whole chunks, and seconds of each of their stages, round by round."""

    stages: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in STAGES})


class Clock:
    """Splits a run into stages; waits for the device at each."""

    def __init__(self, device: torch.device, measured: Measured) -> None:
        self.device, self.measured = device, measured
        self.last = self._now()

    def __call__(self, stage: str) -> None:
        now = self._now()
        self.measured.stages[stage].append(now - self.last)
        self.last = now

    def _now(self) -> float:
        wait(self.device)
        return time.perf_counter()


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    nano = options.case == "nano"
    dtype = torch.float32 if (options.precision or ("fp32" if nano else "bf16")) == "fp32" else torch.bfloat16
    weights, activations = PRECISIONS.get(options.precision, (None, None))
    optimization = Optimization(
        weights=weights,
        activations=activations,
        compile=options.compile,
        batch_sizes=tuple(options.batch),
        text_tokens=(PROMPT_TOKENS,),
        drafts=options.speculation is not None,
    )
    with torch.no_grad():
        started = time.perf_counter()
        model = a_model(options.case, dtype, device).eval()
        # Counted before oneDNN's own layout hides products from the counter.
        flops = {rows: operations(model, a_batch(model, rows, seed=0)) for rows in options.batch}
        peer, ours = (None, model.optimize(optimization)) if options.alone else pair(model, optimization)
        loading = time.perf_counter() - started
        speeds = Speeds(device, dtype, optimization)
        cases = [
            run_case(
                peer,
                ours,
                rows,
                options.rounds,
                flops[rows],
                speeds,
                recorded(options.speculation),
                options.peer_keeps_memory,
            )
            for rows in options.batch
        ]
    report = {
        "case": options.case,
        "device": device_name(device),
        "threads": options.threads,
        "dtype": str(dtype),
        "optimization": asdict(optimization),
        "kernels": device.type == "cpu" and available(),
        "torch": torch.__version__,
        "optimize_seconds": loading,
        "speeds": speeds.median(),
        "batches": cases,
    }
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        write_json(options.out / f"{options.case}.json", report)
        (options.out / f"{options.case}.md").write_text(table(report))
    print(table(report))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=("4b", "nano"), default="nano")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", choices=("fp32", "bf16", "int8", "w8a8", "int4", "w4a8", "fp8"))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--alone", action="store_true", help="without the peer")
    parser.add_argument(
        "--peer-keeps-memory", action="store_true", help="the process keeps what the peer freed"
    )
    parser.add_argument("--speculation", type=Path, help="speculation.json of benchmarks/rollouts.py")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def a_model(case: str, dtype: torch.dtype, device: torch.device) -> SpatialVLA:
    torch.manual_seed(0)
    if case == "nano":
        return SpatialVLA.from_pretrained("nano", dtype=dtype, device=device)
    with device:
        return SpatialVLA.from_config(preset(case), dtype=dtype).eval()


def a_batch(model: SpatialVLA, rows: int, seed: int) -> Batch:
    config, draw = model.config, torch.Generator().manual_seed(seed)
    image = torch.full((rows, config.image_token_num), config.image_token_index)
    # Ids of text that both vocabularies have, behind nano's <image>.
    text = torch.randint(5, 500, (rows, PROMPT_TOKENS), generator=draw)
    ids = torch.cat([image, text], dim=1)
    side = config.image_size
    return Batch(
        input_ids=ids,
        attention_mask=torch.ones_like(ids, dtype=torch.bool),
        pixel_values=torch.rand(rows, 3, side, side, generator=draw),
        intrinsics=torch.tensor([[side, 0, side / 2], [0, side, side / 2], [0, 0, 1.0]]).repeat(rows, 1, 1),
    ).to(model.device)


def our_stages(model: SpatialVLA, batch: Batch, done: Callable[[str], None]) -> torch.Tensor:
    """What `model.decode` does, stage after stage."""
    depth = model.depth(batch)
    done("depth")
    embedded = model.passes.embed(Batch(**{**vars(batch), "depth": depth}))
    done("siglip")
    passes, chunk = model.passes, 3 * model.config.action_chunk_size
    layout = model.passes.layout(batch.attention_mask, chunk - 1)
    cache = passes.cache(*layout.real_BS.shape)
    ids = [passes.first_ids(embedded, batch.input_ids[:, :0], layout, cache, 1)]
    done("prefill")
    slots = torch.arange(layout.prompt, layout.prompt + chunk, device=model.device)
    for index in range(1, chunk):
        ids.append(passes.next_ids(ids[-1], slots[index - 1 : index], layout, cache, index % 3))
    done("decode")
    return torch.cat(ids, dim=1)


def run_case(
    peer: SpatialVLA | None,
    ours: SpatialVLA,
    rows: int,
    rounds: int,
    flops: dict[str, float],
    speeds: Speeds,
    accepted: list[int],
    peer_keeps_memory: bool = False,
) -> dict[str, Any]:
    """One batch size: peer and ours alternately, then ours with drafts as good as recorded ones."""
    device = ours.device
    first = a_batch(ours, rows, seed=0)
    if peer is not None:
        peer_chunk(peer, first)
    ours.decode(first)
    our_stages(ours, first, lambda stage: None)
    measured = {"peer": Measured(), "ours": Measured(), "ours with drafts": Measured()}
    same, passes = [], []
    memory = {"peer": 0.0, "ours": 0.0}
    for number in range(rounds):
        batch = a_batch(ours, rows, seed=number + 1)
        expected = None
        if peer is not None:
            reset_memory(device)
            keep_freed_memory(peer_keeps_memory)
            expected = measured["peer"].run(lambda b=batch: peer_chunk(peer, b), device)
            memory["peer"] = max(memory["peer"], used_memory(device) - speeds.gpu_gb)
            peer_chunk(peer, batch, Clock(device, measured["peer"]))
        reset_memory(device)
        keep_freed_memory(True)
        tokens = measured["ours"].run(lambda b=batch: ours.decode(b).ids, device)
        memory["ours"] = max(memory["ours"], used_memory(device) - speeds.gpu_gb)
        our_stages(ours, batch, Clock(device, measured["ours"]))
        if expected is not None:
            same.append(float((tokens == expected).float().mean()))
        if accepted:
            drafts = spoiled(tokens, accepted[number % len(accepted)], ours.config)
            run = measured["ours with drafts"]
            passes.append(run.run(lambda b=batch, d=drafts: ours.decode(b, draft_ids=d), device).passes)
        speeds.measure()
    if same and ours.dtype == torch.float32 and ours.optimization.weights is None:
        assert min(same) == 1, f"tokens differ in float32: {same}"
    return {
        "rows": rows,
        "chunk": ours.config.action_chunk_size,
        "measured": {name: asdict(run) for name, run in measured.items() if run.wall},
        "same_tokens": statistics.mean(same) if same else None,
        "passes_with_drafts": statistics.mean(passes) if passes else None,
        "memory_gb": memory,
        "floor_seconds": floors(ours, rows, flops, speeds.median()),
    }


def recorded(path: Path | None) -> list[int]:
    """How many draft tokens were right, decision by decision, of the drafts that robots really have."""
    if path is None:
        return []
    ways = json.loads(path.read_text())
    return [
        count
        for way in ways.values()
        for count in way["accepted"].get("last chunk", _longest(way["accepted"]))
    ]


def _longest(lists: dict[str, list[int]]) -> list[int]:
    return max(lists.values(), key=len)


def spoiled(tokens: torch.Tensor, right: int, config: SpatialVLAConfig) -> torch.Tensor:
    """Drafts of which the first `right` tokens are right."""
    drafts = tokens.clone()
    for place in range(right, drafts.shape[1]):
        rows = config.grammar[place % 3]
        drafts[:, place] = rows.start + (drafts[:, place] - rows.start + 1) % (rows.stop - rows.start)
    return drafts


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"


if __name__ == "__main__":
    main()
