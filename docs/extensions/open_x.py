"""Write the table of docs/reference/open-x.md: each dataset's cameras beside the first, its state, its calibration.

python docs/extensions/open_x.py
"""

import re
from pathlib import Path

from spatialvla.data.oxe.mixtures import MIXTURES
from spatialvla.data.oxe.spec import RLDSSpec
from spatialvla.data.oxe.specs import SPECS

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "open-x.md"
BEGIN, END = "<!-- table: cameras and states -->\n", "<!-- end of the table -->"
HEAD = "| dataset | first camera | others | state | its numbers | calibration |\n|---|---|---|---|---|---|\n"
RANGE = re.compile(r"\b((?:joint|state)_\d)(?: (?:joint|state)_\d)+ ((?:joint|state)_\d)\b")
"""Three names or more that are counted on."""

CALIBRATION = {
    "bridge_orig": "K and place of the first, nominal: SimplerEnv",
    "droid": "[files of its authors](#where-droids-cameras-stand)",
}
"""Where it is published; the page says more of each."""


def page() -> str:
    """The page with the table as the specs have it."""
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    rows = [row(SPECS[name]) for name in MIXTURES["oxe_spatial_vla_plus"]]
    return before + BEGIN + HEAD + "".join(f"{line}\n" for line in rows) + END + after


def row(spec: RLDSSpec) -> str:
    """Of one dataset. Keys are those of an observation."""
    others = "<br>".join(f"{name}: {short(camera.image)}" for name, camera in spec.cameras.items())
    numbers = "" if spec.state is None else RANGE.sub(r"\1 … \2", " ".join(spec.state.names))
    features = "" if spec.state is None else ", ".join(map(short, spec.state.features))
    name = spec.name.removesuffix("_dataset_converted_externally_to_rlds").removesuffix(
        "_converted_externally_to_rlds"
    )
    cells = [f"`{name}`", short(spec.image), others, features, numbers, CALIBRATION.get(spec.name, "")]
    return "| " + " | ".join(cell or "–" for cell in cells) + " |"


def short(key: str) -> str:
    """A key as code, without what all of them begin with."""
    return f"`{key.removeprefix('observation/')}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
