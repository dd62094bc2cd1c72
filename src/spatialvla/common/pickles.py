"""Pickles of plain data, read without unpickling them.

`pickle.loads` runs whatever a pickle asks for. Here every name in a pickle becomes an inert node, and only
names that are listed are let in: NumPy's own for arrays and scalars, and the classes of the `Rules`. What a
node means is read off its contents afterwards, so a pickle can neither run code nor change an object of ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from typing import TypeAlias, Union

import numpy as np

from spatialvla.common.budget import Budget, OverBudget
from spatialvla.common.pickle_machine import (
    ARRAY,
    BUFFER,
    DTYPE,
    LARGEST,
    SCALAR,
    BadPickle,
    Machine,
    Made,
    Name,
    Rules,
)

__all__ = ["BadPickle", "Data", "Instance", "Rules", "read_pickle"]

_DEEPEST = 50  # containers in containers
_SPREAD, _SLACK = 4, 2**20  # a pickle may take so many times its own bytes, and these, when it is decoded
_CODE = re.compile(r"[biuf][1248]|[US][1-9]\d{0,5}|O8?")  # of NumPy's types

_Leaf: TypeAlias = bool | int | float | str | bytes | np.ndarray | None
Data: TypeAlias = Union[_Leaf, "Instance", "list[Data]", "tuple[Data, ...]", "dict[str | int, Data]"]
"""What a pickle is read as."""


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
        return _Plain(rules, budget).of(Machine(data, rules).run())
    except BadPickle:
        raise
    except OverBudget as error:
        raise BadPickle(str(error)) from None
    except Exception as error:  # however a broken pickle manages to be wrong
        raise BadPickle(f"it is malformed ({type(error).__name__})") from None


class _Plain:
    """Plain data of one pickle's nodes, each converted once, however often it is referred to."""

    def __init__(self, rules: Rules, budget: Budget) -> None:
        self._rules, self._budget = rules, budget
        self._known: dict[int, Data] = {}
        self._costs: dict[int, tuple[int, int]] = {}
        self._open: set[int] = set()

    def of(self, node: object, depth: int = 0) -> Data:
        if isinstance(node, int) and not -LARGEST <= node < LARGEST:
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
            case Made(name, (), dict() as state) if name in self._rules.classes:
                return Instance(name, {str(key): self.of(item, depth) for key, item in state.items()})
            case Made(name, _, (_, shape, dtype, _, list() as items)) if name == ARRAY:
                return self._objects(items, dtype, shape, depth)
            case Made(name, _, (_, shape, dtype, fortran, raw)) if name == ARRAY:
                return self._array(raw, dtype, shape, "F" if fortran else "C")
            case Made(name, (raw, dtype, shape, order)) if name == BUFFER:
                return self._array(raw, dtype, shape, order)
            case Made(name, (dtype, raw)) if name == SCALAR:
                scalar: Data = self._array(raw, dtype, (), "C").item()
                return scalar
            case Made(name) | Name(name):
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
        if isinstance(node, Made) and node.name == DTYPE:
            match node.args[:1], node.state:
                case (str() as code,), state if _CODE.fullmatch(code) and code[0] in self._rules.arrays:
                    match state:
                        case None:
                            return np.dtype(code)
                        case (_, "<" | ">" | "=" | "|" as order, None, None, None, *_):
                            return np.dtype(code).newbyteorder(order)
        raise BadPickle("it has an array of a type that is not let in")
