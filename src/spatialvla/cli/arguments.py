"""The words of a command line -> options, by tyro, whose boxes of errors become one sentence."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from inspect import cleandoc
from itertools import takewhile
from typing import TypeVar
from unittest.mock import patch

import tyro

from spatialvla.errors import InputError

T = TypeVar("T")

_HELP = ("-h", "--help")
_VERBOSE = "With --verbose it also says what it does, and shows the whole traceback of an error."


def parse_options(kind: type[T], arguments: Sequence[str], program: str, default: T | None = None) -> T:
    """The options as `arguments` tell them; exits where help is asked for.

    program: what usage calls it, such as "spatialvla predict". default: what is not given.
    Raises InputError where they cannot be read.
    """
    description = f"{cleandoc(kind.__doc__ or '')}\n\n{_VERBOSE}"
    with _one_sentence(arguments, program):
        if default is None:
            return tyro.cli(kind, prog=program, args=arguments, description=description)
        return tyro.cli(kind, prog=program, args=arguments, description=description, default=default)


def read_first(kind: type[T], arguments: Sequence[str], program: str) -> T:
    """Some options alone, for a verb whose other values follow from them; other arguments are passed over.

    Raises InputError where these options cannot be read.
    """
    with _one_sentence(arguments, program):
        found = tyro.cli(kind, prog=program, args=arguments, add_help=False, return_unknown_args=True)
    return found[0]


def gathered(arguments: Sequence[str], option: str) -> list[str]:
    """The same words where an option of several values may be given several times: all its values behind one of them.

    Otherwise the last one alone would count.
    """
    others: list[str] = []
    values: list[str] = []
    taking = False
    for word in arguments:
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == option:
            taking = not equals
            values += [value] if equals else []
        elif taking and not word.startswith("-"):
            values.append(word)
        else:
            taking = False
            others.append(word)
    return [*others, option, *values] if values else list(arguments)


@contextmanager
def _one_sentence(arguments: Sequence[str], program: str) -> Iterator[None]:
    """Raises InputError for what tyro would draw a box of, and exit."""
    if any(word in _HELP for word in arguments):
        yield  # as wide as the terminal
        return
    box = io.StringIO()
    try:
        # So wide that no word is broken.
        with redirect_stderr(box), patch.dict(os.environ, COLUMNS="1000000"):
            yield
    except SystemExit as ended:
        if not ended.code:
            raise
        raise InputError(sentence(box.getvalue(), arguments, program)) from None


def sentence(box: str, arguments: Sequence[str], program: str) -> str:
    """What a box of tyro's says: what is missing, unknown or wrong, and where the options are listed."""
    blocks = _blocks(box)
    verb, see = f"`{program.removeprefix('spatialvla ')}`", f"see {program} --help."
    missing = [_name(line) for line in _below("Missing from", blocks) if re.match(r" {4}\S", line)]
    unknown = _unknown(blocks)
    near = [_name(line) for line in _below("Perhaps you meant", blocks) if re.match(r" {4}-", line)]
    if unknown:
        what = "has no option" if unknown[0].startswith("-") else "takes no further word"
        need = f" and needs {', '.join(missing)}" if missing else ""
        hint = f"did you mean {near[0]}?" if near else see
        return f"{verb} {what} {', '.join(unknown)}{need}; {hint}"
    if missing:
        return f"{verb} needs {', '.join(missing)}; {see}"
    text = " ".join(line.strip() for line in blocks[0])
    if chosen := re.match(r"invalid choice (.+) for argument '(\S+)'. Expected one of \((.*)\)", text):
        value, option, choices = chosen.groups()
        named = sorted(set(re.findall(r"'([^']*)'", choices)) - {"None"})  # tyro's order may be any
        return f"{option} takes one of {', '.join(named)}, not {value}; {see}"
    if wrong := re.match(r"Error parsing (\S+?)(/\S+)?:", text):
        if len(blocks) < 2 or len(blocks[1]) < 2:  # values that do not go together: a sentence of ours
            return text[wrong.end() :].strip()
        kind = re.sub(r"\{None\}\|?|[{}]", "", " ".join(blocks[1][1].split()[1:]))
        return f"{wrong[1]} takes {kind}, not {_given(wrong[1], arguments)!r}; {see}"
    if lacking := re.match(r"Missing value for argument '(\S+)'", text):
        return f"{lacking[1]} lacks its value; {see}"
    return f"{text[:1].upper()}{text[1:].rstrip('.').replace('. Expected', '; expected')}; {see}"


def _blocks(box: str) -> list[list[str]]:
    """The lines of a box, without its frame, parted where it has rules."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    blocks: list[list[str]] = [[]]
    for line in plain.splitlines()[1:-1]:
        inside = line[1:-1].rstrip().removeprefix(" ")
        if re.fullmatch(r" *(─+|-+)", inside):
            blocks.append([])
        elif inside:
            blocks[-1].append(inside)
    return [block for block in blocks if block] or [[plain]]


def _below(start: str, blocks: list[list[str]]) -> list[str]:
    """The lines of the block that begins so, without its first."""
    return next((block[1:] for block in blocks if block[0].startswith(start)), [])


def _unknown(blocks: list[list[str]]) -> list[str]:
    """Words that name no option; options alone where there are any, not what stands behind them."""
    block = next((block for block in blocks if block[0].startswith("Unrecognized options")), [":"])
    words = [word.strip() for word in [*block[0].partition(":")[2].split(","), *block[1:]] if word.strip()]
    return [word for word in words if word.startswith("-")] or words


def _given(option: str, arguments: Sequence[str]) -> str:
    """What stands behind an option."""
    for number, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == option:
            behind = (
                [value]
                if equals
                else list(takewhile(lambda w: not w.startswith("--"), arguments[number + 1 :]))
            )
            return " ".join(behind)
    return ""


def _name(line: str) -> str:
    """An option or argument of a box, without its value and other spellings."""
    return line.split()[0].rstrip(",")
