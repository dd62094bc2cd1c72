"""Pickles of plain data, read by an interpreter of the few opcodes they need, which calls nothing.

`pickle.loads` runs whatever a pickle asks for. Here every name in a pickle becomes an inert node, and only
names that are listed are let in: NumPy's own for arrays and scalars, and the classes of the `Rules`. What a
node means is read off its contents afterwards, so a pickle can neither run code nor change an object of ours.
"""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TypeAlias, Union

import numpy as np

from spatialvla.common.budget import Budget, OverBudget

_DEEPEST = 50  # containers in containers
_LARGEST = 2**63
_LONGEST_NAME = 200
_SPREAD, _SLACK = 4, 2**20  # a pickle may take so many times its own bytes, and these, when it is decoded
_CODE = re.compile(r"[biuf][1248]|[US][1-9]\d{0,5}|O8?")  # of NumPy's types

_Leaf: TypeAlias = bool | int | float | str | bytes | np.ndarray | None
Data: TypeAlias = Union[_Leaf, "Instance", "list[Data]", "tuple[Data, ...]", "dict[str | int, Data]"]
"""What a pickle is read as."""


class BadPickle(ValueError):
    """Why a pickle is not read, as the end of a sentence: "it names os.system, which is not allowed"."""


@dataclass(frozen=True)
class Rules:
    """What pickles of one kind may hold beside numbers, text, bytes, lists, tuples, dictionaries and arrays.

    opcodes: the most that one may have, and the most values, those that it refers to several times counted
    each time. classes: full names, such as "package.module.Class", of those whose
    objects are let in. keys: the types of a dictionary's keys. arrays: NumPy's letters of what arrays hold,
    of "biufUSO"; an array of objects ("O") is read as a list, or as its only object where it has no axes.
    """

    opcodes: int
    classes: frozenset[str] = frozenset()
    keys: tuple[type, ...] = (str,)
    arrays: str = "biuf"


@dataclass(frozen=True)
class Instance:
    """An object of a class that the rules let in, made by calling nothing. state: its attributes by name."""

    name: str
    state: dict[str, Data]


def read_pickle(data: bytes, rules: Rules) -> Data:
    """A pickle of protocol 2 to 5 as plain data; arrays are writable and in native byte order.

    Time and memory are bounded by the rules and by the size of `data`, also for whoever goes through the
    result: what a pickle refers to many times counts each time.
    Raises BadPickle for whatever else it holds.
    """
    try:
        budget = Budget(rules.opcodes, _SPREAD * len(data) + _SLACK)
        return _Plain(rules, budget).of(_Machine(data, rules).run())
    except BadPickle:
        raise
    except OverBudget as error:
        raise BadPickle(str(error)) from None
    except Exception as error:  # however a broken pickle manages to be wrong
        raise BadPickle(f"it is malformed ({type(error).__name__})") from None


# ---------------------------------------------------------------- the interpreter

_ARRAY, _BUFFER, _SCALAR, _DTYPE = (
    "numpy._core.multiarray._reconstruct",
    "numpy._core.numeric._frombuffer",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)
_NUMPY = frozenset({_ARRAY, _BUFFER, _SCALAR, _DTYPE, "numpy.ndarray"})


@dataclass(frozen=True)
class _Name:
    full: str


@dataclass
class _Made:
    """What a pickle says calling `name` made, which was not called. state: what it was then filled with."""

    name: str
    args: tuple[object, ...]
    state: object = None


