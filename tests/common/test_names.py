"""What is offered in place of a mistyped name: the like ones, or what there is."""

import pytest

from spatialvla.common.names import did_you_mean

KNOWN = ["bridge_orig/1.0.0", "fractal20220817_data/0.1.0", "libero_spatial", "libero_goal", "LIBERO_90"]


@pytest.mark.parametrize(
    ("name", "offered"),
    [
        ("libero_spacial", "did you mean libero_spatial"),
        ("bridge", "did you mean bridge_orig/1.0.0?"),
        ("libero_9", "did you mean LIBERO_90"),
        ("Fractal", "did you mean fractal20220817_data/0.1.0?"),
        (
            "zzz",
            "choose from bridge_orig/1.0.0, fractal20220817_data/0.1.0, libero_spatial, libero_goal, LIBERO_90.",
        ),
    ],
)
def test_the_like_ones_are_offered(name, offered):
    assert did_you_mean(name, KNOWN).startswith(offered)


def test_a_long_list_is_cut():
    assert did_you_mean("x", (f"name{number}" for number in range(40))).endswith("name11, ….")
