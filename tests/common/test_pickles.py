"""Pickles read without unpickling: what they hold comes out, and whatever else they try is refused at no cost."""

import contextlib
import os
import pickle
import pickletools
import struct
import subprocess
import tracemalloc
from collections import OrderedDict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spatialvla.common.pickles import BadPickle, Instance, Rules, read_pickle

STRICT = Rules(opcodes=20_000)
WIDE = Rules(opcodes=1_000_000, keys=(str, int), arrays="biufUSO")
either = pytest.mark.parametrize("rules", [STRICT, WIDE], ids=["strict", "wide"])
CONTENT = {
    "a": [1, 2.5, "x", None, True, b"raw", np.float64(3.5), np.int64(-7)],
    "deep": (np.arange(6).reshape(2, 3), np.array([1.5, -2.0], ">f4"), np.array([True])),
    "Fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(24).reshape(4, 6)[::2, ::3],
    "empty": np.zeros((0, 3)),
}


def equal(mine: Any, original: Any) -> bool:
    if isinstance(original, np.ndarray):
        same_type = mine.dtype == original.dtype.newbyteorder("=") and mine.flags.writeable
        return same_type and np.array_equal(mine, original)
    if isinstance(original, dict):
        return mine.keys() == original.keys() and all(equal(mine[key], original[key]) for key in original)
    if isinstance(original, list | tuple):
        return type(mine) is type(original) and all(map(equal, mine, original))
    return bool(mine == original)


@either
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_plain_data_comes_back(rules, protocol):
    assert equal(read_pickle(pickle.dumps(CONTENT, protocol), rules), CONTENT)


def test_the_wide_rules_add_text_objects_and_integer_keys():
    content = {5: np.array(["ab", "c"]), "o": np.array([1, "two", None], object), "one": np.array({}, object)}
    found = read_pickle(pickle.dumps(content), WIDE)
    assert found[5].tolist() == ["ab", "c"]
    assert (found["o"], found["one"]) == ([1, "two", None], {})
    for entry in content.values():
        with pytest.raises(BadPickle, match="of a type that is not let in"):
            read_pickle(pickle.dumps(entry), STRICT)
    with pytest.raises(BadPickle, match="keys are no text"):
        read_pickle(pickle.dumps({5: 1}), STRICT)
    with pytest.raises(BadPickle, match="keys are no text or integers"):
        read_pickle(pickle.dumps({2.5: 1}), WIDE)


def test_numpy_1_spelled_its_names_otherwise():
    data = pickle.dumps(np.arange(3), 3)
    assert b"numpy._core." in data
    assert equal(read_pickle(data.replace(b"numpy._core.", b"numpy.core."), STRICT), np.arange(3))


class Point:
    def __init__(self, x):
        self.x = x


def test_objects_of_a_class_that_is_let_in_come_as_their_attributes():
    name = f"{Point.__module__}.Point"
    data = pickle.dumps([Point(np.arange(3))])
    (found,) = read_pickle(data, Rules(opcodes=100, classes=frozenset({name})))
    assert isinstance(found, Instance)
    assert found.name == name
    assert equal(found.state, {"x": np.arange(3)})
    with pytest.raises(BadPickle, match=r"it names .*Point, which is not allowed"):
        read_pickle(data, STRICT)


# --------------------------------------------------------------------- hostile


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self._call = function, arguments

    def __reduce__(self):
        return self._call


def touching(path):
    """Pickles that would leave a file behind."""
    return {
        "a call": pickle.dumps(Calls(Path.touch, path)),
        "eval": pickle.dumps(Calls(eval, f"open({str(path)!r}, 'w')")),
        "an old opcode": f"cos\nsystem\n(Vtouch {path}\ntR.".encode(),
        "inside of an array": pickle.dumps(np.array({"x": [Calls(Path.touch, path)]}, dtype=object)),
        "a nested name": pickle.dumps(Calls(np.save, path, 1)),
    }


@either
@pytest.mark.parametrize("kind", touching(Path("x")))
def test_a_pickle_cannot_call_anything(rules, tmp_path, kind):
    target = tmp_path / "touched"
    data = touching(target)[kind]
    pickle.loads(data)  # the pickle itself works
    assert target.exists() or kind == "a nested name"
    target.unlink(missing_ok=True)
    with pytest.raises(BadPickle, match=r"^it names .*, which is not allowed$"):
        read_pickle(data, rules)
    assert not target.exists()


