"""The action grid: published token numbers, equal probability, half-bin accuracy, clear errors."""

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from grid_strategies import PRETRAINING, gaussians, grids, small_bins
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spatialvla.actions.bins import BLOCKS, DIMENSION_RANGES, Bins, Gaussian, fit_gaussians, read_gaussians
from spatialvla.actions.grids import ActionGrid, action_coordinates
from spatialvla.errors import CheckpointError, InputError

REFERENCE = Path(__file__).parents[1] / "goldens/reference"
TOKENS = json.loads((REFERENCE / "action_tokens.json").read_text())
GOLDENS = dict(np.load(REFERENCE / "action_tokens.npz"))

# Every dimension but theta and phi was held at the floor of 0.5: any smaller deviation gives the same grid.
FRACTAL = {
    "theta": (1.6157435178756714, 0.5976657271385194),
    "phi": (0.015117898583412092, 1.1926764249801638),
    "r": (0.4557583332061768, 0.1),
    "roll": (-0.15983529388904577, 0.1),
    "pitch": (0.0713761150836944, 0.1),
    "yaw": (-0.010925553739070948, 0.1),
}
GRIDS = {
    "spatialvla_plus_s0.0": ActionGrid.from_gaussians(PRETRAINING),
    "fractal_s0.5": ActionGrid.from_gaussians(FRACTAL, min_sigma=0.5),
    "uniform_s0.0": ActionGrid.uniform(),
}
per_policy = pytest.mark.parametrize("policy", GRIDS)

normalized_actions = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 20), st.just(7)), elements=st.floats(-1, 1, allow_subnormal=False)
)


def published(policy: str) -> ActionGrid:
    return ActionGrid.from_json(
        {"action_config": {"num_bins": TOKENS["num_bins"]}, "bin_policy": TOKENS["policies"][policy]}
    )


@per_policy
def test_edges_equal_the_published_ones(policy):
    stored = published(policy).edges
    for name, edges in GRIDS[policy].edges.items():
        np.testing.assert_allclose(edges, stored[name], rtol=0, atol=1e-9)


@per_policy
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("grid_of", [published, GRIDS.get], ids=["stored", "fitted"])
def test_token_numbers_equal_the_published_ones(policy, dtype, grid_of):
    ids = grid_of(policy).encode(GOLDENS["actions"].astype(dtype))
    assert ids.dtype == np.int64
    expected = GOLDENS[f"{policy}.ids_{'f64' if dtype == np.float64 else 'f32'}"]
    np.testing.assert_array_equal(ids, expected)


@per_policy
@pytest.mark.parametrize("grid_of", [published, GRIDS.get], ids=["stored", "fitted"])
def test_decoded_actions_equal_the_published_ones(policy, grid_of):
    decoded = grid_of(policy).decode(GOLDENS[f"{policy}.ids_f64"])
    assert decoded.dtype == np.float64
    np.testing.assert_allclose(decoded, GOLDENS[f"{policy}.decoded"], rtol=0, atol=1e-9)


def test_published_setup_has_8194_tokens():
    grid = ActionGrid.uniform()
    assert (grid.n_translation, grid.n_rotation, grid.n_gripper, grid.size) == (4096, 4096, 2, 8194)
    assert grid.ranges == ((0, 4096), (4096, 8192), (8192, 8194))
    assert {name: len(centers) for name, centers in grid.centers.items()} == vars(Bins())


@given(gaussians, small_bins, st.floats(0, 1))
def test_bins_hold_equal_probability(fits, bins, min_sigma):
    grid = ActionGrid.from_gaussians(fits, min_sigma, bins)
    for name, edges in grid.edges.items():
        mu, sigma = fits[name][0], max(fits[name][1], min_sigma)
        # Survival or distribution function, whichever keeps its digits on this side of the mean.
        side = 1 if edges[0] > mu else -1
        tails = np.array([math.erfc(side * (edge - mu) / sigma / math.sqrt(2)) for edge in edges])
        masses = np.abs(np.diff(tails))
        np.testing.assert_allclose(masses, masses.sum() / len(masses), rtol=1e-6)
        assert (edges[0], edges[-1]) == DIMENSION_RANGES[name]


