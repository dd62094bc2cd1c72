"""How sure a policy is: the probabilities are those it decodes by, and entropy and spread are as defined."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from spatialvla import Observation, Optimization, Policy
from spatialvla.execution import Execution
from spatialvla.model.decoding.chunk import decode
from spatialvla.readout import CellMiddles
from spatialvla.uncertainty import uncertainties

CHECKPOINT = Path(__file__).parent / "goldens" / "reference" / "checkpoint"
DATASET = "tiny_robot/0.1.0"
IMAGES = np.random.default_rng(0).integers(0, 255, (2, 48, 64, 3), dtype=np.uint8)
SEEN = [Observation(IMAGES[0], "stop"), Observation(IMAGES[1], "put the red block on the plate")]


@pytest.fixture(scope="module")
def policy():
    return Policy.from_pretrained(CHECKPOINT, dataset=DATASET, uncertainty=True)


@torch.no_grad()
def test_the_probabilities_are_those_of_one_pass_over_prompt_and_chunk(policy):
    batch = policy.processor.collate([policy.prepare(seen) for seen in SEEN])
    decoded = decode(policy.model.passes, batch, probabilities=True)
    plain = decode(policy.model.passes, batch)
    assert torch.equal(decoded.ids, plain.ids)
    assert decoded.passes == plain.passes + 1
    assert plain.probabilities is None
    config = policy.model.config
    actions = torch.full((2, 2, 7), 0.01).numpy()
    learned = policy.processor(
        [s.image for s in SEEN], [s.instruction for s in SEEN], DATASET, actions=actions
    )
    for row in range(2):
        one = learned[row : row + 1]
        kept = one.attention_mask[0]
        begin = int((one.labels[0, kept] >= 0).nonzero()[0])
        ids = one.input_ids[:, kept].clone()
        ids[0, begin : begin + 6] = decoded.ids[row]
        whole = type(one)(
            ids, one.attention_mask[:, kept], one.pixel_values, one.intrinsics, one.labels[:, kept]
        )
        logits = policy.model(whole).logits[0, begin - 1 : begin + 5]
        for kind, rows in enumerate(config.grammar):
            expected = F.softmax(logits[kind::3, rows], dim=-1)
            torch.testing.assert_close(decoded.probabilities[kind][row], expected, atol=1e-5, rtol=1e-4)
            best = decoded.probabilities[kind][row].argmax(dim=-1) + rows.start
            assert torch.equal(best, decoded.ids[row, kind::3])


def test_entropy_and_spread_by_definition(policy):
    config, middles = policy.model.config, CellMiddles.of(policy.processor, DATASET)
    cells = middles.translation
    sizes = [rows.stop - rows.start for rows in config.grammar]
    sure = [F.one_hot(torch.tensor([[min(3, size - 1)]]), size).float() for size in sizes]
    even = [torch.full((1, 1, size), 1 / size) for size in sizes]
    (found,) = uncertainties(tuple(sure), middles, policy.units.meters)
    np.testing.assert_allclose(found.entropy, 0, atol=1e-6)
    (found,) = uncertainties(tuple(even), middles, policy.units.meters)
    np.testing.assert_allclose(found.entropy[0], np.log2(sizes), rtol=1e-5)
    assert np.isnan(found.spread_mm).all(), "nobody says what 1 is"
    halves = sure[0].clone()
    halves[0, 0, 3], halves[0, 0, 90] = 0.5, 0.5
    units = {DATASET: type(policy.units)(meters=0.05)}
    known = type(policy.processor)(**{**vars_of(policy.processor), "units": units})
    (found,) = uncertainties(
        (halves, *sure[1:]), CellMiddles.of(known, DATASET), known.action_units(DATASET).meters
    )
    np.testing.assert_allclose(found.entropy, [[1, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(found.spread_mm, 50 * np.linalg.norm(cells[3] - cells[90]) / 2, rtol=1e-6)


def vars_of(processor):
    return {name: getattr(processor, name) for name in processor.__dataclass_fields__}


def test_it_comes_with_every_chunk_and_changes_none(policy):
    plain = Policy.from_pretrained(CHECKPOINT, dataset=DATASET)
    fast = Policy.from_pretrained(CHECKPOINT, dataset=DATASET, uncertainty=True, optimization=Optimization())
    for asked in (policy, fast):
        for one, two in zip(asked.predict(SEEN), plain.predict(SEEN), strict=True):
            np.testing.assert_array_equal(one.actions, two.actions)
            assert two.uncertainty is None
            assert one.uncertainty.entropy.shape == (2, 3)
            assert (one.uncertainty.entropy >= 0).all()
    for one, two in zip(policy.predict(SEEN), fast.predict(SEEN), strict=True):
        np.testing.assert_allclose(one.uncertainty.entropy, two.uncertainty.entropy, atol=1e-4)


def test_drafts_and_committed_steps_do_not_change_it(policy):
    acting = Policy.from_pretrained(
        CHECKPOINT, dataset=DATASET, uncertainty=True, execution=Execution("receding", steps=1)
    )
    acting.act(SEEN[0])
    (expected,) = policy.predict(SEEN[:1])
    np.testing.assert_allclose(
        acting.act(SEEN[0]).uncertainty.entropy, expected.uncertainty.entropy, atol=1e-5
    )
    (chunk,) = policy.predict(SEEN[:1], committed=[expected.tokens[:1]])
    np.testing.assert_allclose(chunk.uncertainty.entropy, expected.uncertainty.entropy, atol=1e-5)
