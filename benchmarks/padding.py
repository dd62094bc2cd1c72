"""How much of a training batch is padding, with the real lengths of LIBERO's instructions: what buckets could save.

python benchmarks/padding.py [--batch 16]
"""

from __future__ import annotations

import argparse

import numpy as np

from spatialvla.common.json_files import parse_value
from spatialvla.model.fast.compiled import PROMPT_MULTIPLE
from spatialvla.model.folders import SHIPPED
from spatialvla.model.presets import PRESETS
from spatialvla.processor import Processor
from spatialvla.training.run.lasting_names import LIBERO_INSTRUCTIONS

BATCHES = 2_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    processor = Processor.from_pretrained(SHIPPED / "nano")
    texts = [str(text) for text in parse_value(LIBERO_INSTRUCTIONS.read_bytes())]
    lengths = np.array([len(processor.tokenizer.encode(Processor.prompt(text)).ids) for text in texts])
    print(
        f"{len(texts)} instructions of {lengths.min()} to {lengths.max()} tokens, {lengths.mean():.1f} on average"
    )
    drawn = np.random.default_rng(0).choice(lengths, (BATCHES, options.batch))
    for name in ("nano", "4b"):
        network = PRESETS[name]()
        rest = network.image_token_num + 3 * network.action_chunk_size + 1
        real, longest = rest + drawn.mean(), rest + drawn.max(axis=1)
        filled = -(-longest // PROMPT_MULTIPLE) * PROMPT_MULTIPLE
        print(
            f"{name}: {real:.1f} tokens a sample; padding is {1 - real / longest.mean():.1%} of a batch of "
            f"{options.batch}, and {1 - real / filled.mean():.1%} where filled to multiples of {PROMPT_MULTIPLE}"
        )


if __name__ == "__main__":
    main()
