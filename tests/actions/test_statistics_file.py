"""Files of statistics: whose entry is whose, what is said of states, and clear errors."""

import json

import numpy as np
import pytest

from spatialvla.actions.state_statistics import StateStatistics
from spatialvla.actions.statistics import ActionStatistics
from spatialvla.actions.statistics_file import DatasetStatistics, read_statistics, write_statistics
from spatialvla.errors import InputError


def an_entry(scale=1.0, **changes):
    entry = ActionStatistics.from_actions(scale * np.linspace(-1, 1, 35).reshape(5, 7)).to_json()
    return {**entry, **changes}


def test_statistics_are_read_as_the_published_code_and_openvla_write_them(tmp_path):
    file, key = tmp_path / "stats.json", "bridge_orig/1.0.0"
    proprio = {"mean": [0.0] * 7}
    wanted = ActionStatistics.from_json(an_entry())
    unmasked = {name: value for name, value in an_entry()["action"].items() if name != "mask"}
    contents = [
        {key: an_entry(), "other/0.1.0": an_entry(9.0)},  # ds_stats.json
        {"bridge_orig": an_entry(proprio=proprio)},  # OpenVLA's dataset_statistics.json
        an_entry(action=unmasked, proprio=proprio),  # dataset_statistics_<hash>.json of one dataset
        {"processor_class": "SpatialVLAProcessor", "statistics": {key: an_entry()}},
    ]
    for content in contents:
        file.write_text(json.dumps(content))
        found = read_statistics(file, [key])[key].actions
        assert list(found.mask) == [True] * 6 + [False]
        np.testing.assert_array_equal(found.q01, wanted.q01)
        np.testing.assert_array_equal(found.q99, wanted.q99)
        # Written and read again, the gripper is still left as it is.
        assert list(ActionStatistics.from_json(found.to_json()).mask) == [True] * 6 + [False]
    file.write_text(json.dumps(contents[0]))
    other = read_statistics(file, [key, "other/0.1.0"])["other/0.1.0"].actions
    assert other.q99[0] == pytest.approx(9 * wanted.q99[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"kuka": {}}, "has no statistics of bridge_orig/1.0.0, but kuka;"),
        ({"bridge_orig/0.1.0": {}, "bridge_orig/0.2.0": {}}, "has no statistics of bridge_orig/1.0.0, but"),
        (
            {"bridge_orig": {"mean": 1}},
            "holds no usable statistics of bridge_orig/1.0.0; they need q01 and q99",
        ),
        ({"bridge_orig": {"action": {"q01": [0] * 6, "q99": [1] * 6}}}, "holds no usable statistics"),
        ({"statistics": [1]}, "has no statistics of bridge_orig/1.0.0, but no entries"),
        ({"bridge_orig/copy": an_entry()}, "has no statistics of bridge_orig/1.0.0, but bridge_orig/copy;"),
    ],
)
def test_statistics_that_cannot_be_used_are_named(tmp_path, content, message):
    file = tmp_path / "stats.json"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as raised:
        read_statistics(file, ["bridge_orig/1.0.0"])
    assert str(file) in str(raised.value)
    with pytest.raises(InputError, match="does not exist"):
        read_statistics(tmp_path / "absent.json", ["bridge_orig/1.0.0"])


@pytest.mark.parametrize("states", [None, StateStatistics(np.arange(8.0), np.arange(8.0) + 2)])
def test_what_is_written_serves_every_dataset(tmp_path, states):
    file, wanted = tmp_path / "statistics.json", ActionStatistics.from_json(an_entry())
    write_statistics(file, DatasetStatistics(wanted, states))
    for found in read_statistics(file, ["libero_goal", "libero_10"]).values():
        np.testing.assert_array_equal(found.actions.q99, wanted.q99)
        assert found.actions.num_transitions == 5
        assert (found.states is None) == (states is None)
        if states is not None and found.states is not None:
            np.testing.assert_array_equal(found.states.q01, states.q01)


def test_a_dataset_s_own_entry_comes_before_the_default_one(tmp_path):
    file = tmp_path / "statistics.json"
    file.write_text(json.dumps({"default": an_entry(), "mine/1.0.0": an_entry(3.0)}))
    found = read_statistics(file, ["mine/2.0.0", "theirs"])
    assert found["mine/2.0.0"].actions.q99[0] == pytest.approx(3 * found["theirs"].actions.q99[0])


@pytest.mark.parametrize(
    "proprio",
    [{"mean": [0.0] * 7}, {"q01": [0.0] * 7, "q99": [0.0] * 7}, {"q01": [1.0], "q99": [0.0]}, "unknown"],
    ids=["no quantiles", "zeros", "swapped", "no entry"],
)
def test_states_of_which_a_file_says_nothing_are_unknown(tmp_path, proprio):
    file = tmp_path / "statistics.json"
    file.write_text(json.dumps({"mine": an_entry(proprio=proprio)}))
    assert read_statistics(file, ["mine"])["mine"].states is None


def test_datasets_of_one_owner_are_not_versions_of_each_other(tmp_path):
    file = tmp_path / "stats.json"
    file.write_text(json.dumps({"me/pick": an_entry()}))
    with pytest.raises(InputError, match="has no statistics of me/place, but me/pick;"):
        read_statistics(file, ["me/place"])
    file.write_text(json.dumps({"me/pick": an_entry(), "default": an_entry(9.0)}))
    found = read_statistics(file, ["me/pick", "me/place"])
    np.testing.assert_allclose(found["me/place"].actions.q99, 9 * found["me/pick"].actions.q99)
