"""How unsure the policy may become in an episode before the server sends nothing more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spatialvla.actions.units import ActionUnits
from spatialvla.errors import InputError
from spatialvla.types import Uncertainty


@dataclass(frozen=True)
class StopAbove:
    """Send nothing more in an episode whose decisions are less sure than this on average; needs --uncertainty."""

    mm: float | None = None
    """Spread of the translation in millimeters."""

    bits: float | None = None
    """Entropy of translation, rotation and gripper together."""

    def __post_init__(self) -> None:
        """Raises InputError for thresholds that stop all or nothing."""
        for name, value in vars(self).items():
            if value is not None and not 0 < value < np.inf:
                raise InputError(f"--stop-above.{name} must be a positive number, got {value}.")

    @property
    def asked(self) -> bool:
        """Whether there is a limit at all."""
        return self != GO_ON

    def describe(self) -> str:
        """What holds, in one sentence for whoever starts a server."""
        limits = {"mm of spread": self.mm, "bits of entropy": self.bits}
        most = " or ".join(f"{value:g} {unit}" for unit, value in limits.items() if value is not None)
        return f"Stops an episode whose decisions have more than {most} on average."

    def check_policy(self, tells: bool, units: ActionUnits) -> None:
        """Raises InputError where the policy does not tell what is asked for."""
        if self.asked and not tells:
            raise InputError(
                "The policy does not tell how sure it is; add --uncertainty, or leave out --stop-above."
            )
        if self.mm is not None and units.meters is None:
            raise InputError(
                "Nobody says what 1 in this policy's actions is, so its spread in millimeters is not known; "
                "use --stop-above.bits."
            )


GO_ON = StopAbove()
"""However unsure the policy is."""


class Sureness:
    """One episode's decisions, held against `StopAbove`; once stopped it stays stopped until `reset`."""

    def __init__(self, stop_above: StopAbove) -> None:
        self._stop_above = stop_above
        self.reset()

    def reset(self) -> None:
        """A new episode."""
        self._decisions = 0
        self._mm = self._bits = 0.0
        self._stopped: str | None = None

    def why_stop(self, uncertainty: Uncertainty) -> str | None:
        """Takes a decision in. A sentence where it, and all of the episode that follow, are not to be sent."""
        if self._stopped is None:
            self._decisions += 1
            self._mm += uncertainty.mean_mm
            self._bits += uncertainty.mean_bits
            self._stopped = self._reason()
        return self._stopped

    def _reason(self) -> str | None:
        for option, unit, most, total in (
            ("mm", "mm of spread", self._stop_above.mm, self._mm),
            ("bits", "bits of entropy", self._stop_above.bits, self._bits),
        ):
            mean = total / self._decisions
            if most is not None and not mean <= most:
                return (
                    f"The policy is too unsure to go on: {mean:.3g} {unit} on average in this episode, more than "
                    f"{most:g} (--stop-above.{option}); nothing is sent until the next episode begins."
                )
        return None
