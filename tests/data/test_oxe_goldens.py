"""What the published transforms (TensorFlow) make of episodes in each dataset's raw schema, and what we make of them.

`goldens/oxe/transforms.npz` holds the stored fields of 40 steps (`<dataset>/<field>`) and the published
actions (`<dataset>#actions`); `transforms.json` the published instruction. They were written once, by the
published code.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from rlds_writer import write_steps

from spatialvla import Processor
from spatialvla.actions.statistics import ActionStatistics
from spatialvla.data.oxe.mixtures import MIXTURES
from spatialvla.data.oxe.source import OXESource
from spatialvla.data.oxe.specs import SPECS
from spatialvla.geometry.rotations import euler, matrices

GOLDENS = Path(__file__).parents[1] / "goldens" / "oxe"
PUBLISHED = json.loads((GOLDENS / "transforms.json").read_text(encoding="utf-8"))
ARRAYS = np.load(GOLDENS / "transforms.npz")
# The published code turns quaternions into angles in float32, ours in float64; iamlab's come close to a pitch of π/2.
TOLERANCES = dict.fromkeys(PUBLISHED, 2e-6) | {"iamlab_cmu_pickup_insert_converted_externally_to_rlds": 8e-6}


def reached(motions):
    """(T, 7) where the motions lead from the observed poses: what rh20t_rlds' published actions are."""
    observed = ARRAYS["rh20t_rlds/observation/tcp_base"].astype(np.float64)
    turned = matrices(motions[:, 3:6], "euler") @ matrices(observed[:, 3:], "euler")
    return np.concatenate([observed[:, :3] + motions[:, :3], euler(turned), motions[:, 6:]], axis=1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_actions_and_instruction_are_the_published_ones(tmp_path, name):
    spec = SPECS[name]
    fields = (*spec.inputs, spec.instruction)
    root = write_steps(tmp_path / name, spec, {key: ARRAYS[f"{name}/{key}"] for key in fields})
    episode = OXESource(root, cache=tmp_path / "cache").episode(0)
    found = reached(episode.actions) if name == "rh20t_rlds" else episode.actions
    np.testing.assert_allclose(found, ARRAYS[f"{name}#actions"], rtol=0, atol=TOLERANCES[name])
    # The published code lowers the case while reading, ours where the words become a prompt.
    assert Processor.prompt(episode.instruction) == PUBLISHED[name]["instruction"]
    assert spec.key == PUBLISHED[name]["transform"]


def test_every_dataset_of_the_published_mixture_is_compared():
    assert set(PUBLISHED) >= set(MIXTURES["oxe_spatial_vla_plus"])


def published_statistics(key):
    path = GOLDENS.parent / "published" / "processor_config.json"
    return ActionStatistics.from_json(json.loads(path.read_text())["statistics"][key])


def test_where_normalization_differs_from_the_published_one_on_purpose():
    """Published: 2 (x - q01) / (q99 - q01 + 1e-8) - 1, cut to [-1, 1]; 0 where min and max are equal, masked or not."""
    still = np.zeros(7)
    # fanuc's pitch moves in fewer than 1 % of the steps: q01 = q99 = 0, which the published code takes to -1.
    fanuc = published_statistics("berkeley_fanuc_manipulation/0.1.0")
    span = fanuc.q99 - fanuc.q01 + 1e-8
    assert (np.clip(2 * (still - fanuc.q01) / span - 1, -1, 1)[4], fanuc.normalize(still)[4]) == (-1, 0)
    # language_table's gripper is always 1, which the published code takes to 0, closed.
    table = published_statistics("language_table/0.1.0")
    assert table.min[6] == table.max[6] == 1
    actions = SPECS["language_table"].action(ARRAYS["language_table/action"])
    assert (table.normalize(actions)[:, 6] == 1).all()
    # Past an episode's end the published code sets normalized actions to 0; still, as here, is something else.
    droid = published_statistics("droid/1.0.0")
    np.testing.assert_allclose(
        droid.normalize(still)[:6], [0.0116, 0.0067, -0.1183, -0.0183, 0.0427, -0.0001], atol=1e-4
    )
