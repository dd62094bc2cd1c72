from types import SimpleNamespace

import numpy as np
import pytest

from spatialvla.errors import InputError
from spatialvla.simulation.libero.skills.placing import (
    BEHIND_FRONT,
    InDrawer,
    InRegion,
    OnRegion,
    OnThing,
    Place,
    place_for,
)
from spatialvla.simulation.libero.skills.skill import Goal

TURNED = np.array([[0, -1.0, 0], [1, 0, 0], [0, 0, 1]])
SITE = SimpleNamespace(xpos=np.array([0.1, 0.2, 0.07]), xmat=TURNED.ravel())


def _env() -> SimpleNamespace:
    size = np.array([0.06, 0.05, 0.04])
    parents = {
        "basket_1_contain_region": "basket_1",
        "stove_1_cook_region": "stove_1",
        "main_table_front_region": "main_table",
        "desk_caddy_1_back_region": "desk_caddy_1",
    }
    simulator = SimpleNamespace(
        objects_dict={
            **dict.fromkeys(["milk_1", "milk_2", "plate_1"], SimpleNamespace(contact_geoms=["plate_1_g0"])),
            "basket_1": None,
        },
        obj_body_id={"plate_1": 1},
        get_object=lambda name: SimpleNamespace(contact_geoms=["caddy_g0"]),
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
        geom=lambda name: SimpleNamespace(id=0), geom_aabb=np.array([[0, 0, 0, 0.1, 0.12, 0.02]])
    )
    return SimpleNamespace(simulator=simulator, data=data, model=model)


def _place(*goal: str, sharing: tuple[str, ...] = ()) -> Place:
    env = _env()
    return place_for(env, Goal(env, *goal), sharing)


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


def test_what_shares_a_region_stands_side_by_side():
    both, region = ("milk_1", "milk_2"), "stove_1_cook_region"
    first, second = (_place("on", milk, region, sharing=both).target().center for milk in both)
    np.testing.assert_allclose(second - first, [0.2, 0])  # as wide as a milk
    np.testing.assert_allclose(first + second, [0.2, 0.4])


def test_into_a_narrow_compartment_the_fingers_slide_along_its_narrow_side():
    target = _place("in", "milk_1", "desk_caddy_1_back_region").target()
    np.testing.assert_allclose([*target.center, target.height], [0.1, 0.2, 0.03])
    np.testing.assert_allclose(target.height + target.rim, 0.93)
    assert target.across is not None
    np.testing.assert_array_equal(target.across, [1, 0])


def test_into_a_drawer_means_behind_its_front():
    part = SimpleNamespace(opens_towards=lambda point: np.array([0, 1.0, 0]), geoms=np.array([0]))
    target = InDrawer(_env(), "stove_1_cook_region", part).target()
    np.testing.assert_allclose([*target.center, target.height], [0.1, 0.2 + 0.06 - BEHIND_FRONT, 0.03])


@pytest.mark.parametrize("goal", [("in", "milk_1", "plate_1"), ("in", "milk_1", "stove_1_cook_region")])
def test_other_places_are_refused(goal):
    with pytest.raises(InputError, match=f"cannot put milk_1 in {goal[2]}"):
        _place(*goal)
