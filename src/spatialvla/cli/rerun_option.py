"""The option --rerun of the verbs that record for Rerun's viewer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spatialvla.common.extras import needs_extra

if TYPE_CHECKING:
    from spatialvla.viz.rerun.destination import Destination


def destination(where: str | None) -> Destination | None:
    """Where recordings go, as `Destination.parse` reads it; None where none were asked for.

    Raises InputError where Rerun is not installed, and where no viewer answers.
    """
    if where is None:
        return None
    with needs_extra("rerun", "Recording for Rerun"):
        import rerun  # noqa: F401
    from spatialvla.viz.rerun.destination import Destination

    return Destination.parse(where)
