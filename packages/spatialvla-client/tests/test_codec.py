"""The codec: what is packed comes back, openpi's own codec agrees, and hostile bytes are only an error."""

import contextlib
import tracemalloc

import msgpack
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from spatialvla_client.codec import CodecError, pack, unpack

NUMBERS = st.sampled_from(
    ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", ">f4", ">i2"]
)
ARRAYS = NUMBERS.flatmap(
    lambda dtype: arrays(dtype, array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary()
    | ARRAYS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
MESSAGES = st.dictionaries(st.text(), VALUES, max_size=5)


def same(a, b) -> bool:
    if isinstance(a, np.ndarray | np.generic):
        little = a.dtype.newbyteorder("<")
        return a.shape == b.shape and a.astype(little).tobytes() == b.astype(little).tobytes()
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (a != a and b != b)


@given(MESSAGES)
def test_what_is_packed_comes_back(message):
    assert same(message, unpack(pack(message)))


@given(MESSAGES)
def test_openpis_codec_says_the_same(message):
    openpi = pytest.importorskip("openpi_client.msgpack_numpy")
    assert same(message, unpack(openpi.packb(message)))
    assert same(message, openpi.unpackb(pack(message)))


@pytest.mark.parametrize("scalar", [np.float32(0.5), np.int64(-3), np.bool_(True), np.uint8(7)])
def test_scalars(scalar):
    back = unpack(pack({"x": scalar}))["x"]
    assert back == scalar
    assert back.dtype == scalar.dtype


def test_arrays_are_read_only_views():
    array = unpack(pack({"x": np.arange(6).reshape(2, 3)}))["x"]
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1


@pytest.mark.parametrize(
    "value", [np.array([None]), np.array([1j]), np.array(["a"]), np.zeros(2, "V4"), object(), np.float128(1)]
)
def test_what_is_no_number_is_not_sent(value):
    with pytest.raises(CodecError):
        pack({"x": value})


def array_map(**changes) -> bytes:
    content = {b"__ndarray__": True, b"data": bytes(12), b"dtype": "<f4", b"shape": [3]}
    content.update({key.encode(): value for key, value in changes.items()})
    return msgpack.packb({"x": content})


def test_the_map_that_the_next_test_breaks_is_an_array():
    assert np.array_equal(unpack(array_map())["x"], np.zeros(3, np.float32))


@pytest.mark.parametrize(
    "data",
    [
        array_map(dtype="|O"),
        array_map(dtype="O"),
        array_map(dtype="|V4"),
        array_map(dtype="f4,i4"),
        array_map(dtype=b"<f4"),
        array_map(dtype=None),
        array_map(dtype="<U3"),
        array_map(shape=[4]),
        array_map(shape=[-3]),
        array_map(shape=[-1, -3]),
        array_map(shape=[True, 3]),
        array_map(shape=[3.0]),
        array_map(shape=3),
        array_map(shape=[1] * 9),
        array_map(shape=[2**62, 2**62]),
        array_map(shape=[0, 2**62, 2**62], data=b""),
        array_map(data="twelve bytes"),
        array_map(data=None),
        msgpack.packb({"x": {b"__npgeneric__": True, b"dtype": "<f4", b"data": "1"}}),
        msgpack.packb({"x": {b"__npgeneric__": True, b"dtype": "|u1", b"data": 300}}),
        msgpack.packb({"x": {b"__npgeneric__": True, b"dtype": "|O", b"data": 1}}),
        msgpack.packb({"x": msgpack.ExtType(1, b"cos\nsystem\n")}),
        msgpack.packb({"x": msgpack.Timestamp(1)}),
        msgpack.packb({1: 2}),
        msgpack.packb({b"x": 2}),
        msgpack.packb([1]),
        msgpack.packb(None),
        b"",
        b"\xc1",
        b"\x81\xa1x",
        b"\x81\xa1\xff\x01",
        b"\x81\xa1x" + b"\x91" * 10_000 + b"\x01",
        b"\x81\xa1x\xdd\xff\xff\xff\xff",
        b"\x81\xa1x\xdf\xff\xff\xff\xff",
        b"\x81\xa1x\xc6\xff\xff\xff\xff",
        pack({"x": 1}) + b"\x00",
        b"\x80\x04\x95cos\nsystem\n",
    ],
)
def test_hostile_messages_are_refused(data):
    with pytest.raises(CodecError):
        unpack(data)


@given(st.binary(max_size=200))
@example(b"\x81\xa1x\xdd\x00\x00\x03\xff")
def test_any_bytes_are_a_message_or_an_error(data):
    try:
        message = unpack(data)
    except CodecError:
        return
    assert isinstance(message, dict)


@given(MESSAGES, st.data())
@settings(max_examples=100)
def test_damaged_messages_are_a_message_or_an_error(message, data):
    packed = bytearray(pack(message))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(packed[: data.draw(st.integers(0, len(packed)))])
    with contextlib.suppress(CodecError):
        assert isinstance(unpack(damaged), dict)


@pytest.mark.parametrize(
    "bomb",
    [
        b"\x82\xa1x\xdc\x03\xff" + b"\xdc\x03\xff" * 500,  # each level announces 1,023 entries
        b"\x81\xa1x" + b"\xdc\x04\x00" * 2 + b"\x80" * 2**20,  # a million empty maps
        b"\x81\xa1x\xdc\x04\x00"
        + (b"\xdc\x04\x00" + b"\xcd\x12\x34" * 1024) * 600,  # integers of three bytes
    ],
)
def test_a_message_makes_no_more_memory_than_its_due(bomb):
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            unpack(bomb)
        assert tracemalloc.get_traced_memory()[1] < 24 * 2**20
    finally:
        tracemalloc.stop()
