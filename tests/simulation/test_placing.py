from types import SimpleNamespace

import numpy as np
import pytest

from spatialvla.errors import InputError
from spatialvla.simulation.libero.placing import InRegion, OnRegion, OnThing, place_of

TURNED = np.array([[0, -1.0, 0], [1, 0, 0], [0, 0, 1]])
SITE = SimpleNamespace(xpos=np.array([0.1, 0.2, 0.07]), xmat=TURNED.ravel())


def _env() -> SimpleNamespace:
    size = np.array([0.06, 0.05, 0.04])
    parents = {
        "basket_1_contain_region": "basket_1",
        "stove_1_cook_region": "stove_1",
        "main_table_front_region": "main_table",
    }
    simulator = SimpleNamespace(
        objects_dict={
            "milk_1": None,
            "plate_1": SimpleNamespace(contact_geoms=["plate_1_g0"]),
            "basket_1": None,
        },
        obj_body_id={"plate_1": 1},
        fixtures_dict={"stove_1": None},
        object_sites_dict={
            name: SimpleNamespace(size=size, parent_name=parent) for name, parent in parents.items()
        },
    )
    data = SimpleNamespace(
        xpos=np.array([[0, 0, 0], [0.3, 0.4, 0.9]]),
        geom_xpos=np.array([[0.3, 0.4, 0.91]]),
        geom_xmat=np.eye(3).reshape(1, 9),
        site=lambda name: SITE,
    )
    model = SimpleNamespace(
        geom=lambda name: SimpleNamespace(id=0), geom_aabb=np.array([[0, 0, 0, 0.1, 0.1, 0.02]])
    )
    return SimpleNamespace(simulator=simulator, data=data, model=model)


def test_on_a_plate_means_origin_over_origin():
    thing, place = place_of(_env(), [["on", "milk_1", "plate_1"]])
    assert (thing, type(place), place.stands_on) == ("milk_1", OnThing, ("plate_1",))
    np.testing.assert_allclose([*place.target().center, place.target().height], [0.3, 0.4, 0.9])
    assert place.target().rim == pytest.approx(0.03)


def test_in_a_basket_means_below_the_top_of_its_region():
    thing, place = place_of(_env(), [["in", "milk_1", "basket_1_contain_region"]])
    assert (thing, type(place), place.stands_on) == ("milk_1", InRegion, ())
    np.testing.assert_allclose([*place.target().center, place.target().height], [0.1, 0.2, 0.11])


def test_on_a_stove_means_on_top_of_its_region():
    thing, place = place_of(_env(), [["on", "milk_1", "stove_1_cook_region"]])
    assert (thing, type(place), place.stands_on) == ("milk_1", OnRegion, ())
    np.testing.assert_allclose([*place.target().center, place.target().height], [0.1, 0.2, 0.11])


@pytest.mark.parametrize(
    "goals",
    [
        [],
        [["open", "cabinet_1_top_region"]],
        [["on", "plate_1", "main_table_front_region"]],
        [["in", "milk_1", "cabinet_1_top_region"]],
        [["on", "milk_1", "plate_1"], ["on", "basket_1", "plate_1"]],
    ],
)
def test_other_goals_are_refused(goals):
    with pytest.raises(InputError, match="only put one thing on another, on a fixture or in a basket"):
        place_of(_env(), goals)
