"""Time the action grid: encoding, decoding, and adapting the published model's embeddings to a new grid.

    python benchmarks/actions.py [--json FILE]

Adaptation is compared with the straightforward way, one token after another, and with merely copying.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path

import numpy as np

from spatialvla import ActionGrid, adapt_embeddings
from timing import best_of

PRETRAINING = {
    "theta": (1.8740, 0.7798),
    "phi": (0.0880, 1.6921),
    "r": (0.5481, 0.3475),
    "roll": (-0.0165, 0.3805),
    "pitch": (0.0285, 0.2991),
    "yaw": (-0.0049, 0.3902),
}
ACTIONS = 100_000
WIDTH = 2304


def adapt_by_token(embeddings: np.ndarray, old: ActionGrid, new: ActionGrid) -> np.ndarray:
    """Trilinear interpolation written out: for each new token, the weighted sum of its 8 old neighbors."""
    adapted = np.empty((new.size, embeddings.shape[1]), embeddings.dtype)
    adapted[slice(*new.ranges[2])] = embeddings[slice(*old.ranges[2])]
    axes = list(zip(old.centers.values(), new.centers.values(), strict=True))
    for block, (old_shape, new_shape) in enumerate(zip(old.shapes, new.shapes, strict=True)):
        table = embeddings[slice(*old.ranges[block])].reshape(*old_shape, -1)
        for token, index in enumerate(np.ndindex(*new_shape), start=new.ranges[block][0]):
            row = np.zeros(embeddings.shape[1], embeddings.dtype)
            neighbors = []
            for (centers, new_centers), place in zip(axes[3 * block : 3 * block + 3], index, strict=True):
                position = np.interp(new_centers[place], centers, np.arange(len(centers)))
                lower = min(int(position), len(centers) - 2)
                neighbors.append([(lower, 1 - (position - lower)), (lower + 1, position - lower)])
            for (i, wi), (j, wj), (k, wk) in product(*neighbors):
                row += embeddings.dtype.type(wi * wj * wk) * table[i, j, k]
            adapted[token] = row
    return adapted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    path = parser.parse_args().json

    rng = np.random.default_rng(0)
    old, new = ActionGrid.from_gaussians(PRETRAINING), ActionGrid.from_gaussians(PRETRAINING, min_sigma=0.5)
    actions = rng.normal(0, 0.4, (ACTIONS, 7))
    ids = old.encode(actions)
    embeddings = rng.standard_normal((old.size, WIDTH), dtype=np.float32)

    fast, naive = adapt_embeddings(embeddings, old, new), adapt_by_token(embeddings, old, new)
    if not np.allclose(fast, naive, atol=1e-5):
        raise SystemExit("the two ways of adapting embeddings disagree")

    in_one_go = best_of(5, lambda: adapt_embeddings(embeddings, old, new))
    by_token = best_of(1, lambda: adapt_by_token(embeddings, old, new))
    results = {
        f"encode {ACTIONS:,} actions": best_of(5, lambda: old.encode(actions)),
        f"decode {ACTIONS:,} steps": best_of(5, lambda: old.decode(ids)),
        "encode a 4-step chunk": best_of(200, lambda: old.encode(actions[:4])),
        "decode a 4-step chunk": best_of(200, lambda: old.decode(ids[:4])),
        f"adapt {old.size:,} x {WIDTH:,} float32": in_one_go,
        "the same, token by token": by_token,
        "a copy of the embeddings": best_of(5, embeddings.copy),
    }
    width = max(map(len, results))
    for name, duration in results.items():
        print(f"{name:{width}}  {duration * 1000:10.3f} ms")
    print(f"adapting in one go is {by_token / in_one_go:.0f} times as fast as token by token")
    if path:
        path.write_text(
            json.dumps({name: round(1000 * value, 4) for name, value in results.items()}, indent=1)
        )


if __name__ == "__main__":
    main()
