"""What there is on this machine for spatialvla: versions, devices, kernels, renderers, extras and caches."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from packaging.requirements import Requirement

_DISTRIBUTION = "spatialvla"
_NOT_FOR_USERS = ("dev", "docs")
_OFTEN_ASKED = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "av", "spatialvla-client")
_DRAW = "import mujoco; mujoco.GLContext(8, 8).make_current(); print('drawn')"


@dataclass(frozen=True)
class Finding:
    """One thing that is there, missing or broken. advice: what to do about it, where something can be done."""

    text: str
    advice: str = ""
    broken: bool = False


def diagnose() -> dict[str, list[Finding]]:
    """All findings, by what they are about. It takes some seconds, and compiles the kernels where they are not yet."""
    parts: Mapping[str, Callable[[], Iterable[Finding]]] = {
        "Versions": versions,
        "Devices": devices,
        "Kernels": kernels,
        "Renderers": renderers,
        "Extras": extras,
        "Caches": caches,
    }
    return {name: list(part()) for name, part in parts.items()}


def versions() -> Iterator[Finding]:
    """Python, the package and what it cannot do without."""
    yield Finding(f"Python {platform.python_version()} ({sys.executable}) on {platform.platform()}")
    needed = [need for need in _requirements() if need.marker is None or need.marker.evaluate()]
    lacking = {need.name: text for need in needed if (text := _lacks(need))}
    told = [name for name in (_DISTRIBUTION, *_OFTEN_ASKED) if name not in lacking]
    yield Finding(", ".join(f"{name} {version(name)}" for name in told))
    for need in needed:
        if need.name in lacking:
            yield Finding(lacking[need.name], f"pip install '{need.name}{need.specifier}'", broken=True)


def devices() -> Iterator[Finding]:
    """The processor and the GPUs that PyTorch sees."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    capability = torch.backends.cpu.get_cpu_capability()
    yield Finding(
        f"cpu: {_processor()}, {os.cpu_count()} cores, {_size(memory)} of memory, {torch.get_num_threads()} "
        f"threads; PyTorch uses {capability}"
    )
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        yield Finding(
            f"cuda:{index}: {gpu.name}, {_size(gpu.total_memory)} of memory, compute capability "
            f"{gpu.major}.{gpu.minor}; PyTorch is built for CUDA {torch.version.cuda}"
        )
    if not torch.cuda.is_available():
        seen = shutil.which("nvidia-smi") is not None
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        advice = "install PyTorch for your CUDA, see https://pytorch.org/get-started" if seen else ""
        yield Finding(f"no GPU that PyTorch, built {built}, can use", advice, broken=seen)


def kernels() -> Iterator[Finding]:
    """Our operators for a CPU: whether they are built, by what and for what."""
    from spatialvla.kernels.library import INSTRUCTION_SETS, build

    built = build()
    if built.library is not None:
        compiler = f"{built.compiler} ({_first_line(built.compiler, '--version')})"
        yield Finding(f"built by {compiler} for {', '.join(INSTRUCTION_SETS)}: {built.file}")
        yield Finding(f"matrix units (AMX), for products of many rows: {built.matrix_units}")
        return
    advice = "apt-get install g++" if "no C++ compiler" in built.reason else ""
    yield Finding(
        f"not built, PyTorch's own do the work: {built.reason}", advice, broken=bool(built.compiler)
    )


def renderers() -> Iterator[Finding]:
    """What draws the simulators' pictures."""
    if not _loads("libEGL.so.1"):
        yield Finding("EGL, for LIBERO: libEGL.so.1 is not here", "apt-get install libegl1 libgl1-mesa-dri")
    elif not _installed("mujoco"):
        yield Finding("EGL, for LIBERO: libEGL.so.1 is here; MuJoCo is not, so nothing was drawn")
    else:
        backend = os.environ.get("MUJOCO_GL") or "egl"
        problem = _drawing(backend)
        yield Finding(
            f"{backend}, for LIBERO: MuJoCo {problem or 'draws'}",
            "apt-get install libegl1 libgl1-mesa-dri, or set MUJOCO_GL" if problem else "",
            broken=bool(problem),
        )
    vulkan = _loads("libvulkan.so.1")
    yield Finding(
        f"Vulkan, for SimplerEnv: libvulkan.so.1 is {'' if vulkan else 'not '}here",
        "" if vulkan else "apt-get install libvulkan1 mesa-vulkan-drivers",
    )


