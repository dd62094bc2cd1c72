"""`spatialvla doctor`: it says what is there, what is missing and what is broken, and exits by it."""

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest
from packaging.requirements import Requirement

from spatialvla.cli import diagnosis
from spatialvla.cli.diagnosis import Finding
from spatialvla.cli.main import main
from spatialvla.kernels import library
from spatialvla.kernels.library import Build


def texts(findings):
    return [finding.text for finding in findings]


def test_it_says_what_is_here(capsys):
    main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["Versions", "Devices", "Kernels", "Renderers", "Extras", "Caches"]
    told = {part: " ".join(finding["text"] for finding in findings) for part, findings in found.items()}
    assert f"torch {version('torch')}" in told["Versions"]
    assert told["Devices"].startswith("cpu: ")
    assert told["Kernels"].startswith("built by " if library.available() else "not built")
    assert "viz: matplotlib" in told["Extras"]
    assert not any(finding["broken"] for findings in found.values() for finding in findings)


def test_the_page_marks_what_is_missing_and_what_is_broken(capsys, monkeypatch):
    found = {"Parts": [Finding("a"), Finding("b", "install b"), Finding("c", "mend c", broken=True)]}
    monkeypatch.setattr("spatialvla.cli.doctor.diagnose", lambda: found)
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    assert ended.value.code == 1
    assert capsys.readouterr().out.split("\n") == [
        "Parts",
        "  ok a",
        "  -- b",
        "      to mend it: install b",
        "  !! c",
        "      to mend it: mend c",
        "",
        "1 broken.",
        "",
    ]


def test_what_is_missing_without_extras_is_named_with_the_command(monkeypatch):
    def nowhere(name):
        if name in ("matplotlib", "peft", "websockets"):
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(diagnosis, "version", nowhere)
    found = {finding.text.partition(":")[0]: finding for finding in diagnosis.extras()}
    assert set(found) >= {"libero", "simpler", "train", "serve", "vla-eval", "lerobot-server", "viz"}
    assert "dev" not in found
    assert found["viz"] == Finding("viz: matplotlib is missing", "pip install 'spatialvla[viz]'")
    for extra in ("serve", "vla-eval", "lerobot-server"):
        assert "websockets is missing" in found[extra].text
        assert found[extra].advice == f"pip install 'spatialvla[{extra}]'"


def test_a_dependency_that_is_too_old_is_broken(monkeypatch):
    asked = [Requirement("torch>=99"), Requirement("numpy>=1.26"), Requirement('a; extra == "b"')]
    monkeypatch.setattr(diagnosis, "_requirements", lambda: asked)
    *_, last = diagnosis.versions()
    assert last == Finding(f"torch is {version('torch')}, not >=99", "pip install 'torch>=99'", broken=True)


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        (Build(None, "this processor lacks AVX-512 with BF16 and VNNI"), ("", False)),
        (Build(None, "there is no C++ compiler, neither g++ nor clang++"), ("apt-get install g++", False)),
        (Build(None, "g++ cannot compile them (fatal error)", "g++"), ("", True)),
    ],
)
def test_kernels_that_are_not_built_have_a_reason(monkeypatch, built, expected):
    monkeypatch.setattr(library, "build", lambda: built)
    (finding,) = diagnosis.kernels()
    assert finding.text.endswith(built.reason)
    assert (finding.advice, finding.broken) == expected


def test_a_cache_has_its_size_and_one_that_cannot_be_written_is_broken(monkeypatch, tmp_path):
    (tmp_path / "spatialvla" / "frames").mkdir(parents=True)
    (tmp_path / "spatialvla" / "frames" / "a").write_bytes(bytes(3 * 2**20))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path / "spatialvla"))
    own, _, lerobot = diagnosis.caches()
    assert lerobot == Finding(f"LeRobot: {tmp_path}/spatialvla, 3 MiB")
    assert own == Finding(f"own: {tmp_path}/spatialvla, 3 MiB (frames 3 MiB)")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    own, *_ = diagnosis.caches()
    assert (own.advice, own.broken) == ("set XDG_CACHE_HOME", True)


def test_a_gpu_that_pytorch_is_not_built_for_is_broken(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(diagnosis.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    *_, last = diagnosis.devices()
    assert last.broken
    assert "install PyTorch for your CUDA" in last.advice


def test_a_renderer_that_does_not_draw_is_broken(monkeypatch):
    monkeypatch.setattr(diagnosis, "_loads", lambda library: True)
    monkeypatch.setattr(diagnosis, "_installed", lambda name: True)
    monkeypatch.setattr(diagnosis, "_DRAW", "raise RuntimeError('no display')")
    first, vulkan = diagnosis.renderers()
    assert first.broken
    assert first.text.endswith("does not draw (RuntimeError: no display)")
    assert vulkan.text.endswith("libvulkan.so.1 is here")


def test_a_reader_that_goes_away_ends_it_quietly():
    command = [sys.executable, "-m", "spatialvla", "train", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
