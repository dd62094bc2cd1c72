"""Rows trained from the start: a one-way mask decodes as it was trained, and the page shows what was found."""

from pathlib import Path

import numpy as np
import pytest
import torch

from spatialvla.common.json_files import read_json
from spatialvla.model.spatialvla import SpatialVLA
from spatialvla.processor import Processor
from spatialvla.training.metrics import prompts_of

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("row", ["paper", "causal"])
@torch.no_grad()
def test_a_row_decodes_what_its_training_would_predict(row, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from from_start import ROWS, used_as_trained

    model, processor = SpatialVLA.from_pretrained("nano"), Processor.from_pretrained("nano")
    images = list(np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8))
    prompts = ["open the drawer", "pick up the bowl next to the plate and place it on the stove"]
    keys = [next(iter(processor.statistics))] * 2

    def batch(actions):
        return processor(images, prompts, keys, actions=actions)

    with used_as_trained(ROWS[row]):
        tokens = model.generate(prompts_of(batch(np.zeros((2, 4, 7)))))
    output = model.training_loss(batch(processor.decode(tokens, keys)), ROWS[row].mask)
    first = processor.action_token_begin_idx
    logits = output.logits.unflatten(0, (2, -1))
    for slot, (start, stop) in enumerate(processor.grid.ranges):
        expected = logits[:, slot:12:3, first + start : first + stop].argmax(-1) + first + start
        np.testing.assert_array_equal(np.asarray(tokens).reshape(2, 4, 3)[..., slot], expected)


def test_the_page_shows_what_the_rows_found(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from from_start import table

    rows = read_json(BENCHMARKS / "results" / "from_start.json")
    page = (BENCHMARKS.parent / "docs" / "measurements" / "ablations.md").read_text()
    assert table(rows) in page