def extras() -> Iterator[Finding]:
    """The optional parts, each with the versions of what it brings or what of it is missing."""
    for extra in metadata(_DISTRIBUTION).get_all("Provides-Extra") or []:
        if extra in _NOT_FOR_USERS:
            continue
        needs = list(_of_extra(extra))
        lacking = [text for need in needs if (text := _lacks(need))]
        if lacking:
            yield Finding(f"{extra}: {', '.join(lacking)}", f"pip install '{_DISTRIBUTION}[{extra}]'")
        else:
            there = ", ".join(f"{need.name} {version(need.name)}" for need in needs)
            yield Finding(f"{extra}: {there}")


def caches() -> Iterator[Finding]:
    """Where things that can be made or fetched again are kept, and how much they take."""
    from huggingface_hub import constants

    from spatialvla.common.cache_folder import cache_folder
    from spatialvla.data.lerobot.location import lerobot_home

    own, lerobot = cache_folder(), lerobot_home()
    yield _cache("own", own, {part.name: part for part in sorted(own.glob("*")) if part.is_dir()})
    yield _cache("Hugging Face Hub", Path(constants.HF_HUB_CACHE), {})
    if lerobot.exists():
        yield _cache("LeRobot", lerobot, {})


def _cache(name: str, folder: Path, parts: Mapping[str, Path]) -> Finding:
    inside = ", ".join(f"{part} {_size(_bytes(path))}" for part, path in parts.items())
    size = (
        f"{_size(_bytes(folder))}{f' ({inside})' if inside else ''}" if folder.exists() else "not there yet"
    )
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return Finding(f"{name}: {folder}, {size}")
    except OSError:
        pass
    variable = {"own": "XDG_CACHE_HOME", "LeRobot": "HF_LEROBOT_HOME"}.get(name, "HF_HOME")
    return Finding(f"{name}: {folder}, {size}, which cannot be written", f"set {variable}", broken=True)


def _requirements() -> list[Requirement]:
    return [Requirement(line) for line in requires(_DISTRIBUTION) or []]


def _of_extra(extra: str) -> Iterator[Requirement]:
    """What an extra needs, the extras that it names among it."""
    for need in _requirements():
        if need.marker is None or need.marker.evaluate() or not need.marker.evaluate({"extra": extra}):
            continue
        if need.name == _DISTRIBUTION:
            for other in sorted(need.extras):
                yield from _of_extra(other)
        else:
            yield need


def _lacks(need: Requirement) -> str:
    """What is wrong with a requirement; empty where it is met."""
    try:
        found = version(need.name)
    except PackageNotFoundError:
        return f"{need.name} is missing"
    return (
        ""
        if need.specifier.contains(found, prereleases=True)
        else f"{need.name} is {found}, not {need.specifier}"
    )


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def _loads(library: str) -> bool:
    try:
        return bool(ctypes.CDLL(library))
    except OSError:
        return False


def _drawing(backend: str) -> str:
    """What goes wrong where MuJoCo opens a picture to draw on; in a process of its own, which may crash."""
    command = [sys.executable, "-c", _DRAW]
    environment = os.environ | {"MUJOCO_GL": backend}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return "does not draw within a minute"
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return "" if "drawn" in done.stdout else f"does not draw ({last})"


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "of unknown version"
    return done.stdout.partition("\n")[0]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _bytes(folder: Path) -> int:
    """Of all files inside; those that vanish meanwhile, or may not be read, count nothing."""
    total = 0
    for place, _, files in os.walk(folder):
        for file in files:
            try:
                total += os.lstat(os.path.join(place, file)).st_size
            except OSError:
                continue
    return total


def _size(number: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"
