"""Mappings: the shipped files, what a bad one says, and what they make of numbers."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_policy import FakePolicy
from running import fake_service

from spatialvla.actions.units import LIBERO
from spatialvla.errors import InputError
from spatialvla.serving.engine.client_interface import ClientInterface
from spatialvla.serving.engine.client_keys import CameraKeys
from spatialvla.serving.engine.client_mapping import ClientMapping
from spatialvla.serving.failures import UnsafeAction
from spatialvla.serving.guard.limits import Limits


@pytest.fixture
def interface() -> Iterator[Callable[..., ClientInterface]]:
    """Makes the interface of a mapping, or of a shipped one, to a policy."""
    engines = []

    def make(mapping: ClientMapping | str, policy: FakePolicy | None = None, **more: Any) -> ClientInterface:
        service = fake_service(policy or FakePolicy(), **more)
        engines.append(service.engine)
        named = mapping if isinstance(mapping, ClientMapping) else ClientMapping.load(mapping)
        return ClientInterface(named, service)

    yield make
    for engine in engines:
        engine.drain(1)


@pytest.mark.parametrize("name", ["plain", "libero", "droid", "bridge"])
def test_shipped_mappings_load_and_name_limits_that_exist(name):
    mapping = ClientMapping.load(name)
    assert mapping.name == name
    if mapping.limits:
        Limits.load(mapping.limits)


def test_a_client_takes_only_the_actions_that_its_mapping_states(tmp_path: Path, interface):
    file = tmp_path / "mine.yaml"
    file.write_text("image: a\nprompt: b\nunits: {meters: 0.05, frame: base}\n")
    interface(str(file), units=LIBERO)
    interface(str(file), units=replace(LIBERO, rotation="euler"))
    for change, said in (
        ({"meters": 1.0}, "meters a unit 1, not 0.05"),
        ({"frame": "gripper"}, "frame gripper"),
    ):
        with pytest.raises(InputError, match=f"mapping 'mine' takes other actions than the policy's: {said}"):
            interface(str(file), units=replace(LIBERO, **change))


def test_grippers_go_to_the_clients_ends(interface):
    actions = np.zeros((2, 7))
    actions[:, 6] = [1, 0]
    assert interface("libero").actions(actions)[:, 6].tolist() == [-1, 1], "robosuite: -1 opens"
    assert interface("droid").actions(actions)[:, 6].tolist() == [0, 1]
    assert interface("bridge").actions(actions)[:, 6].tolist() == [1, 0]
    assert actions[:, 6].tolist() == [1, 0], "not in place"


def test_a_camera_upside_down_is_turned_with_its_depth_and_intrinsics(interface):
    camera = CameraKeys("i", depth="d", intrinsics="k", rotate_180=True)
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    depth = np.arange(8.0).reshape(2, 4)
    intrinsics = [[10, 0, 1.0], [0, 10, 0.5], [0, 0, 1]]
    mapping = interface(ClientMapping("x", camera, "p"))
    seen = mapping.observation({"i": image, "p": "go", "d": depth, "k": intrinsics})
    assert np.array_equal(seen.image, np.rot90(image, 2))
    assert np.array_equal(seen.depth, np.rot90(depth, 2))
    assert seen.intrinsics[:, 2].tolist() == [3.0, 1.5, 1.0]


def test_extrinsics_reach_the_policy_turned_with_the_camera_and_mirrored_as_the_mapping_says(interface):
    image, matrix = np.zeros((2, 4, 3), np.uint8), np.eye(4) + np.eye(4, k=3)
    message = {"i": image, "p": "go", "e": matrix}
    camera = CameraKeys("i", extrinsics="e", mirrored=True)
    plain = interface(ClientMapping("x", camera, "p"))
    seen = plain.observation(message)
    assert seen.mirrored
    np.testing.assert_array_equal(seen.extrinsics, matrix)
    upside_down = replace(camera, rotate_180=True, mirrored=False)
    turned = interface(ClientMapping("x", upside_down, "p")).observation(message)
    assert not turned.mirrored
    np.testing.assert_array_equal(turned.extrinsics, matrix @ np.diag([-1, -1, 1, 1]))
    assert plain.observation({"i": image, "p": "go"}).extrinsics is None
    with pytest.raises(InputError, match=r"'e' must be a 4x4 matrix, got shape \(3, 3\)"):
        plain.observation(message | {"e": np.eye(3)})


def test_a_policy_that_needs_extrinsics_is_served_to_clients_that_send_them(interface):
    placed = FakePolicy(needs_extrinsics=True)
    with pytest.raises(
        InputError, match=r"mapping 'bridge' does not say under which key.* it for image; add extrinsics"
    ):
        interface("bridge", placed)
    for name in ("plain", "libero", "droid"):
        interface(name, placed)


def test_the_gripper_is_found_in_the_state(interface):
    state, libero = np.arange(8.0), interface("libero")
    assert libero.gripper_position({"observation/state": state}).tolist() == [0, 1, 2]
    assert libero.gripper_position({}) is None
    with pytest.raises(InputError, match="NaN"):
        libero.gripper_position({"observation/state": state * np.nan})


def test_limits_are_found_beside_the_mapping_wherever_one_stands(tmp_path: Path, monkeypatch):
    (tmp_path / "robot").mkdir()
    (tmp_path / "robot" / "careful.yaml").write_text("translation: 0.01\n")
    (tmp_path / "careful.yaml").write_text("translation: 9\n")
    (tmp_path / "robot" / "mine.yaml").write_text("image: a\nprompt: b\nlimits: careful.yaml\n")
    monkeypatch.chdir(tmp_path)
    mapping = ClientMapping.load("robot/mine.yaml")
    assert Limits.load(mapping.limits).translation == 0.01


def test_a_workspace_asks_for_a_mapping_that_tells_the_position(tmp_path: Path, interface):
    (tmp_path / "mine.yaml").write_text("image: a\nprompt: b\nstate: s\n")
    mapping = str(tmp_path / "mine.yaml")
    interface(mapping, limits=Limits.load("libero"))
    with pytest.raises(InputError, match="add state and position"):
        interface(mapping, limits=Limits.load("franka"))


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e39])
def test_what_no_client_can_take_is_not_sent(number, interface):
    actions = np.zeros((2, 7))
    actions[1, 6] = number
    with pytest.raises(UnsafeAction, match="not finite"):
        interface("libero").actions(actions)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("image: a", "prompt"),
        ("{image: a, prompt: b, picture: c}", "unknown entries"),
        ("{image: 1, prompt: b}", "must be a string"),
        ("{image: a, prompt: b, rotate_180: 1}", "true or false"),
        ("{image: a, prompt: b, cameras: [wrist]}", "cameras has an entry for each further camera"),
        ("{image: a, prompt: b, cameras: {wrist: w}}", r"cameras\.wrist has an image, and of the entries"),
        ("{image: a, prompt: b, cameras: {wrist: {depth: d}}}", r"cameras\.wrist has an image"),
        ("{image: a, prompt: b, cameras: {wrist: {image: w, state: s}}}", r"cameras\.wrist has an image"),
        (
            "{image: a, prompt: b, cameras: {wrist: {image: w, mirrored: 2}}}",
            r"cameras\.wrist: mirrored must be true",
        ),
        ("{image: a, prompt: b, state: []}", "state is a key, or a list of different ones, of keys"),
        ("{image: a, prompt: b, state: [s, s]}", "state is a key, or a list of different ones, of keys"),
        ("{image: a, prompt: b, state: [1]}", "state must be a string"),
        ("{image: a, prompt: b, state: [0]}", "state is a key, or a list of different ones"),
        ("{image: a, prompt: b, state: [{key: s}]}", "has a key and indices"),
        ("{image: a, prompt: b, state: [{key: s, indices: 1}]}", "has a key and indices"),
        ("{image: a, prompt: b, state: s, states: [{keys: s, names: [x]}]}", "in place of state"),
        ("{image: a, prompt: b, states: {keys: s, names: [x]}}", "states is a list of layouts"),
        ("{image: a, prompt: b, states: [{keys: s}]}", "each of the states has keys and names"),
        ("{image: a, prompt: b, states: [{keys: s, names: [1]}]}", "names must be a string"),
        ("{image: a, prompt: b, position: [0, 1, 2]}", "position is of the key that pose names"),
        ("{image: a, prompt: b, state: [s, t], position: [0, 1, 2]}", "position is of the key that pose"),
        ("{image: a, prompt: b, state: s, rotation: {indices: [3, 4, 5]}}", "rotation needs a position"),
        ("{image: a, prompt: b, pose: p}", "pose needs a position"),
        (
            "{image: a, prompt: b, state: s, position: [0, 1, 2], rotation: [3, 4, 5]}",
            "rotation has indices and a notation",
        ),
        (
            "{image: a, prompt: b, state: s, position: [0, 1, 2], rotation: {indices: [3], notation: none}}",
            "not 'none'",
        ),
        (
            "{image: a, prompt: b, state: s, position: [0, 1, 2], rotation: {indices: [3, 4, 5], notation: "
            "quaternion_xyzw}}",
            "a rotation in quaternion_xyzw has 4 different indices",
        ),
        (
            "{image: a, prompt: b, state: s, position: [0, 1, 2], base: [0, 1]}",
            "base must be x, y, z in meters",
        ),
        ("{image: a, prompt: b, state: s, position: [0, 1]}", "three different indices"),
        ("{image: a, prompt: b, state: s, position: [0, 1, 1]}", "three different indices"),
        ("{image: a, prompt: b, position: [0, 1.7, 2]}", "whole number from 0, got 1.7"),
        ("{image: a, prompt: b, position: [0, -1, 2]}", "whole number from 0, got -1"),
        ("{image: a, prompt: b, horizon: -3}", "horizon must be a whole number"),
        ("{image: a, prompt: b, gripper_open: true}", "gripper_open must be a number"),
        ("{image: a, prompt: b, gripper_open: wide}", "could not convert"),
        ("{image: a, prompt: b, gripper_open: .nan}", "two finite numbers"),
        ("{image: a, prompt: b, gripper_closed: -.inf}", "two finite numbers"),
        ("{image: a, prompt: b, gripper_open: 0}", "two finite numbers"),
        ("{image: a, prompt: b, units: 1}", "units has the entries"),
        ("{image: a, prompt: b, units: {gripper: [0, 1]}}", "units has the entries"),
        ("{image: a, prompt: b, units: {meters: .nan}}", "positive and finite, but meters is nan. See"),
        (
            "{image: a, prompt: b, state: s, position: [0, 1, 2], fingertips: [0, 0, 0.1]}",
            "they need its rotation",
        ),
        ("[]", "no entries"),
        ("{", "no YAML"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, text, sentence):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=sentence):
        ClientMapping.load(str(file))


def test_an_unknown_mapping_names_the_known():
    with pytest.raises(InputError, match=r"choose from bridge, droid, .*libero, plain"):
        ClientMapping.load("aloha")
