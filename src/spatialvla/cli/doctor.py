"""`spatialvla doctor`: what is installed, what this machine has, and what to install."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from spatialvla.cli.diagnosis import Finding, diagnose
from spatialvla.cli.verb import Verb

_BROKEN = 1


@dataclass(frozen=True)
class Doctor(Verb):
    """Look at the installation, and say what to install.

    Versions, devices, kernels, renderers, extras and caches. The exit code is 1 where something is broken; an
    extra that is not installed is none.
    """

    json: bool = False
    """Print the findings as one JSON object."""

    def run(self) -> None:
        """Prints what was found; exits with 1 where something is broken."""
        found = diagnose()
        broken = sum(finding.broken for findings in found.values() for finding in findings)
        print(_document(found) if self.json else _page(found, broken))
        if broken:
            sys.exit(_BROKEN)


def _page(found: Mapping[str, Sequence[Finding]], broken: int) -> str:
    lines = []
    for title, findings in found.items():
        lines.append(f"{title}")
        for finding in findings:
            lines.append(f"  {_mark(finding)} {finding.text}")
            if finding.advice:
                lines.append(f"      to mend it: {finding.advice}")
        lines.append("")
    return "\n".join([*lines, f"{broken} broken." if broken else "Nothing is broken."])


def _mark(finding: Finding) -> str:
    """Plain letters, which any terminal has."""
    return "!!" if finding.broken else "--" if finding.advice else "ok"


def _document(found: Mapping[str, Sequence[Finding]]) -> str:
    return json.dumps({title: [asdict(finding) for finding in findings] for title, findings in found.items()})