@either
@pytest.mark.parametrize(
    "hostile",
    [
        Calls(os.system, "true"),
        Calls(getattr, [], "append"),
        Calls(subprocess.Popen, ["true"]),
        Calls(np.load, "x", None, True),
        Calls(bytearray, 10**12),
        datetime(2026, 1, 1),
        OrderedDict(a=1),
        {1, 2},
        np.zeros(2, "M8[s]"),
        np.zeros(2, complex),
        np.zeros(2, [("a", "f4")]),
        {(1, 2): "a key that is a tuple"},
        10**400,
        2**63,
    ],
    ids=lambda hostile: repr(hostile)[:40],
)
def test_whatever_is_no_plain_data_is_refused(rules, hostile):
    with pytest.raises(BadPickle):
        read_pickle(pickle.dumps({"x": hostile}), rules)


def text(value):
    return pickle.BINUNICODE + struct.pack("<I", len(value)) + value.encode()


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def array(dtype, data, count=1, core="_core"):
    """A pickle of an array with this state, by hand."""
    made = name(f"numpy.{core}.multiarray", "_reconstruct") + b"(" + name("numpy", "ndarray")
    return made + b"(K\x00tC\x01btR(K\x01K" + bytes([count]) + b"\x85" + dtype + b"\x89" + data + b"tb."


def dtype(code, order="<", fields=b"NNN"):
    return (
        name("numpy", "dtype")
        + b"("
        + text(code)
        + b"\x89\x88tR(K\x03"
        + text(order)
        + fields
        + b"K\x08K\x01K\x00tb"
    )


RAW = b"C\x08aaaaaaaa"
FIELDS = (
    b"N(" + text("a") + b"t}" + text("a") + b"(" + name("numpy", "dtype") + b"(" + text("O8") + b"tRK\x00ts"
)
MALFORMED = {
    "pointers instead of objects": array(dtype("O8", "|"), RAW),
    "a compound type that hides pointers": array(dtype("V8", "|", FIELDS), RAW),
    "a compound type under another name": array(dtype("f8", "<", FIELDS), RAW),
    "an array that is too short": array(dtype("f8"), RAW, 100),
    "an array without a type": array(b"N", RAW),
    "an array of numbers in a list": array(dtype("f8"), b"]"),
    "a type that is none": name("numpy", "dtype") + b"(" + text("no such type") + b"tR.",
    "a type without an end": array(dtype("U999999999999"), RAW),
    "a scalar of objects": name("numpy._core.multiarray", "scalar") + b"(" + dtype("O8") + RAW + b"tR.",
    "a state for a function": name("numpy._core.multiarray", "_reconstruct") + b"}b.",
    "a state for a list": b"\x80\x02]]b.",
    "a state for the second time": array(dtype("f8"), RAW)[:-1] + b"}b.",
    "a call of what is no function": name("numpy", "ndarray") + b"(J\xff\xff\xff\x7ftR.",
    "a call of a list": b"\x80\x02]]R.",
    "a name alone": name("numpy", "ndarray") + b".",
    "a name with a dot": b"\x80\x04\x8c\x05numpy\x8c\x06os.abc\x93.",
    "a name that is a number": b"\x80\x04K\x01K\x02\x93.",
    "a dictionary in itself": b"\x80\x04}\x94\x8c\x01ah\x00s.",
    "a list in itself": b"\x80\x04]\x94h\x00a.",
    "an array in itself": array(dtype("O8", "|"), b"]q\x00h\x00a"),
    "containers without end": b"\x80\x04" + b"]" * 200 + b"a" * 199 + b".",
    "a persistent name": b"P1\n.",
    "an extension": b"\x80\x04\x82\x01.",
    "an instance of old": b"(inumpy\nndarray\n.",
    "a dictionary of odd items": b"\x80\x02}(" + text("a") + b"u.",
    "an entry of no list": b"\x80\x02}K\x01a.",
    "marks alone": b"\x80\x02(((((((((.",
    "tuples of nothing": b"\x80\x02\x85\x86\x87.",
    "what was put below a mark": b"\x80\x02K\x01(\x85.",
    "two results": b"\x80\x02NN.",
    "a large slot": b"\x80\x02r\xff\xff\xff\x7f.",
    "a slot never filled": b"\x80\x02h\x07.",
    "more bytes than there are": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fxx.",
    "no end": b"\x80\x04N",
    "cut off": pickle.dumps({"x": list(range(100))})[:60],
    "nothing": b"",
}