@given(grids, normalized_actions)
def test_round_trip_stays_inside_half_a_bin(grid, actions):
    ids = grid.encode(actions)
    widths = {name: np.diff(edges) for name, edges in grid.edges.items()}
    index = dict(
        zip(
            DIMENSION_RANGES,
            (
                *np.unravel_index(ids[:, 0], grid.shapes[0]),
                *np.unravel_index(ids[:, 1] - grid.n_translation, grid.shapes[1]),
            ),
            strict=True,
        )
    )
    for name, values in action_coordinates(actions).items():
        centers = grid.centers[name][index[name]]
        assert (np.abs(values - centers) <= widths[name][index[name]] / 2 + 1e-9).all()
    decoded = grid.decode(ids)
    np.testing.assert_array_equal(decoded[:, 6], actions[:, 6] >= 0.5)
    for axis, name in enumerate(BLOCKS["rotation"], start=3):
        np.testing.assert_array_equal(decoded[:, axis], grid.centers[name][index[name]])


@given(grids, st.data())
def test_tokens_survive_decoding_and_encoding(grid, data):
    rows = st.tuples(*(st.integers(start, stop - 1) for start, stop in grid.ranges))
    ids = np.array(data.draw(st.lists(rows, min_size=1, max_size=20)))
    actions = grid.decode(ids)
    assert np.abs(actions).max() <= 1
    # Far translations leave the cube and are clipped onto it, which can move them to another bin.
    inside = np.abs(actions[:, :3]).max(1) < 1
    np.testing.assert_array_equal(grid.encode(actions)[inside], ids[inside])
    np.testing.assert_array_equal(grid.encode(actions)[:, 1:], ids[:, 1:])


def test_leading_dimensions_are_kept():
    grid = GRIDS["spatialvla_plus_s0.0"]
    actions = GOLDENS["actions"][:24]
    ids = grid.encode(actions)
    np.testing.assert_array_equal(grid.encode(actions.reshape(2, 3, 4, 7)), ids.reshape(2, 3, 4, 3))
    np.testing.assert_array_equal(grid.encode(actions[0]), ids[0])
    np.testing.assert_array_equal(grid.decode(ids.reshape(2, 3, 4, 3)), grid.decode(ids).reshape(2, 3, 4, 7))
    assert grid.encode(np.empty((0, 7))).shape == (0, 3)
    assert grid.decode(np.empty((0, 3), int)).shape == (0, 7)


def test_fit_recovers_mean_and_deviation():
    rng = np.random.default_rng(0)
    actions = rng.normal(0.1, 0.2, (20_000, 7))
    fits = fit_gaussians(action_coordinates(actions))
    for name in BLOCKS["rotation"]:
        assert fits[name] == pytest.approx((0.1, 0.2), abs=0.01)
    assert fits["r"].mu == pytest.approx(np.linalg.norm(actions[:, :3], axis=1).mean(), abs=1e-3)
    assert ActionGrid.fit(actions, min_sigma=0.3) == ActionGrid.from_gaussians(fits, min_sigma=0.3)


@given(grids)
def test_json_keeps_every_float(grid):
    assert ActionGrid.from_json(json.loads(json.dumps(grid.to_json()))) == grid
    assert pickle.loads(pickle.dumps(grid)) == grid


def test_published_configuration_survives_unchanged():
    config = json.loads((REFERENCE / "checkpoint/processor_config.json").read_text())
    grid = ActionGrid.from_json(config)
    assert (grid.bins, grid.size) == (Bins(4, 8, 4, 4, 4, 4), 194)
    assert grid.to_json() == {name: config[name] for name in ("action_config", "bin_policy")}
    assert ActionGrid.uniform().to_json()["action_config"]["distribution"] == "uniform"


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda c: c.pop("bin_policy"), "bin_policy"),
        (lambda c: c["bin_policy"]["rotation"].pop("yaw_bins"), "yaw_bins"),
        (lambda c: c["bin_policy"]["rotation"]["yaw_bins"].reverse(), "yaw must be"),
        (lambda c: c["bin_policy"]["translation"]["r_bins"].pop(), "but the edges in bin_policy make"),
        (lambda c: c["action_config"].update(use_spherical=False), "Cartesian"),
        (lambda c: c.update(bin_policy=None), "no usable action grid"),
    ],
)
def test_broken_configuration_is_a_checkpoint_error(spoil, match):
    config = json.loads(json.dumps(GRIDS["fractal_s0.5"].to_json()))
    spoil(config)
    with pytest.raises(CheckpointError, match=match):
        ActionGrid.from_json(config)


