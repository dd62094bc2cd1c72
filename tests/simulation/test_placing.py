from types import SimpleNamespace

import numpy as np
import pytest

from spatialvla.errors import InputError
from spatialvla.simulation.libero.skills.placing import InRegion, OnRegion, OnThing, Place, place_for
from spatialvla.simulation.libero.skills.skill import Goal

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
            name: SimpleNamespace(size=size, parent_name=parent, joints=[])
            for name, parent in parents.items()
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


def _place(*goal: str) -> Place:
    env = _env()
    return place_for(env, Goal(env, *goal))


def test_on_a_plate_means_origin_over_origin():
    place = _place("on", "milk_1", "plate_1")
    assert (type(place), place.stands_on) == (OnThing, ("plate_1",))
    np.testing.assert_allclose([*place.target().center, place.target().height], [0.3, 0.4, 0.9])
    assert place.target().rim == pytest.approx(0.03)


def test_in_a_basket_means_below_the_top_of_its_region():
    place = _place("in", "milk_1", "basket_1_contain_region")
    assert (type(place), place.stands_on) == (InRegion, ())
    np.testing.assert_allclose([*place.target().center, place.target().height], [0.1, 0.2, 0.11])


def test_on_a_stove_means_on_top_of_its_region():
    place = _place("on", "milk_1", "stove_1_cook_region")
    assert (type(place), place.stands_on) == (OnRegion, ())
    np.testing.assert_allclose([*place.target().center, place.target().height], [0.1, 0.2, 0.11])


def test_on_a_table_means_on_its_region():
    place = _place("on", "milk_1", "main_table_front_region")
    assert type(place) is OnRegion
    np.testing.assert_allclose(place.target().height, 0.11)


@pytest.mark.parametrize("goal", [("in", "milk_1", "plate_1"), ("in", "milk_1", "stove_1_cook_region")])
def test_other_places_are_refused(goal):
    with pytest.raises(InputError, match=f"cannot put milk_1 in {goal[2]}"):
        _place(*goal)
