"""`spatialvla <verb>`: reads the command line, runs one verb, and turns errors into one line."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from rich.table import Table

import spatialvla
from spatialvla.cli import renamed
from spatialvla.cli.calibrate import Calibrate
from spatialvla.cli.compare import Compare
from spatialvla.cli.data.convert import Convert
from spatialvla.cli.data.grid import Grid
from spatialvla.cli.data.inspect import Inspect
from spatialvla.cli.data.statistics import Statistics
from spatialvla.cli.demo import Demo
from spatialvla.cli.doctor import Doctor
from spatialvla.cli.evaluate import Evaluate
from spatialvla.cli.export import Export
from spatialvla.cli.finetune import Finetune
from spatialvla.cli.predict import Predict
from spatialvla.cli.pretrain import Pretrain
from spatialvla.cli.record import Record
from spatialvla.cli.results import ShowResults
from spatialvla.cli.serve import Serve
from spatialvla.cli.train import Train
from spatialvla.cli.train_depth import TrainDepth
from spatialvla.cli.verb import Verb
from spatialvla.common.terminal import LogFormatter, Terminal, shown
from spatialvla.common.waiting_threads import let_threads_sleep
from spatialvla.errors import CheckpointError, InputError, NotFiniteError

VERBS: Mapping[str, type[Verb]] = {
    "demo": Demo,
    "predict": Predict,
    "serve": Serve,
    "evaluate": Evaluate,
    "compare": Compare,
    "results": ShowResults,
    "train": Train,
    "finetune": Finetune,
    "pretrain": Pretrain,
    "export": Export,
    "record": Record,
    "train-depth": TrainDepth,
    "data inspect": Inspect,
    "data convert": Convert,
    "data statistics": Statistics,
    "data grid": Grid,
    "calibrate": Calibrate,
    "doctor": Doctor,
}
"""All verbs, in the order of the help."""

_DESCRIPTIONS = {
    "": "SpatialVLA: an RGB image and an instruction in, a chunk of 7-DoF robot actions out.",
    "data": "Look at datasets, convert them, and see the statistics and the action grid that fit them.",
}

_VERBOSE = "--verbose"

# Where the disk or its permissions are to blame, the system's own sentence says what to do.
_DISK_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `spatialvla`; exits with 2 and one line on stderr where the input cannot be used.

    --verbose, wherever it stands, adds what our rooms log at all, and the traceback above the line.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a plain terminal gets the numbers without the Δ
    let_threads_sleep()
    words = sys.argv[1:] if arguments is None else list(arguments)
    verbose = _VERBOSE in words
    if verbose:
        handler = logging.StreamHandler()
        handler.setFormatter(LogFormatter("%(asctime)s %(name)s: %(message)s"))
        logging.basicConfig(handlers=[handler])
        for room in ("spatialvla", "spatialvla_client"):
            logging.getLogger(room).setLevel(logging.DEBUG)
    try:
        _run([word for word in words if word != _VERBOSE])
    except (InputError, CheckpointError, NotFiniteError) as error:
        _fail(str(error), code=2, trace=verbose)
    except BrokenPipeError:  # `spatialvla … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        _fail(str(error), code=2, trace=verbose)
    except KeyboardInterrupt:
        _fail("interrupted", code=130, trace=verbose)


def _run(arguments: list[str]) -> None:
    """Raises InputError where the first words name no verb."""
    match arguments:
        case [] | ["-h" | "--help"] | ["data"] | ["data", "-h" | "--help"]:
            _print_help("data" if "data" in arguments else "")
        case ["--version"]:
            print(f"spatialvla {spatialvla.__version__}")
        case _:
            name, rest = _named(arguments)
            if (sentence := renamed.renamed(name, rest)) is not None:
                raise InputError(sentence)
            VERBS[name].parse(rest, f"spatialvla {name}").run()


def _named(arguments: list[str]) -> tuple[str, list[str]]:
    """The verb that the first one or two words name, and the arguments behind it."""
    for count in (1, 2):
        name = " ".join(arguments[:count])
        if name in VERBS:
            return name, arguments[count:]
    first = arguments[0]
    if first in renamed.VERBS:
        new = renamed.VERBS[first]
        raise InputError(f"`{first}` is now `{new}`; see spatialvla {new} --help.")
    wanted = " ".join(arguments[:2]) if first == "data" else first
    near = get_close_matches(wanted, VERBS, n=1)
    hint = f"did you mean `{near[0]}`?" if near else "see spatialvla --help."
    raise InputError(f"There is no verb `{wanted}`; {hint}")


def _print_help(prefix: str) -> None:
    """Lists the verbs that begin with `prefix`."""
    table = Table.grid(padding=(0, 2))
    for name, kind in VERBS.items():
        if name.startswith(prefix):
            table.add_row(f"  {name}", (kind.__doc__ or "").partition("\n")[0])
    console = Terminal()
    console.print(
        f"usage: spatialvla {prefix or '[--help] [--version]'} VERB [--verbose] [OPTIONS]", markup=False
    )
    console.print(f"\n{_DESCRIPTIONS[prefix]}\n")
    console.print(table)
    console.print("\nspatialvla VERB --help shows a verb's options and the values they have.")


def _fail(message: str, code: int, trace: bool) -> None:
    if trace:
        traceback.print_exc()
    print(f"spatialvla: {shown(message)}", file=sys.stderr)
    sys.exit(code)