class _Machine:
    """One pickle's stack and memo. What opcodes do is in `_OPCODES`, in terms of the methods here."""

    def __init__(self, data: bytes, rules: Rules) -> None:
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}
        self._under_marks: list[list[object]] = []
        self._data, self._at, self._rules = data, 0, rules

    def run(self) -> object:
        stop = pickle.STOP[0]
        for _ in range(self._rules.opcodes):
            code = self._data[self._at]
            self._at += 1
            if code == stop:
                (result,) = self.stack
                return result
            act = _OPCODES.get(code)
            if act is None:
                raise BadPickle(f"it uses the opcode {code:#04x}, which plain data does not need")
            act(self)
        raise BadPickle(f"it has more than {self._rules.opcodes} parts")

    def bytes(self, count: int) -> bytes:
        found = self._data[self._at : self._at + count]
        if len(found) < count:
            raise BadPickle("it ends too early")
        self._at += count
        return found

    def push(self, value: object) -> None:
        self.stack.append(value)

    def byte(self) -> int:
        found = self._data[self._at]
        self._at += 1
        return found

    def size(self, width: int) -> int:
        """An unsigned number of so many bytes."""
        return int.from_bytes(self.bytes(width), "little")

    def integer(self, width: int) -> int:
        return int.from_bytes(self.bytes(width), "little", signed=True)

    def float(self) -> float:
        (value,) = struct.unpack(">d", self.bytes(8))
        return float(value)

    def text(self, size: int) -> str:
        return self.bytes(size).decode("utf-8", "surrogatepass")

    def line(self) -> str:
        end = self._data.index(b"\n", self._at)
        return self.bytes(end + 1 - self._at)[:-1].decode()

    def remember(self, slot: int) -> None:
        self.memo[slot] = self.stack[-1]

    def mark(self) -> None:
        self._under_marks.append(self.stack)
        self.stack = []

    def to_mark(self) -> list[object]:
        found, self.stack = self.stack, self._under_marks.pop()
        return found

    def top(self, count: int) -> list[object]:
        return [self.stack.pop() for _ in range(count)][::-1]

    def append(self, values: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise BadPickle("it appends to something that is no list")
        target.extend(values)

    def set_items(self, values: list[object]) -> None:
        target, keys = self.stack[-1], values[::2]
        # Keys are checked before they are hashed: hashing tuples of tuples may never end, and numbers of any
        # length can all have one hash.
        if not isinstance(target, dict) or not all(self._is_key(key) for key in keys):
            kinds = " or ".join({str: "text", int: "integers"}[kind] for kind in self._rules.keys)
            raise BadPickle(f"it has a dictionary whose keys are no {kinds}")
        target.update(zip(keys, values[1::2], strict=True))

    def _is_key(self, key: object) -> bool:
        return isinstance(key, self._rules.keys) and not (
            isinstance(key, int) and not -_LARGEST <= key < _LARGEST
        )

    def name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise BadPickle("it has a name that is no text")
        if len(module) + len(name) > _LONGEST_NAME:  # before it is copied, perhaps for the thousandth time
            raise BadPickle(f"it has a name of {len(module) + len(name)} characters")
        full = f"{module}.{name}".replace("numpy.core.", "numpy._core.", 1)  # NumPy 1's spelling
        if full not in _NUMPY and full not in self._rules.classes:
            raise BadPickle(f"it names {full[:100]}, which is not allowed")
        self.stack.append(_Name(full))

    def make(self) -> None:
        name, args = self.top(2)
        if not isinstance(name, _Name) or not isinstance(args, tuple):
            raise BadPickle("it calls something that has no name")
        self.stack.append(_Made(name.full, args))

    def build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if not isinstance(made, _Made) or made.state is not None:
            raise BadPickle("it fills something that cannot be filled")
        made.state = state


_OPCODES: Mapping[int, Callable[[_Machine], object]] = {
    code[0]: act
    for code, act in {
        pickle.PROTO: lambda m: m.bytes(1),
        pickle.FRAME: lambda m: m.bytes(8),
        pickle.NONE: lambda m: m.push(None),
        pickle.NEWTRUE: lambda m: m.push(True),
        pickle.NEWFALSE: lambda m: m.push(False),
        pickle.BININT1: lambda m: m.push(m.byte()),
        pickle.BININT2: lambda m: m.push(m.size(2)),
        pickle.BININT: lambda m: m.push(m.integer(4)),
        pickle.LONG1: lambda m: m.push(m.integer(m.byte())),
        pickle.BINFLOAT: lambda m: m.push(m.float()),
        pickle.SHORT_BINUNICODE: lambda m: m.push(m.text(m.byte())),
        pickle.BINUNICODE: lambda m: m.push(m.text(m.size(4))),
        pickle.SHORT_BINBYTES: lambda m: m.push(m.bytes(m.byte())),
        pickle.BINBYTES: lambda m: m.push(m.bytes(m.size(4))),
        pickle.BINBYTES8: lambda m: m.push(m.bytes(m.size(8))),
        pickle.BYTEARRAY8: lambda m: m.push(m.bytes(m.size(8))),
        pickle.EMPTY_LIST: lambda m: m.push([]),
        pickle.EMPTY_DICT: lambda m: m.push({}),
        pickle.EMPTY_TUPLE: lambda m: m.push(()),
        pickle.TUPLE1: lambda m: m.push(tuple(m.top(1))),
        pickle.TUPLE2: lambda m: m.push(tuple(m.top(2))),
        pickle.TUPLE3: lambda m: m.push(tuple(m.top(3))),
        pickle.MARK: lambda m: m.mark(),
        pickle.TUPLE: lambda m: m.push(tuple(m.to_mark())),
        pickle.APPEND: lambda m: m.append(m.top(1)),
        pickle.APPENDS: lambda m: m.append(m.to_mark()),
        pickle.SETITEM: lambda m: m.set_items(m.top(2)),
        pickle.SETITEMS: lambda m: m.set_items(m.to_mark()),
        pickle.MEMOIZE: lambda m: m.remember(len(m.memo)),
        pickle.BINPUT: lambda m: m.remember(m.byte()),
        pickle.LONG_BINPUT: lambda m: m.remember(m.size(4)),
        pickle.BINGET: lambda m: m.push(m.memo[m.byte()]),
        pickle.LONG_BINGET: lambda m: m.push(m.memo[m.size(4)]),
        pickle.GLOBAL: lambda m: m.name(m.line(), m.line()),
        pickle.STACK_GLOBAL: lambda m: m.name(*m.top(2)),
        pickle.REDUCE: lambda m: m.make(),
        pickle.NEWOBJ: lambda m: m.make(),
        pickle.BUILD: lambda m: m.build(),
    }.items()
}


# ------------------------------------------------------------- what nodes mean


class _Plain:
    """Plain data of one pickle's nodes, each converted once, however often it is referred to."""

    def __init__(self, rules: Rules, budget: Budget) -> None:
        self._rules, self._budget = rules, budget
        self._known: dict[int, Data] = {}
        self._costs: dict[int, tuple[int, int]] = {}
        self._open: set[int] = set()

    def of(self, node: object, depth: int = 0) -> Data:
        if isinstance(node, int) and not -_LARGEST <= node < _LARGEST:
            raise BadPickle("it has a number of more than 64 bits")
        if node is None or isinstance(node, bool | int | float | str | bytes):
            self._budget.spend(1, len(node) if isinstance(node, str | bytes) else 0)
            return node
        key = id(node)
        if depth > _DEEPEST or key in self._open:
            raise BadPickle("it has containers in containers without end")
        if key in self._known:
            self._budget.spend(*self._costs[key])
            return self._known[key]
        steps, size = self._budget.spent
        self._budget.spend(1)
        self._open.add(key)
        self._known[key] = self._converted(node, depth + 1)
        self._open.remove(key)
        self._costs[key] = self._budget.spent[0] - steps, self._budget.spent[1] - size
        return self._known[key]

    def _converted(self, node: object, depth: int) -> Data:
        match node:
            case list():
                return [self.of(item, depth) for item in node]
            case tuple():
                return tuple([self.of(item, depth) for item in node])
            case dict():
                return {key: self.of(item, depth) for key, item in node.items()}
            case _Made(name, (), dict() as state) if name in self._rules.classes:
                return Instance(name, {str(key): self.of(item, depth) for key, item in state.items()})
            case _Made(name, _, (_, shape, dtype, _, list() as items)) if name == _ARRAY:
                return self._objects(items, dtype, shape, depth)
            case _Made(name, _, (_, shape, dtype, fortran, raw)) if name == _ARRAY:
                return self._array(raw, dtype, shape, "F" if fortran else "C")
            case _Made(name, (raw, dtype, shape, order)) if name == _BUFFER:
                return self._array(raw, dtype, shape, order)
            case _Made(name, (dtype, raw)) if name == _SCALAR:
                scalar: Data = self._array(raw, dtype, (), "C").item()
                return scalar
            case _Made(name) | _Name(name):
                raise BadPickle(f"it has a {name} where data belongs")
        raise BadPickle("it has something that is no data")

    def _array(self, raw: object, dtype: object, shape: object, order: object) -> np.ndarray:
        kind = self._dtype(dtype)
        if (
            kind.hasobject
            or not isinstance(raw, bytes)
            or not isinstance(shape, tuple)
            or len(shape) > 4
            or not all(type(size) is int and size >= 0 for size in shape)
            or prod(shape) * kind.itemsize != len(raw)
            or order not in ("C", "F")
        ):
            raise BadPickle("it has an array whose bytes do not fit its shape")
        self._budget.spend(0, len(raw))
        array = np.frombuffer(raw, kind).reshape(shape, order="C" if order == "C" else "F")
        return array.astype(kind.newbyteorder("="))

    def _objects(self, items: list[object], dtype: object, shape: object, depth: int) -> Data:
        if not self._dtype(dtype).hasobject:
            raise BadPickle("it has an array of numbers that are not given as bytes")
        found = [self.of(item, depth) for item in items]
        return found[0] if shape == () and len(found) == 1 else found

    def _dtype(self, node: object) -> np.dtype:
        if isinstance(node, _Made) and node.name == _DTYPE:
            match node.args[:1], node.state:
                case (str() as code,), state if _CODE.fullmatch(code) and code[0] in self._rules.arrays:
                    match state:
                        case None:
                            return np.dtype(code)
                        case (_, "<" | ">" | "=" | "|" as order, None, None, None, *_):
                            return np.dtype(code).newbyteorder(order)
        raise BadPickle("it has an array of a type that is not let in")
