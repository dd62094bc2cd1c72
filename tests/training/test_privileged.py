"""What the robot knew at a step is found for each sample, standardized over all datasets."""

import numpy as np
import pytest
from loaded_rows import rows_of

from spatialvla.data.lerobot.source import LeRobotSource
from spatialvla.data.training_mixture import TrainingMixture
from spatialvla.errors import InputError
from spatialvla.training.guidance.privileged import PrivilegedTargets, keyframes
from spatialvla.training.guidance.step_table import Steps


@pytest.fixture
def source(dataset):
    return LeRobotSource(dataset)


def test_keyframes_are_where_the_gripper_changes_next():
    actions = np.zeros((12, 7))
    actions[:6, 6] = 1
    assert keyframes(actions).tolist() == [6] * 6 + [11] * 6
    assert keyframes(np.zeros((3, 7))).tolist() == [2, 2, 2]
    assert keyframes(np.zeros((1, 7))).tolist() == [0]


def test_rows_are_those_of_the_samples_also_with_several_datasets(source, dataset):
    other = LeRobotSource(dataset)
    other.key = "other"
    steps = Steps(TrainingMixture.open([source, other]))
    table = steps.table(lambda episode: np.arange(len(episode.actions))[:, None])
    assert table.shape == (2 * 4 * 12, 1)
    rows = steps.rows(rows_of("squares", [0, 2, 3], [5, 0, 11]))
    assert rows.tolist() == [5, 24, 47]
    assert steps.rows(rows_of("other", [0, 2], [5, 0], source=1)).tolist() == [53, 72]
    assert table[rows, 0].tolist() == [5, 0, 11]


def test_targets_are_standardized_and_missing_features_named(source):
    steps = Steps(TrainingMixture.open([source]))
    targets = PrivilegedTargets(steps, ("observation.state", "observation.state@keyframe"))
    assert targets.size == 16
    np.testing.assert_allclose(targets.values.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(targets.values.std(0), 1, atol=1e-4)
    state = [source.episode(index).columns["observation.state"] for index in range(4)]
    later = np.concatenate([values[keyframes(source.episode(i).actions)] for i, values in enumerate(state)])
    # The gripper closes at step 6, and the last step is 11.
    again = targets.batch(rows_of("squares", [1, 1], [0, 7]))[:, 8:].numpy() * later.std(0)
    np.testing.assert_allclose(again[0] - again[1], state[1][6] - state[1][11], atol=1e-5)
    part = PrivilegedTargets(steps, ("observation.state[2:5]@keyframe",))
    np.testing.assert_array_equal(part.values, targets.values[:, 10:13])
    with pytest.raises(InputError, match=r"observation\.secret"):
        PrivilegedTargets(steps, ("observation.secret",))
