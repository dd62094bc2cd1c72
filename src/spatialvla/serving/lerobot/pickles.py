"""LeRobot's pickles, read without unpickling: an interpreter of the few opcodes they need, that calls nothing.

Names in a pickle become inert `Made` nodes, and only those in `KNOWN` are let in; what a node means is read off its
contents afterwards. So a message can neither run code nor change an object of ours.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from spatialvla.errors import InputError

HELPERS = "lerobot.async_inference.helpers"
"""The module of LeRobot's classes."""

_MOST_OPCODES = 20_000  # a message of a robot with a hundred joints has a tenth of it
_DTYPE_KINDS = "biuf"
_LARGEST = 2**63

KNOWN = frozenset(
    {
        (HELPERS, "RemotePolicyConfig"),
        (HELPERS, "TimedObservation"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        *(
            (f"numpy.{core}.{module}", name)
            for core in ("core", "_core")
            for module, name in (
                ("multiarray", "_reconstruct"),
                ("multiarray", "scalar"),
                ("numeric", "_frombuffer"),
            )
        ),
    }
)
"""Every module and name a message may hold; the two spellings of NumPy are those of its versions 1 and 2."""


@dataclass(frozen=True)
class _Name:
    module: str
    name: str


@dataclass
class Made:
    """What the message says was made by calling `name`, which was not called. state: what it was then filled with."""

    name: str
    args: tuple[Any, ...]
    state: Any = None


class _Mark:
    pass


_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"})
_STRINGS = frozenset({"SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"})
_VALUES = _NUMBERS | _STRINGS
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read(data: bytes) -> Any:
    """A pickle of protocol 2 to 5 as lists, dictionaries with text keys, tuples, numbers, text, bytes and `Made` nodes.

    Raises InputError for anything else.
    """
    with _blaming_the_message():
        return _interpret(data)


@contextmanager
def _blaming_the_message() -> Iterator[None]:
    """Whatever goes wrong inside is the message's fault, however it manages to be wrong."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"The message is no pickle of LeRobot's client ({type(error).__name__}).") from None


def _interpret(data: bytes) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    argument: Any
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if count > _MOST_OPCODES:
            raise InputError(f"The message has more than {_MOST_OPCODES} parts, more than any observation.")
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                (result,) = stack
                return result
            case "MARK":
                stack.append(_Mark)
            case constant if constant in _CONSTANTS:
                stack.append(_CONSTANTS[constant])
            case code if code in _VALUES:
                stack.append(argument)
            case "BYTEARRAY8":
                stack.append(bytes(argument))
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case code if code in _TUPLES:
                start = _above_marks(stack, _TUPLES[code])
                stack[start:] = [tuple(stack[start:])]
            case "TUPLE":
                stack.append(tuple(_to_mark(stack)))
            case "APPEND":
                value = stack.pop()
                _fill_list(stack[-1], [value])
            case "APPENDS":
                values = _to_mark(stack)
                _fill_list(stack[-1], values)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _fill_dict(stack[-1], [key, value])
            case "SETITEMS":
                values = _to_mark(stack)
                _fill_dict(stack[-1], values)
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_known(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_known(module, name))
            case "REDUCE" | "NEWOBJ":
                args, name = stack.pop(), stack.pop()
                stack.append(_make(name, args))
            case "BUILD":
                state = stack.pop()
                _build(stack[-1], state)
            case other:
                raise InputError(
                    f"The message uses the pickle opcode {other}, which LeRobot's client never sends."
                )
    raise InputError("The message ends too early.")


def _known(module: Any, name: Any) -> _Name:
    if (module, name) not in KNOWN:
        raise InputError(
            f"The message names {str(module)[:60]}.{str(name)[:60]}; only LeRobot's observations, made of numbers, "
            "text and NumPy arrays, are read."
        )
    return _Name(module, name)


def _make(name: Any, args: Any) -> Made:
    if not isinstance(name, _Name) or not isinstance(args, tuple):
        raise InputError("The message calls something that has no name.")
    return Made(name.name, args)


def _build(made: Any, state: Any) -> None:
    if not isinstance(made, Made) or made.state is not None:
        raise InputError("The message fills something that cannot be filled.")
    made.state = state


def _above_marks(stack: list[Any], count: int) -> int:
    start = len(stack) - count
    if start < 0 or any(value is _Mark for value in stack[start:]):
        raise InputError("The message takes more from its stack than there is.")
    return start


def _to_mark(stack: list[Any]) -> list[Any]:
    values: list[Any] = []
    while (value := stack.pop()) is not _Mark:
        values.append(value)
    return values[::-1]


def _fill_list(target: Any, values: list[Any]) -> None:
    if not isinstance(target, list):
        raise InputError("The message appends to something that is no list.")
    target.extend(values)


def _fill_dict(target: Any, values: list[Any]) -> None:
    keys, entries = values[::2], values[1::2]
    if not isinstance(target, dict) or not all(isinstance(key, str) for key in keys):
        raise InputError("The message has a dictionary whose keys are no text.")
    target.update(zip(keys, entries, strict=True))


# ------------------------------------------------------------- what nodes mean


def attributes(node: Any, name: str) -> dict[str, Any]:
    """The fields of an object of LeRobot's class `name`. Raises InputError if the message is something else."""
    if not isinstance(node, Made) or node.name != name or node.args or not isinstance(node.state, dict):
        raise InputError(f"The message is no {name}.")
    return node.state


def value(node: Any) -> Any:
    """A number, text or array (a NumPy array of booleans or numbers); anything else comes as None.

    Raises InputError for arrays that are not what they claim, and numbers beyond 64 bits.
    """
    with _blaming_the_message():
        match node:
            case bool() | float() | str():
                return node
            case int() if -_LARGEST <= node < _LARGEST:
                return node
            case int():
                raise InputError("The message has a number of more than 64 bits.")
            case Made("_reconstruct", _, (_, shape, dtype, fortran, raw)):
                return _array(raw, dtype, shape, "F" if fortran else "C")
            case Made("_frombuffer", (raw, dtype, shape, order)):
                return _array(raw, dtype, shape, order)
            case Made("scalar", (dtype, raw)):
                return _array(raw, dtype, (), "C").item()
            case Made():
                raise InputError(
                    f"The message has a {node.name[:40]} where a number, text or an array belongs."
                )
    return None


def _array(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, Made) or dtype.name != "dtype" or not isinstance(dtype.args[0], str):
        raise InputError("The message has an array of unknown type.")
    code = dtype.args[0]
    if code[:1] not in _DTYPE_KINDS or code[1:] not in ("1", "2", "4", "8"):
        raise InputError(f"The message has an array of {code[:20]!r}; only booleans and numbers are read.")
    big_endian = isinstance(dtype.state, tuple) and dtype.state[1] == ">"
    kind = np.dtype(code).newbyteorder(">" if big_endian else "<")
    sizes = isinstance(shape, tuple) and len(shape) <= 4 and all(type(n) is int and n >= 0 for n in shape)
    if (
        not isinstance(raw, bytes)
        or not sizes
        or prod(shape) * kind.itemsize != len(raw)
        or order not in "CF"
    ):
        raise InputError("The message has an array whose bytes do not fit its shape.")
    return np.frombuffer(raw, kind).reshape(shape, order=order).astype(kind.newbyteorder("="))
