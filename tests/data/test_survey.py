"""One pass tells samples, damage and statistics, the same with any number of workers."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from fake_source import FakeSource, FakeView

from spatialvla.data import survey as survey_module
from spatialvla.data.needed_parts import NeededParts
from spatialvla.data.survey import survey
from spatialvla.errors import CheckpointError

SOURCE = FakeSource(
    "a", (5, 3, 8, 2, 6, 4, 7), mute=frozenset({3}), damaged=frozenset({1}), no_ops=frozenset({0})
)


def arrays(found):
    return [found.lengths, found.samples, found.instructed, *vars(found.sketch).values()]


def assert_same(one, other):
    assert one.damaged == other.damaged
    for left, right in zip(arrays(one), arrays(other), strict=True):
        np.testing.assert_array_equal(left, right)


def test_what_one_pass_tells():
    found = survey(replace(SOURCE, reads=(reads := [])), on_bad="skip")
    assert reads == list(range(7))
    assert found.lengths.tolist() == [5, 0, 8, 2, 6, 4, 7]
    assert found.samples.tolist() == [4, 0, 7, 1, 5, 3, 6]
    assert found.counts().tolist() == [4, 0, 7, 0, 5, 3, 6]
    assert found.counts(keep_uninstructed=True).tolist() == found.samples.tolist()
    assert found.uninstructed == 1
    assert found.damaged == ("a shard 0, offset 1 is damaged",)
    actions = np.concatenate([SOURCE.episode(k).actions for k in (0, 2, 3, 4, 5, 6)])
    statistics = found.sketch.statistics()
    np.testing.assert_allclose(statistics.mean, actions.mean(0), atol=1e-12)
    np.testing.assert_allclose(statistics.q99, np.quantile(actions, 0.99, axis=0), atol=1e-12)
    assert statistics.num_trajectories == 6


def test_damage_is_fatal_unless_it_is_to_be_skipped(tmp_path):
    with pytest.raises(CheckpointError, match="offset 1 is damaged"):
        survey(SOURCE)
    survey(SOURCE, cache=tmp_path, on_bad="skip")
    with pytest.raises(CheckpointError, match="offset 1 is damaged"):
        survey(SOURCE, cache=tmp_path)


@dataclass(frozen=True)
class OddView(FakeView):
    """Where it stands in episode 1 cannot be."""

    @property
    def extrinsics(self):
        if self.index == 1:
            raise CheckpointError("a episode 1 has a camera that stands nowhere")
        return None


@pytest.mark.parametrize("wrist_first", [True, False])
def test_damage_to_a_camera_counts_where_it_is_read_whatever_was_read_before(tmp_path, wrist_first):
    source = FakeSource("a", (5, 3, 8), views={"wrist": OddView(1)})
    for wrist in (wrist_first, not wrist_first):
        found = survey(NeededParts(source, ("wrist",) if wrist else ()), cache=tmp_path, on_bad="skip")
        assert found.samples.tolist() == [5, 0 if wrist else 3, 8]


def test_numbers_that_are_no_numbers_are_damage():
    class Wrong(FakeSource):
        def episode(self, index):
            episode = super().episode(index)
            episode.actions[-1, 2] = np.nan if index == 2 else 0
            return episode

    with pytest.raises(CheckpointError, match="w episode 2: "):
        survey(Wrong("w", (3, 3, 3, 3)))
    assert survey(Wrong("w", (3, 3, 3, 3)), on_bad="skip").samples.tolist() == [3, 3, 0, 3]


def test_workers_change_nothing(monkeypatch):
    monkeypatch.setattr(survey_module, "_BLOCK", 2)
    alone = survey(SOURCE, on_bad="skip")
    told = []
    shared = survey(SOURCE, workers=2, on_bad="skip", progress=told.append)
    assert told == [2, 2, 2, 1]
    assert_same(alone, shared)


def test_damage_reaches_the_caller_from_a_worker():
    with pytest.raises(CheckpointError, match="offset 1 is damaged"):
        survey(SOURCE, workers=2)


def test_it_is_made_once_and_again_for_other_content(tmp_path):
    source = replace(SOURCE, reads=[])
    first = survey(source, cache=tmp_path, on_bad="skip")
    source.reads.clear()
    assert_same(survey(source, cache=tmp_path, on_bad="skip"), first)
    assert not source.reads
    longer = replace(source, lengths=(*source.lengths, 9))
    assert survey(longer, cache=tmp_path, on_bad="skip").lengths.tolist() == [5, 0, 8, 2, 6, 4, 7, 9]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("torn", [lambda data: b"PK torn", lambda data: data[:-40], lambda data: b""])
def test_a_torn_survey_is_made_again(tmp_path, torn):
    first = survey(SOURCE, cache=tmp_path, on_bad="skip")
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(torn(whole))
    assert_same(survey(SOURCE, cache=tmp_path, on_bad="skip"), first)
    assert path.read_bytes() == whole


def test_a_dataset_without_episodes():
    found = survey(FakeSource("empty", ()))
    assert len(found.lengths) == 0
    assert found.damaged == ()


def test_states_are_surveyed_where_the_dataset_has_them(tmp_path, monkeypatch):
    monkeypatch.setattr(survey_module, "_BLOCK", 2)
    source = replace(SOURCE, state_names=("x", "y"), stateless=frozenset({0}))
    found = survey(source, cache=tmp_path, on_bad="skip")
    states = np.concatenate([SOURCE.episode(k).actions[:, :2] for k in (2, 3, 4, 5, 6)])
    np.testing.assert_allclose(found.states.statistics().q99, np.quantile(states, 0.99, axis=0), atol=1e-12)
    source.reads.clear()
    again = survey(source, cache=tmp_path, on_bad="skip")
    assert not source.reads
    assert_same(again, found)
    assert_same(survey(source, workers=2, on_bad="skip"), found)
    for one, other in zip(vars(again.states).values(), vars(found.states).values(), strict=True):
        np.testing.assert_array_equal(one, other)
    # Without them, it is what it was before there were any.
    bare = survey(SOURCE, cache=tmp_path, on_bad="skip")
    assert bare.states is None
    assert bare.digest != found.digest
    assert_same(bare, found)


def test_a_state_that_cannot_be_is_damage():
    class Wrong(FakeSource):
        def episode(self, index):
            episode = super().episode(index)
            if index == 1:
                episode.state[2, 0] = np.inf
            return episode if index != 2 else replace(episode, state=episode.state[:, :1])

    wrong = Wrong("w", (3, 3, 3, 3), state_names=("x", "y"))
    found = survey(wrong, on_bad="skip")
    assert found.samples.tolist() == [3, 0, 0, 3]
    assert found.damaged[0] == "w episode 1: The states of an episode must be finite; leave it out."
    assert "w episode 2: The states of an episode have the shape (T, 2), not (3, 1)." in found.damaged
    assert found.sketch.count == 6
