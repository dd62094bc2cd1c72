"""The names users import: typed, loaded when first used, and light to import."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import spatialvla
import spatialvla_client

ROOT = Path(__file__).parents[1]
NAMES = {
    "ActionChunk",
    "ActionGrid",
    "Batch",
    "CameraImage",
    "CheckpointError",
    "Execution",
    "InputError",
    "NotFiniteError",
    "Observation",
    "Optimization",
    "Policy",
    "Processor",
    "SpatialVLA",
    "SpatialVLAConfig",
    "Uncertainty",
    "adapt_embeddings",
}

USERS_SCRIPT = """
import numpy as np
import spatialvla_client
from spatialvla import (
    ActionChunk, ActionGrid, Batch, CheckpointError, Execution, InputError, Observation, Optimization,
    Policy, Processor, SpatialVLA, SpatialVLAConfig, __version__, adapt_embeddings,
)

image = np.zeros((8, 8, 3), np.uint8)
policy: Policy = Policy.from_pretrained(
    "nano", execution=Execution("receding", steps=2), optimization=Optimization(weights="int8")
)
try:
    chunk: ActionChunk = policy.act(Observation(image, "pick up the bowl", intrinsics=np.diag([8.0, 8, 1])))
except (InputError, CheckpointError) as error:
    print(error, __version__)
model: SpatialVLA = SpatialVLA.from_pretrained("nano")
config: SpatialVLAConfig = model.config
batch: Batch = Processor.from_pretrained("nano")([image], ["pick up the bowl"], dataset="libero")
grid: ActionGrid = ActionGrid.fit(np.zeros((10, 7)))
table: np.ndarray = adapt_embeddings(np.zeros((grid.size, 8)), grid, grid)

policy.nonsense()  # error: attr-defined
chunk.action  # error: attr-defined
Observation("picture.png", "pick up the bowl")  # error: arg-type
policy.act(image)  # error: arg-type
Execution("sometimes")  # error: arg-type
Optimization(weights="int3")  # error: arg-type
SpatialVLA.from_pretrained("nano", optimise=True)  # error: call-arg
model.generate(image)  # error: arg-type
config.nonsense  # error: attr-defined
spatialvla_client.Client("ws://127.0.0.1:8000").act(image)  # error: arg-type
"""


def test_every_public_name_is_there():
    assert set(spatialvla.__all__) == NAMES
    for name in NAMES:
        assert getattr(spatialvla, name).__name__ == name
    assert set(dir(spatialvla)) >= NAMES


def test_importing_it_loads_nothing_heavy():
    program = (
        "import sys; before = {name.partition('.')[0] for name in sys.modules}; import spatialvla;"
        "after = {name.partition('.')[0] for name in sys.modules};"
        "print(*(after - before - sys.stdlib_module_names))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert set(loaded.stdout.split()) == {"spatialvla", "lazy_loader"}


def test_versions_are_those_of_the_distributions():
    assert spatialvla.__version__ == version("spatialvla")
    assert spatialvla_client.__version__ == version("spatialvla-client")


def test_strict_type_checking_of_a_users_script(tmp_path):
    """mypy accepts right use and finds an error in each line that is marked with one, and in no other."""
    script = tmp_path / "users_script.py"
    script.write_text(USERS_SCRIPT)
    sources = ":".join(str(Path(package.__file__).parents[1]) for package in (spatialvla, spatialvla_client))
    checked = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", script.name),
            *("--cache-dir", ROOT / ".mypy_cache" / "users_script"),
        ],
        cwd=tmp_path,
        env={"MYPYPATH": sources},
        capture_output=True,
        text=True,
    )
    found = set(re.findall(r"^users_script\.py:(\d+): error: .*\[([\w-]+)\]$", checked.stdout, re.MULTILINE))
    marked = {
        (str(number), code)
        for number, line in enumerate(USERS_SCRIPT.splitlines(), 1)
        for code in re.findall(r"# error: ([\w-]+)", line)
    }
    assert found == marked, checked.stdout + checked.stderr
