"""What pickles of plain data say, by an interpreter of the few opcodes they need, which calls nothing."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

LARGEST = 2**63
"""From where on whole numbers are refused."""

_LONGEST_NAME = 200


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


ARRAY, BUFFER, SCALAR, DTYPE = (
    "numpy._core.multiarray._reconstruct",
    "numpy._core.numeric._frombuffer",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)
"""Names by which NumPy's pickles make arrays, numbers and types."""

_NUMPY = frozenset({ARRAY, BUFFER, SCALAR, DTYPE, "numpy.ndarray"})


@dataclass(frozen=True)
class Name:
    """A name that a pickle says, which was not looked up."""

    full: str


@dataclass
class Made:
    """What a pickle says calling `name` made, which was not called. state: what it was then filled with."""

    name: str
    args: tuple[object, ...]
    state: object = None


class Machine:
    """One pickle's stack and memo. What opcodes do is in `_OPCODES`, in terms of the methods here."""

    def __init__(self, data: bytes, rules: Rules) -> None:
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}
        self._under_marks: list[list[object]] = []
        self._data, self._at, self._rules = data, 0, rules

    def run(self) -> object:
        """The node that the pickle leaves. Raises BadPickle, and whatever a broken pickle leads to."""
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
            isinstance(key, int) and not -LARGEST <= key < LARGEST
        )

    def name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise BadPickle("it has a name that is no text")
        if len(module) + len(name) > _LONGEST_NAME:  # before it is copied, perhaps for the thousandth time
            raise BadPickle(f"it has a name of {len(module) + len(name)} characters")
        full = f"{module}.{name}".replace("numpy.core.", "numpy._core.", 1)  # NumPy 1's spelling
        if full not in _NUMPY and full not in self._rules.classes:
            raise BadPickle(f"it names {full[:100]}, which is not allowed")
        self.stack.append(Name(full))

    def make(self) -> None:
        name, args = self.top(2)
        if not isinstance(name, Name) or not isinstance(args, tuple):
            raise BadPickle("it calls something that has no name")
        self.stack.append(Made(name.full, args))

    def build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if not isinstance(made, Made) or made.state is not None:
            raise BadPickle("it fills something that cannot be filled")
        made.state = state


_OPCODES: Mapping[int, Callable[[Machine], object]] = {
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
