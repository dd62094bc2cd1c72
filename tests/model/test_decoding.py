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
    for slot in range(tokens.shape[1]):
        rows = model.config.grammar[slot % 3]
        assert ((tokens[:, slot] >= rows.start) & (tokens[:, slot] < rows.stop)).all()


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


def test_the_coldest_sampling_says_the_most_likely():
    assert torch.equal(model.generate(a_batch(1), temperature=1e-40), model.generate(a_batch(1)))


def test_bad_requests():
    with pytest.raises(InputError, match="max_new_tokens"):
        model.generate(a_batch(1), max_new_tokens=4)
    with pytest.raises(InputError, match="max_new_tokens must be at least 1"):
        model.generate(a_batch(1), constrained=False, max_new_tokens=0)
    with pytest.raises(InputError, match="temperature"):
        model.generate(a_batch(1), temperature=float("nan"))
    actions = processor.statistics["tiny_robot/0.1.0"].denormalize(torch.zeros(1, 2, 7).numpy())
    labeled = processor([IMAGES[0]], ["stop"], dataset="tiny_robot/0.1.0", actions=actions)
    with pytest.raises(InputError, match="labels"):
        model.generate(labeled)
    right_padded = replace(a_batch(2), attention_mask=a_batch(2).attention_mask.flip(1))
    with pytest.raises(InputError, match="left"):
        model.generate(right_padded)


def test_cache_overrun_is_an_error(monkeypatch):
    small = model.passes.cache(1, 10)
    monkeypatch.setattr(model.passes, "cache", lambda rows, capacity: small)
    with pytest.raises(InputError, match="cache holds 10 tokens"):
        model.generate(a_batch(1))


def test_a_cache_serves_one_chunk_after_another(monkeypatch):
    fresh = model.generate(a_batch(2))
    length = a_batch(2).input_ids.shape[1]
    kept = model.passes.cache(2, length + 5)
    monkeypatch.setattr(model.passes, "cache", lambda rows, capacity: kept)
    for _ in range(2):
        assert torch.equal(model.generate(a_batch(2)), fresh)
    # What a broken request left behind is hidden, but a NaN shows through the mask until it is cleared.
    for tensor in (*kept.keys, *kept.values):
        tensor.fill_(torch.nan)
    kept.clear(length)
    assert torch.equal(model.generate(a_batch(2)), fresh)


@pytest.mark.parametrize("multiple", [5, 16, 64])
def test_padding_to_few_lengths_changes_no_token(multiple):
    drafts = model.generate(a_batch(3)).flip(0)
    lengths = set()
    for prompts in ([PROMPTS[0]], PROMPTS[:2], PROMPTS):
        images = [IMAGES[row % len(IMAGES)] for row in range(len(prompts))]
        tight, padded = processor(images, prompts), processor(images, prompts, pad_to_multiple_of=multiple)
        lengths.add(padded.input_ids.shape[1])
        tokens = model.generate(tight)
        assert torch.equal(model.generate(padded), tokens)
        assert torch.equal(model.decode(padded, draft_ids=drafts[: len(prompts)]).ids, tokens)
    assert all((length - model.config.image_token_num) % multiple == 0 for length in lengths)


def test_speculation_in_float32_with_the_vision_tower():
    batch, plain = a_batch(3), model.generate(a_batch(3))
    found = model.decode(batch, draft_ids=plain)
    assert (found.passes, found.accepted.tolist()) == (1, [6, 6, 6])
    for drafts in (plain.roll(1, dims=0), torch.full_like(plain, -1), plain.masked_fill(plain % 2 == 0, -1)):
        found = model.decode(batch, draft_ids=drafts)
        assert torch.equal(found.ids, plain)
        assert found.passes <= 6


def test_sampling_goes_on_from_committed_tokens():
    committed = model.generate(a_batch(2)).index_fill(1, torch.arange(3, 6), -1)
    generator = torch.Generator().manual_seed(0)
    options = {"committed_ids": committed, "temperature": 5.0, "generator": generator}
    samples = [model.decode(a_batch(2), **options) for _ in range(4)]
    assert all(torch.equal(sample.ids[:, :3], committed[:, :3]) for sample in samples)
    assert all(sample.passes == 3 for sample in samples)
    assert len({tuple(sample.ids.flatten().tolist()) for sample in samples}) > 1
    for sample in samples:
        assert_speaks_actions(sample.ids)


def test_too_little_memory_is_one_sentence(monkeypatch):
    def full(batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …")

    monkeypatch.setattr(model, "embed", full)
    with pytest.raises(InputError, match="cpu has too little free memory for a batch of 3; pass fewer rows"):
        model.generate(a_batch(3))
    with pytest.raises(InputError, match="batch of 1"):
        model.generate(a_batch(1), constrained=False)


def test_wrong_number_of_image_tokens():
    batch = a_batch(1)
    with pytest.raises(InputError, match="16 image tokens"):
        model(replace(batch, input_ids=batch.input_ids[:, 1:], attention_mask=batch.attention_mask[:, 1:]))
