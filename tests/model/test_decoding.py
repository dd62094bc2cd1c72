"""Decoding: the grammar holds, rows do not disturb each other, the cache changes nothing."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from spatialvla import Processor, SpatialVLA
from spatialvla.errors import InputError
from spatialvla.model.cache import KVCache

REFERENCE = Path(__file__).parent.parent / "goldens" / "reference"
IMAGES = [Image.open(path).convert("RGB") for path in sorted((REFERENCE / "images").glob("*.png"))]
PROMPTS = ["open the drawer", "put the red block on the plate and then close the microwave door", "stop"]

model = SpatialVLA.from_pretrained(REFERENCE / "checkpoint")
processor = Processor.from_pretrained(REFERENCE / "checkpoint")


def a_batch(rows: int):
    images = [IMAGES[row % len(IMAGES)] for row in range(rows)]
    prompts = [PROMPTS[row % len(PROMPTS)] for row in range(rows)]
    return processor(images, prompts)


def assert_speaks_actions(tokens: torch.Tensor) -> None:
    for place in range(tokens.shape[1]):
        rows = model.config.grammar[place % 3]
        assert ((tokens[:, place] >= rows.start) & (tokens[:, place] < rows.stop)).all()


@settings(max_examples=15)
@given(rows=st.integers(1, 5), temperature=st.sampled_from([0.0, 0.5, 1.0, 100.0]), seed=st.integers(0, 99))
def test_only_actions_come_out(rows, temperature, seed):
    generator = torch.Generator().manual_seed(seed)
    tokens = model.generate(a_batch(rows), temperature=temperature, generator=generator)
    assert tokens.shape == (rows, 6)
    assert_speaks_actions(tokens)
    assert processor.decode(tokens, "bridge_orig/1.0.0").shape == (rows, 2, 7)


def test_rows_do_not_depend_on_their_batch_mates():
    whole = model.generate(a_batch(3))
    for row in range(3):
        alone = model.generate(processor([IMAGES[row % len(IMAGES)]], [PROMPTS[row]]))
        assert torch.equal(whole[row], alone[0])


def test_greedy_decoding_equals_full_passes_without_a_cache():
    batch = a_batch(3)
    tokens = model.generate(batch)
    ids, mask = batch.input_ids, batch.attention_mask
    labels = torch.full_like(ids, -100)
    for step in range(6):
        rows = model.config.grammar[step % 3]
        with torch.no_grad():
            logits = model(replace(batch, input_ids=ids, attention_mask=mask, labels=labels)).logits
        chosen = rows.start + logits[:, -1, rows].argmax(-1)
        assert torch.equal(chosen, tokens[:, step])
        ids, labels = torch.cat([ids, chosen[:, None]], 1), torch.cat([labels, chosen[:, None]], 1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)


def test_sampling_is_reproducible_and_varies():
    def sample(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        return model.generate(a_batch(1), temperature=2.0, generator=generator)[0].tolist()

    assert sample(0) == sample(0)
    assert len({tuple(sample(seed)) for seed in range(5)}) > 1


def test_bad_requests():
    with pytest.raises(InputError, match="max_new_tokens"):
        model.generate(a_batch(1), max_new_tokens=4)
    with pytest.raises(InputError, match="temperature"):
        model.generate(a_batch(1), temperature=float("nan"))
    actions = processor.statistics["tiny_robot/0.1.0"].denormalize(torch.zeros(1, 2, 7).numpy())
    labelled = processor([IMAGES[0]], ["stop"], dataset="tiny_robot/0.1.0", actions=actions)
    with pytest.raises(InputError, match="labels"):
        model.generate(labelled)
    right_padded = replace(a_batch(2), attention_mask=a_batch(2).attention_mask.flip(1))
    with pytest.raises(InputError, match="left"):
        model.generate(right_padded)


def test_cache_overrun_is_an_error(monkeypatch):
    small = KVCache.allocate(model.config.text, 1, 10, torch.device("cpu"), torch.float32)
    monkeypatch.setattr(model.passes, "cache", lambda rows, capacity: small)
    with pytest.raises(InputError, match="cache holds 10 tokens"):
        model.generate(a_batch(1))


def test_wrong_number_of_image_tokens():
    batch = a_batch(1)
    with pytest.raises(InputError, match="16 image tokens"):
        model(replace(batch, input_ids=batch.input_ids[:, 1:], attention_mask=batch.attention_mask[:, 1:]))
