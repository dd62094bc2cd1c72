"""Both distributions as users get them: built, installed into a clean environment, and used outside the tree."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
DISTRIBUTIONS = {
    "spatialvla": (ROOT, "src"),
    "spatialvla_client": (ROOT / "packages" / "spatialvla-client", "packages/spatialvla-client/src"),
}
CLIENT_TESTS = ROOT / "packages" / "spatialvla-client" / "tests"

# A folder in PYTHONPATH would stand before what is installed.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run(*command: str | Path, folder: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheels() -> dict[str, Path]:
    """The wheel of each distribution, built from its sdist into dist/."""
    for old in DIST.glob("spatialvla*"):
        old.unlink()
    for folder, _ in DISTRIBUTIONS.values():
        run(sys.executable, "-m", "build", "--outdir", DIST, folder)
    return {name: next(DIST.glob(f"{name}-*.whl")) for name in DISTRIBUTIONS}


@pytest.fixture(scope="module")
def programs(wheels, tmp_path_factory) -> Path:
    """The programs of an environment that holds the two wheels and what they depend on, without extras."""
    folder = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", folder)
    run(folder / "bin" / "pip", "install", "-c", ROOT / "constraints.txt", *wheels.values())
    return folder / "bin"


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_wheel_holds_the_packages_files_and_no_others(wheels, name):
    _, source = DISTRIBUTIONS[name]
    tracked = run("git", "ls-files", f"{source}/{name}").split()
    packed = {
        file for file in ZipFile(wheels[name]).namelist() if not file.split("/")[0].endswith(".dist-info")
    }
    assert packed == {file.removeprefix(f"{source}/") for file in tracked}


def test_nano_predicts_from_the_wheel(programs, tmp_path):
    show = "import spatialvla, spatialvla_client as client; print(spatialvla.__file__, client.__file__)"
    files = run(programs / "python", "-c", show, folder=tmp_path).split()
    assert all(Path(file).is_relative_to(programs.parent) for file in files)
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "image.png")
    arguments = ["predict", "image.png", "pick up the black bowl", "--policy", "nano"]
    assert "gripper" in run(programs / "spatialvla", *arguments, folder=tmp_path)


def python310() -> Path:
    """Python 3.10, which ROS 2 Humble and JetPack 6 have: $PYTHON310, the system's or pyenv's."""
    named = os.environ.get("PYTHON310") or shutil.which("python3.10")
    candidates = [Path(named)] if named else []
    candidates += sorted(Path.home().glob(".pyenv/versions/3.10.*/bin/python"))
    for candidate in candidates:
        shown = subprocess.run([candidate, "-V"], env=ENVIRONMENT, capture_output=True, text=True)
        if shown.stdout.startswith("Python 3.10."):
            return candidate
    pytest.skip("there is no Python 3.10 here; name one in PYTHON310")


def test_the_client_passes_its_tests_on_python_3_10(wheels, tmp_path):
    run(python310(), "-m", "venv", tmp_path)
    programs = tmp_path / "bin"
    run(programs / "pip", "install", f"{wheels['spatialvla_client']}[dev]")
    options = ("-q", "-p", "no:cacheprovider", "-c", CLIENT_TESTS.parent / "pyproject.toml")
    assert "passed" in run(programs / "python", "-m", "pytest", *options, CLIENT_TESTS, folder=tmp_path)


def test_the_doctor_finds_nothing_broken_in_a_clean_environment(programs, tmp_path):
    said = run(programs / "spatialvla", "doctor", folder=tmp_path)
    assert said.endswith("Nothing is broken.\n")
    assert "viz: matplotlib is missing" in said
    assert "pip install 'spatialvla[viz]'" in said
