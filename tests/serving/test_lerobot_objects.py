"""LeRobot's pickles: read as what they are, refused whatever else they are, and written so that LeRobot reads them."""

import contextlib
import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from lerobot_stand_in import HELPERS, TimedAction, TimedObservation, lerobot

from spatialvla.errors import InputError
from spatialvla.serving.lerobot.objects import read_object
from spatialvla.serving.lerobot.reply import actions_pickle
from spatialvla.serving.lerobot.wire import ObservationPart

GOLDENS = Path(__file__).parents[1] / "goldens" / "lerobot"
__all__ = ["lerobot"]  # a fixture
pytestmark = pytest.mark.usefixtures("lerobot")


def golden() -> bytes:
    """The pickle in the observation that LeRobot's client sent."""
    return ObservationPart.FromString((GOLDENS / "SendObservations_0.bin").read_bytes()).data


numbers = st.one_of(st.floats(width=64), st.integers(-(2**31), 2**31 - 1), st.booleans())
images = st.one_of(
    arrays(dtype, array_shapes(min_dims=0, max_dims=3, max_side=5))
    for dtype in (np.uint8, np.uint16, np.float32, np.float64, np.int64, np.bool_)
)
contents = st.dictionaries(st.text(max_size=8), st.one_of(numbers, images, st.text(max_size=20)), max_size=6)


def test_the_observation_of_the_unmodified_client_is_read() -> None:
    seen = read_object(golden(), "TimedObservation")
    assert seen["timestep"] == 0
    assert seen["must_go"] is True
    content = dict(seen["observation"])
    image = content.pop("front")
    assert image.shape == (16, 16, 3)
    assert image.dtype == np.uint8
    assert content.pop("task") == "pick up the bowl"
    assert content == dict.fromkeys(("x", "y", "z", "roll", "pitch", "yaw"), 0.0)


@given(contents, st.sampled_from([2, 4, 5]))
def test_numbers_text_and_arrays_come_out_as_they_went_in(content: dict[str, Any], protocol: int) -> None:
    if protocol == 2 and any(isinstance(entry, np.ndarray | np.generic) for entry in content.values()):
        protocol = (
            4  # protocol 2 spells bytes as a call of codecs, which is not let in; Python 3 sends 4 or 5
        )
    sent = TimedObservation(1.5, 7, content)
    seen = read_object(pickle.dumps(sent, protocol), "TimedObservation")
    assert (seen["timestamp"], seen["timestep"], seen["must_go"]) == (1.5, 7, False)
    for key, entry in content.items():
        got = seen["observation"][key]
        assert type(got) is type(entry)
        np.testing.assert_array_equal(got, entry)
        if isinstance(entry, np.ndarray):
            assert got.dtype == entry.dtype
            assert got.flags.writeable


@pytest.mark.parametrize("entry", [np.float32(2.5), np.int64(7), np.bool_(True)])
def test_numpys_numbers_come_out_as_numbers(entry: np.generic) -> None:
    seen = read_object(pickle.dumps(TimedObservation(1.0, 0, {"joint": entry})), "TimedObservation")
    assert seen["observation"]["joint"] == entry.item()


@pytest.mark.parametrize(
    "array",
    [np.arange(12.0).reshape(3, 4).T, np.arange(6, dtype=">f4"), np.arange(24).reshape(4, 6)[::2, ::3]],
    ids=["Fortran's order", "big-endian", "strided"],
)
@pytest.mark.parametrize("protocol", [4, 5])
def test_arrays_of_any_layout_keep_their_numbers(array: np.ndarray, protocol: int) -> None:
    seen = read_object(pickle.dumps(TimedObservation(1.0, 0, {"a": array}), protocol), "TimedObservation")
    np.testing.assert_array_equal(seen["observation"]["a"], array)


# --------------------------------------------------------------------- hostile


@pytest.mark.parametrize(
    "hostile",
    [torch.zeros(2), np.array([{}], object), np.array(["text"]), {1: "a key that is no text"}, Path("x")],
    ids=lambda hostile: repr(hostile)[:40],
)
def test_whatever_is_no_number_text_or_array_is_refused(hostile: Any) -> None:
    with pytest.raises(InputError, match=r"^The message cannot be read as a TimedObservation .*: it .*\.$"):
        read_object(pickle.dumps(TimedObservation(1.0, 0, {"front": hostile})), "TimedObservation")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04N.",
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04" + b"]" * 30_000 + b".",
        pickle.dumps({"timestep": 1}),
        f"c{HELPERS}\nTimedObservation\n.".encode(),
        f"c{HELPERS}\nTimedObservation\n(K\x01tR.".encode(),
        f"\x80\x02c{HELPERS}\nTimedObservation\n)\x81]b.".encode("latin-1"),
        f"\x80\x02c{HELPERS}\nRemotePolicyConfig\n)\x81}}b.".encode("latin-1"),
    ],
)
def test_whatever_is_no_observation_is_refused_in_a_sentence(data: bytes) -> None:
    with pytest.raises(InputError, match=r"^The message"):
        read_object(data, "TimedObservation")


@given(st.data())
def test_a_damaged_observation_is_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    raw = bytearray(golden())
    for _ in range(data.draw(st.integers(1, 4))):
        index = data.draw(st.integers(0, len(raw) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "remove"])):
            case "flip":
                raw[index] = data.draw(st.integers(0, 255))
            case "cut":
                del raw[max(index, 1) :]
            case "insert":
                raw[index:index] = data.draw(st.binary(max_size=8))
            case "remove":
                del raw[index : index + 3]
        if not raw:
            return
    with contextlib.suppress(InputError):
        read_object(bytes(raw), "TimedObservation")


# --------------------------------------------------------------------- replies


def test_replies_unpickle_to_lerobots_own_classes() -> None:
    actions = np.random.default_rng(0).normal(size=(4, 7))
    got = pickle.loads(actions_pickle(actions, [1.0, 1.5, 2.0, 2.5], [3, 4, 5, 6]))
    assert [type(action) for action in got] == [TimedAction] * 4
    assert [(action.timestamp, action.timestep) for action in got] == [(1.0, 3), (1.5, 4), (2.0, 5), (2.5, 6)]
    assert all(action.action.dtype == torch.float32 for action in got)
    assert torch.equal(torch.stack([action.action for action in got]), torch.tensor(actions).float())


def test_replies_name_lerobot_and_torch_and_nothing_of_ours() -> None:
    data = actions_pickle(np.zeros((2, 7)), [0.0, 1.0], [1, 2])
    named = {
        argument for opcode, argument, _ in pickletools.genops(io.BytesIO(data)) if opcode.name == "GLOBAL"
    }
    assert named == {f"{HELPERS} TimedAction", "torch tensor"}
