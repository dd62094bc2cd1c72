"""`spatialvla <verb>`: reads the command line, runs one verb, and turns errors into one line."""

from __future__ import annotations

import errno
import sys
from typing import Annotated, Protocol

import tyro
from tyro.conf import OmitSubcommandPrefixes, subcommand

from spatialvla.cli.data import Data
from spatialvla.cli.demo import Demo
from spatialvla.cli.evaluate import Evaluate
from spatialvla.cli.export import Export
from spatialvla.cli.finetune import Finetune
from spatialvla.cli.grid import Grid
from spatialvla.cli.predict import Predict
from spatialvla.cli.pretrain import Pretrain
from spatialvla.cli.record import Demos
from spatialvla.cli.results import ResultsVerb
from spatialvla.cli.serve import Serve
from spatialvla.cli.train import Train
from spatialvla.cli.train_depth import Depth
from spatialvla.errors import CheckpointError, InputError

_Command = (
    Annotated[Demo, subcommand("demo")]
    | Annotated[Predict, subcommand("predict")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[ResultsVerb, subcommand("results")]
    | Annotated[Serve, subcommand("serve")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Pretrain, subcommand("pretrain")]
    | Annotated[Finetune, subcommand("finetune")]
    | Annotated[Export, subcommand("export")]
    | Annotated[Demos, subcommand("demos")]
    | Annotated[Depth, subcommand("depth")]
    | Annotated[Data, subcommand("data")]
    | Annotated[Grid, subcommand("grid")]
)

_DESCRIPTION = "SpatialVLA: an RGB image and an instruction in, a chunk of 7-DoF robot actions out."

# Where the disk or its permissions are to blame, the system's own sentence says what to do.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR}


class _Verb(Protocol):
    def run(self) -> None: ...


def main(arguments: list[str] | None = None) -> None:
    """Runs `spatialvla`; exits with 2 and one line on stderr where the input cannot be used."""
    verb: _Verb = tyro.cli(
        _Command,
        prog="spatialvla",
        description=_DESCRIPTION,
        args=arguments,
        config=(OmitSubcommandPrefixes,),
    )
    try:
        verb.run()
    except (InputError, CheckpointError) as error:
        _fail(str(error), code=2)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        _fail(str(error), code=2)
    except KeyboardInterrupt:
        _fail("interrupted", code=130)


def _fail(message: str, code: int) -> None:
    print(f"spatialvla: {message}", file=sys.stderr)
    sys.exit(code)
