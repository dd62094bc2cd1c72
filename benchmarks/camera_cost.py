"""What another camera, and the arm's state, cost: whole chunks and their stages with one, two and three cameras.

    python benchmarks/camera_cost.py --case nano --threads 1 --rounds 20
    python benchmarks/camera_cost.py --case 4b --rounds 3

One model has all cameras and a state; batches bring them or not. They take turns, a chunk each, so that a busy machine
disturbs all alike; ratios are medians over the rounds. The model is optimized as `spatialvla serve` does it.
"""

from __future__ import annotations

import argparse
import statistics

import torch

from inference import Clock, Measured, a_batch, a_model, device_name, our_stages
from inference_table import STAGES
from spatialvla.batch import Batch
from spatialvla.model.fast.options import Optimization
from spatialvla.model.growth import grow
from spatialvla.model.spatialvla import SpatialVLA

CAMERAS = ("image", "wrist", "side")
STATE = 8


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    with torch.no_grad():
        model = a_model(options.case, torch.bfloat16 if options.bf16 else torch.float32, device)
        grow(model, CAMERAS[1:], STATE)
        model.eval().optimize(Optimization())
        ways = {
            "1 camera": with_views(model, 1, False),
            "2 cameras": with_views(model, 2, False),
            "3 cameras": with_views(model, 3, False),
            "1 camera, state": with_views(model, 1, True),
            "3 cameras, state": with_views(model, 3, True),
        }
        measured = {name: Measured() for name in ways}
        for number in range(options.rounds + 1):
            for name, batch in ways.items():
                run = measured[name] if number else Measured()
                run.run(lambda batch=batch: model.decode(batch), device)
                our_stages(model, batch, Clock(device, run))
    print(
        table(measured), f"\n{options.case}, {model.dtype}, {options.threads} threads, {device_name(device)}"
    )


def with_views(model: SpatialVLA, views: int, state: bool) -> Batch:
    """A row with so many cameras."""
    one = a_batch(model, views, seed=views)
    size, index = model.config.image_token_num, model.config.image_token_index
    slots = torch.full((1, views * size + state), index, device=model.device)
    ids = torch.cat([slots, one.input_ids[:1, size:]], dim=1)
    return Batch(
        input_ids=ids,
        attention_mask=torch.ones_like(ids, dtype=torch.bool),
        pixel_values=one.pixel_values,
        intrinsics=one.intrinsics,
        state=torch.zeros(1, STATE, device=model.device) if state else None,
    )


def table(measured: dict[str, Measured]) -> str:
    """Milliseconds of each stage, and what a chunk takes beside that of one camera."""
    first = next(iter(measured.values()))
    lines = [f"| | {' | '.join(STAGES)} | chunk | beside one camera |", "|---|" + "---:|" * (len(STAGES) + 2)]
    for name, run in measured.items():
        parts = [1e3 * statistics.median(run.stages[stage]) for stage in STAGES]
        ratio = statistics.median(mine / one for mine, one in zip(run.wall, first.wall, strict=True))
        cells = " | ".join(f"{part:.1f}" for part in (*parts, 1e3 * run.median))
        lines.append(f"| {name} | {cells} ms | {ratio:.2f} × |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", choices=("4b", "nano"), default="nano")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--bf16", action="store_true", help="4b is always run so")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    options.bf16 = options.bf16 or options.case == "4b"
    return options


if __name__ == "__main__":
    main()