@pytest.mark.wrong_arrays
@pytest.mark.parametrize(
    ("actions", "match"),
    [
        (np.zeros((3, 6)), r"\(\.\.\., 7\), got \(3, 6\)"),
        (np.zeros(()), r"\(\.\.\., 7\)"),
        (np.full((2, 7), np.nan), "14 numbers"),
        (np.array([0, 0, 0, 0, 0, 0, np.inf]), "finite"),
    ],
)
def test_bad_actions_are_refused(actions, match):
    with pytest.raises(InputError, match=match):
        ActionGrid.uniform().encode(actions)


@pytest.mark.wrong_arrays
@pytest.mark.parametrize(
    ("ids", "match"),
    [
        (
            [[0, 4096, 8192], [4096, 4096, 8192]],
            "has 4096 where a translation token belongs; these are 0 to 4095",
        ),
        ([[0, 8192, 8192]], "has 8192 where a rotation token belongs; these are 4096 to 8191"),
        ([[0, 17, 8192]], "has 17 where a rotation token belongs"),
        ([[0, 4096, 8194]], "has 8194 where a gripper token belongs; these are 8192 to 8193"),
        ([[-1, 4096, 8192]], "has -1 where a translation token belongs"),
        ([[0, 4096]], r"\(1, 2\)"),
        ([[0.0, 4096.0, 8192.0]], "whole numbers"),
    ],
)
def test_wrong_tokens_are_named(ids, match):
    with pytest.raises(InputError, match=match):
        ActionGrid.uniform().decode(np.array(ids))


@pytest.mark.parametrize("gaussian", [(0.0, 0.0), (0.5, 1e-30), (90.0, 0.1), (np.nan, 1.0), (0.0, np.inf)])
def test_gaussians_without_distinct_bins_are_refused(gaussian):
    with pytest.raises(InputError, match=r"yaw: .* raise min_sigma"):
        ActionGrid.from_gaussians({**PRETRAINING, "yaw": gaussian})


def test_gaussians_are_read_as_the_published_code_writes_them(tmp_path):
    file = tmp_path / "gs_plus.json"
    content = {name: {"mu": mu, "sigma": sigma} for name, (mu, sigma) in PRETRAINING.items()}
    file.write_text(json.dumps({**content, "x": {"mu": 0, "sigma": 1}}))
    assert ActionGrid.from_gaussians(read_gaussians(file)) == GRIDS["spatialvla_plus_s0.0"]
    for broken in ({}, content | {"phi": {"mu": 0}}, content | {"phi": [0, 1]}):
        file.write_text(json.dumps(broken))
        with pytest.raises(InputError, match=r"gs_plus\.json holds no mu and sigma for each"):
            read_gaussians(file)
    with pytest.raises(InputError, match="does not exist"):
        read_gaussians(tmp_path / "absent.json")


def test_resting_dimension_needs_min_sigma():
    actions = np.zeros((10, 7))
    with pytest.raises(InputError, match="min_sigma"):
        ActionGrid.fit(actions)
    assert ActionGrid.fit(actions, min_sigma=0.5).size == 8194


def test_malformed_requests_are_refused():
    with pytest.raises(InputError, match="needs a Gaussian for each"):
        ActionGrid.from_gaussians({"theta": Gaussian(1, 1)})
    with pytest.raises(InputError, match="at least one bin, but phi has"):
        Bins(phi=0)
    with pytest.raises(InputError, match="at least one action"):
        ActionGrid.fit(np.empty((0, 7)))