@either
@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_pickles_are_refused(rules, kind):
    with pytest.raises(BadPickle, match=r"^it "):
        read_pickle(MALFORMED[kind], rules)


def test_the_pickles_made_by_hand_would_be_read_if_they_were_right():
    expected = np.frombuffer(b"aaaaaaaa", "<f8")
    for core in ("core", "_core"):
        assert equal(read_pickle(array(dtype("f8"), RAW, core=core), STRICT), expected)
        assert equal(pickle.loads(array(dtype("f8"), RAW, core=core)), expected)


def test_a_pickle_of_too_many_parts_is_refused():
    data = b"\x80\x04](" + b"N" * 30_000 + b"e."
    assert len(read_pickle(data, WIDE)) == 30_000
    with pytest.raises(BadPickle, match="more than 20000 parts"):
        read_pickle(data, STRICT)


@either
def test_a_key_that_doubles_itself_is_not_hashed(rules):
    """Forty tuples, each twice the last one, whose hash would never end."""
    doubled = b"".join(b"q%ch%c\x86" % (slot, slot) for slot in range(40))
    for data in (b"\x80\x02}(N" + doubled + b"Nu.", b"\x80\x02N" + doubled + b"N\x93."):
        with pytest.raises(BadPickle, match=r"keys are no text|a name that is no text"):
            read_pickle(data, rules)


@either
def test_a_tuple_that_doubles_itself_counts_as_all_that_it_stands_for(rules):
    def doubled(levels):
        return b"\x80\x02N" + b"".join(b"q%ch%c\x86" % (slot, slot) for slot in range(levels)) + b"."

    found, depth = read_pickle(doubled(10), rules), 0
    while found is not None:
        assert found[0] is found[1]
        found, depth = found[0], depth + 1
    assert depth == 10
    with pytest.raises(BadPickle, match=r"more than \d+ parts, those that it repeats counted each time"):
        read_pickle(doubled(40), rules)


@either
def test_bytes_that_are_referred_to_often_count_each_time(rules):
    """One megabyte, as the content of a thousand arrays: each its own, or one that is referred to again."""
    size = struct.pack("<i", 2**20)

    def buffer(raw, kind):
        shape = b"J" + size + b"\x85"
        return name("numpy._core.numeric", "_frombuffer") + b"(" + raw + kind + shape + text("C") + b"tR"

    first = buffer(b"B" + size + bytes(2**20) + b"\x94", dtype("u1", "|") + b"\x94")

    def again(times):
        return b"\x80\x04](" + first + b"\x94" + b"h\x02" * times + b"e."

    own = b"\x80\x04](" + first + buffer(b"h\x00", b"h\x01") * 1000 + b"e."
    tracemalloc.start()
    for data in (own, again(1000)):
        with pytest.raises(BadPickle, match=r"takes more than \d+ bytes when it is decoded"):
            read_pickle(data, rules)
    few = read_pickle(again(3), rules)
    assert all(entry is few[0] for entry in few)
    assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    tracemalloc.stop()


@either
def test_an_array_that_claims_more_than_it_brings_is_refused(rules):
    data = pickle.dumps(np.zeros((4, 4), np.uint8))
    claimed = data.replace(b"K\x04K\x04\x86", b"K\xffK\xff\x86")
    assert claimed != data
    with pytest.raises(BadPickle, match="do not fit its shape"):
        read_pickle(claimed, rules)


opcodes = st.sampled_from([op.code.encode("latin-1") for op in pickletools.opcodes])


@given(st.lists(st.one_of(opcodes, st.binary(max_size=4), st.just(b"numpy\nndarray\n")), max_size=60))
def test_any_row_of_opcodes_is_read_or_refused_and_nothing_else(parts):
    for rules in (STRICT, WIDE):
        with contextlib.suppress(BadPickle):
            read_pickle(b"\x80\x04" + b"".join(parts) + b".", rules)


def test_one_pickle_leaves_nothing_behind_for_the_next():
    with pytest.raises(BadPickle):
        read_pickle(MALFORMED["a state for a function"], STRICT)
    assert equal(read_pickle(pickle.dumps(np.arange(3)), STRICT), np.arange(3))
